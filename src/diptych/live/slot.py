"""A process that a supervisor keeps running."""

from __future__ import annotations

import asyncio

from diptych.live.child import Child

__all__ = ["Slot"]

RESTART_FIRST_S = 0.1
RESTART_LAST_S = 10.0
STABLE_S = 5.0
"""A process that lived so long starts its next pause from the beginning."""


class Slot:
    """A process that should run: its name stays, its incarnations come and go."""

    def __init__(self, name: str, module: str, core: int | None = None) -> None:
        self.name = name
        self.module = module
        self.core = core
        self.epoch = 0
        self.child: Child | None = None
        self.failures = 0
        self.restart: asyncio.TimerHandle | None = None

    @property
    def live(self) -> Child | None:
        """The process, if it runs and was told what it is."""
        return self.child if self.child is not None and self.child.launched else None

    @property
    def place(self) -> str:
        """For people."""
        return "" if self.core is None else f", core {self.core}"

    def died(self, lived_s: float) -> float:
        """Counts a death after so many seconds; returns how long to wait before the next start."""
        if lived_s > STABLE_S:
            self.failures = 0
        self.failures += 1
        return float(min(RESTART_LAST_S, RESTART_FIRST_S * 2 ** (self.failures - 1)))
