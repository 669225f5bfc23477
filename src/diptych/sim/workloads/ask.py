"""What a workload is made of: requests in order of arrival, and who asks again after an answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import msgspec

from diptych.sim.workloads.text import Text

SECOND_NS = 1_000_000_000


class BadWorkload(ValueError):
    """A workload that cannot be: names the field and its limit."""


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """One request of one client."""

    request: str
    at_ns: int
    """From the start of the workload."""
    text: Text
    """The prompt."""
    outputs: tuple[int, ...]
    """Tokens that each sequence will have, had it no limit."""
    tokens_max: int
    tenant: str = ""
    priority: int = 0
    turn: int = 0
    """Which turn of its conversation it is."""

    def __post_init__(self) -> None:
        if self.text.tokens < 1:
            raise BadWorkload(f"{self.request}: a prompt has at least 1 token")
        if self.tokens_max < 1 or not self.outputs or min(self.outputs) < 1:
            raise BadWorkload(f"{self.request}: an answer has at least 1 token")
        if self.at_ns < 0:
            raise BadWorkload(f"{self.request}: it arrives at {self.at_ns} ns; at least 0")

    def answer(self, sequence: int) -> str:
        """The name of the piece of text that this sequence adds."""
        return f"{self.request}/{sequence}"


class Workload(Protocol):
    total: int | None
    """Requests it will make in all, where it knows."""

    def asks(self) -> Iterator[Ask]:
        """Requests whose time is fixed beforehand, in order of arrival."""
        ...

    def ended(self, ask: Ask, now_ns: int, *, served: bool) -> Ask | None:
        """The next request of the client whose request ended at `now_ns` (with an answer, if `served`),
        if it has one."""
        ...


class Listed:
    """Requests with fixed arrival times: a trace, Poisson arrivals, bursts."""

    def __init__(self, asks: list[Ask]) -> None:
        self.total: int | None = len(asks)
        self._asks = sorted(asks, key=lambda ask: ask.at_ns)

    def asks(self) -> Iterator[Ask]:
        return iter(self._asks)

    def ended(self, ask: Ask, now_ns: int, *, served: bool) -> Ask | None:
        return None
