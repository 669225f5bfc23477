"""The `Worker` machine: prefill and decode over one ledger of pages."""

from diptych.core.worker.machine import Worker

__all__ = ["Worker"]
