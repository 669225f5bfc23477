"""The events that only this room knows."""

from __future__ import annotations

from diptych.sim.events import Event
from diptych.sim.workloads.ask import Ask


class Asked(Event, frozen=True):
    """A client sends its request."""

    ask: Ask


class Tick(Event, frozen=True):
    """Time to look at queues and pages."""


class Landed(Event, frozen=True):
    """Some transfer on a link is complete, unless the link's load has changed since."""

    link: str
    change: int
