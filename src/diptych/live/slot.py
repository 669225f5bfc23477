"""A process that a supervisor keeps running."""

from __future__ import annotations

import asyncio

from diptych.live.child import Child

__all__ = ["Slot"]


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
