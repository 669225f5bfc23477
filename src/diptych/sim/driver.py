"""The simulated panel's driver: one loop for all machines, virtual time, nothing else.

Heap entries are (at_ns, serial, receiver, ...); the serial breaks ties by order of insertion, so a run
is a pure function of its scenario.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Protocol

from diptych.core.actions import Action
from diptych.core.facts import DeadlinePassed, DriverStalled, Fact
from diptych.sim.events import Alarm, Event, Resumed, Violation

Happening = Fact | Event
SPINS_MAX = 1000
"""Deadlines that one machine may name at one moment, in a row, before it counts as spinning."""


class Machine(Protocol):
    """The one verb of the core and what belongs to it."""

    def step(self, now_ns: int, fact: Fact) -> tuple[Action, ...]: ...

    def next_deadline_ns(self) -> int | None: ...

    def check(self) -> None: ...


class Party(Protocol):
    """Whoever has an inbox: a machine's seat, a door, the supervisor, the fault injector."""

    def receive(self, now_ns: int, sender: str, event: Happening, payload: object) -> None: ...


class Outside(Protocol):
    """What a door and the supervisor can do to the rest of the world."""

    def at(self, at_ns: int, sender: str, receiver: str, event: Happening) -> None: ...

    def send(self, sender: str, to: str, fact: Fact, payload: object = None) -> None: ...

    def last_arrival_ns(self, sender: str, receiver: str) -> int: ...


class Driver:
    def __init__(self) -> None:
        self.now_ns = 0
        self.events = 0
        self.parties: dict[str, Party] = {}
        self._heap: list[tuple[int, int, str, str, Happening, object]] = []
        self._serial = 0

    def at(self, at_ns: int, sender: str, receiver: str, event: Happening, payload: object = None) -> None:
        self._serial += 1
        heapq.heappush(self._heap, (max(at_ns, self.now_ns), self._serial, receiver, sender, event, payload))

    def run(self, until: Callable[[], bool], horizon_ns: int) -> bool:
        """Runs until `until()` holds or the horizon is reached; says whether it held."""
        while self._heap and self._heap[0][0] <= horizon_ns:
            if until():
                return True
            self.now_ns, _, receiver, sender, event, payload = heapq.heappop(self._heap)
            party = self.parties.get(receiver)
            if party is not None:
                self.events += 1
                party.receive(self.now_ns, sender, event, payload)
        return until()


class Seat:
    """One incarnation of one machine: its inbox, its alarm, and whether its process stands still."""

    def __init__(
        self,
        name: str,
        machine: Machine,
        driver: Driver,
        before: Callable[[int, str, Fact, object], None],
        perform: Callable[[int, Seat, str, Fact, tuple[Action, ...]], None],
    ) -> None:
        self.name = name
        self.machine = machine
        self.alive = True
        self.paused_ns: int | None = None
        self.steps = 0
        self._driver = driver
        self._before = before
        self._perform = perform
        self._inbox: list[tuple[str, Happening, object]] = []
        self._alarm_ns: int | None = None
        self._spins = 0
        self._spun_ns = -1

    def receive(self, now_ns: int, sender: str, event: Happening, payload: object) -> None:
        if not self.alive:
            return
        if isinstance(event, Resumed):
            self._resume(now_ns, event)
        elif self.paused_ns is not None:
            self._inbox.append((sender, event, payload))
        elif isinstance(event, Alarm):
            self._alarm(now_ns)
        elif isinstance(event, Fact):
            self._spins = 0
            self._step(now_ns, sender, event, payload)
        else:
            raise Violation("machine cannot take it", f"{self.name} {event}")

    def pause(self, now_ns: int) -> None:
        if self.paused_ns is None:
            self.paused_ns = now_ns

    def _resume(self, now_ns: int, event: Resumed) -> None:
        if self.paused_ns is None:
            return
        self.paused_ns = None
        self._step(now_ns, self.name, DriverStalled(duration_ns=event.duration_ns), None)
        waiting, self._inbox = self._inbox, []
        for sender, held, payload in waiting:
            self.receive(now_ns, sender, held, payload)

    def _alarm(self, now_ns: int) -> None:
        if self._alarm_ns is None or now_ns < self._alarm_ns:
            return
        self._alarm_ns = None
        deadline_ns = self.machine.next_deadline_ns()
        if deadline_ns is not None and deadline_ns <= now_ns:
            self._spins = self._spins + 1 if now_ns == self._spun_ns else 1
            self._spun_ns = now_ns
            if self._spins > SPINS_MAX:
                raise Violation("deadline spins", f"{self.name} at {deadline_ns}")
            self._step(now_ns, self.name, DeadlinePassed(), None)
        else:
            self._set_alarm()

    def _step(self, now_ns: int, sender: str, fact: Fact, payload: object) -> None:
        self._before(now_ns, sender, fact, payload)
        self.steps += 1
        actions = self.machine.step(now_ns, fact)
        self._perform(now_ns, self, sender, fact, actions)
        self._set_alarm()

    def _set_alarm(self) -> None:
        deadline_ns = self.machine.next_deadline_ns()
        if deadline_ns is None or (self._alarm_ns is not None and self._alarm_ns <= deadline_ns):
            return
        self._alarm_ns = max(deadline_ns, self._driver.now_ns)
        self._driver.at(self._alarm_ns, self.name, self.name, Alarm())
