"""How two values of the core differ, field by field, in words. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

__all__ = ["differences"]


def differences(expected: Any, got: Any, where: str) -> list[str]:
    """A line for each leaf that differs: path of fields, expected and got value. Empty where none does."""
    if expected == got:
        return []
    if isinstance(expected, msgspec.Struct) and type(expected) is type(got):
        return [
            line
            for name in expected.__struct_fields__
            for line in differences(getattr(expected, name), getattr(got, name), f"{where}.{name}")
        ]
    if isinstance(expected, tuple) and isinstance(got, tuple):
        return _of_items(expected, got, where)
    return [f"{where}: expected {expected!r}, got {got!r}"]


def _of_items(expected: Sequence[Any], got: Sequence[Any], where: str) -> list[str]:
    lines = [
        line
        for index, (one, other) in enumerate(zip(expected, got, strict=False))
        for line in differences(one, other, f"{where}[{index}]")
    ]
    common = min(len(expected), len(got))
    lines += [
        f"{where}[{common + i}]: expected {one!r}, got nothing" for i, one in enumerate(expected[common:])
    ]
    lines += [f"{where}[{common + i}]: expected nothing, got {one!r}" for i, one in enumerate(got[common:])]
    return lines
