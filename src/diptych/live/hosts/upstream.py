"""What a host's agent does with what a supervisor would tell its own control."""

from __future__ import annotations

from typing import Protocol

from diptych.core.facts import Fact
from diptych.live.child import Child
from diptych.live.launch import ProcessStarted

__all__ = ["Upstream"]


class Upstream(Protocol):
    def tell(self, message: Fact | ProcessStarted) -> None: ...

    def launched(self, child: Child) -> None:
        """A worker takes connections from now on."""
        ...
