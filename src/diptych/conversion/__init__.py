"""Executing conversion plans: pages of one KV format into pages of another, where they lie."""

from __future__ import annotations

from diptych.conversion.execution import Conversion, instruction_sets

__all__ = ["Conversion", "instruction_sets"]
