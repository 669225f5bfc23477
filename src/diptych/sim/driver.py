"""The simulated panel's driver: one loop for all machines, virtual time, nothing else.

Entries are (at_ns, serial, receiver, ...); the serial breaks ties by order of insertion, so a run is a
pure function of its scenario. What is on its way for just the usual latency comes in the order in which
it left: it stands in a line of its own, beside the heap of everything else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Protocol

from diptych.core.actions import Action
from diptych.core.facts import DeadlinePassed, DriverStalled, Fact
from diptych.sim.events import Alarm, Event, Resumed, Violation

Happening = Fact | Event
SPINS_MAX = 1000
"""Deadlines that one machine may name at one moment, in a row, before it counts as spinning."""
STALL_NS = 200_000_000
"""As `live.driver.STALL_NS`."""


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


STOP = "stop"
_STOP = Alarm()

Entry = tuple[int, int, str, str, Happening, object]
"""(at_ns, serial, receiver, sender, event, payload)"""


class Driver:
    def __init__(self, latency_ns: int = 0) -> None:
        """`latency_ns`: what most messages take."""
        self.now_ns = 0
        self.parties: dict[str, Party] = {}
        self.latency_ns = latency_ns
        self._heap: list[Entry] = []
        self._line: deque[Entry] = deque()
        self._serial = 0

    def at(self, at_ns: int, sender: str, receiver: str, event: Happening, payload: object = None) -> None:
        self._serial += 1
        now_ns = self.now_ns
        if at_ns == now_ns + self.latency_ns:
            self._line.append((at_ns, self._serial, receiver, sender, event, payload))
        else:
            if at_ns < now_ns:
                at_ns = now_ns
            heappush(self._heap, (at_ns, self._serial, receiver, sender, event, payload))

    def post(self, sender: str, receiver: str, event: Happening) -> None:
        """`at`, after the usual latency."""
        self._serial += 1
        self._line.append((self.now_ns + self.latency_ns, self._serial, receiver, sender, event, None))

    @property
    def events(self) -> int:
        """How many have come in all."""
        return self._serial - len(self._heap) - len(self._line)

    def stop(self) -> None:
        """After the event in hand: `run` returns. The serial makes it the first of its moment."""
        heappush(self._heap, (self.now_ns, 0, STOP, STOP, _STOP, None))

    def run(self, until: Callable[[], bool] | None, horizon_ns: int) -> bool:
        """Runs until `until()` holds (None: until `stop`) or the horizon is reached; says whether it did."""
        heap, line, parties = self._heap, self._line, self.parties
        while until is None or not until():
            if line and not (heap and heap[0] < line[0]):
                entry = line.popleft()
            elif heap:
                entry = heappop(heap)
            else:
                return False
            at_ns, _, receiver, sender, event, payload = entry
            if at_ns > horizon_ns:
                heappush(heap, entry)
                return False
            party = parties.get(receiver)
            if party is not None:
                self.now_ns = at_ns
                party.receive(at_ns, sender, event, payload)
            elif receiver is STOP:
                return True
        return True


Port = Callable[[str, Happening], tuple[Fact, ...]]
"""What an event from a sender is to the machine: nothing where it is late, a fact or two otherwise."""


def plain(sender: str, event: Happening) -> tuple[Fact, ...]:
    if not isinstance(event, Fact):
        raise Violation("machine cannot take it", f"{event} of {sender}")
    return (event,)


class Seat:
    """One incarnation of one machine: its inbox, its alarm, its clock, and whether its driver stands still.

    What it does about a missed deadline is what `live.driver` does.
    """

    def __init__(
        self,
        name: str,
        machine: Machine,
        driver: Driver,
        before: Callable[[int, str, Fact, object], None],
        perform: Callable[[int, Seat, str, Fact, tuple[Action, ...]], None],
        *,
        port: Port = plain,
        clock_ahead_ns: int = 0,
        stall_ns: int = STALL_NS,
    ) -> None:
        self.name = name
        self.machine = machine
        self.alive = True
        self.paused_ns: int | None = None
        """Since when the driver stands still."""
        self.paused_until_ns = 0
        self.steps = 0
        self._driver = driver
        self._before = before
        self._perform = perform
        self._port = port
        self.clock_ahead_ns = clock_ahead_ns
        self._stall_ns = stall_ns
        self._inbox: list[tuple[str, Happening, object]] = []
        self._alarm_ns: int | None = None
        self._due_ns: int | None = None
        self._armed_ns = 0
        self._spins = 0
        self._spun_ns = -1

    def receive(self, now_ns: int, sender: str, event: Happening, payload: object) -> None:
        if not self.alive:
            return
        if isinstance(event, Resumed):
            self._resume(now_ns)
        elif isinstance(event, Alarm):
            if self.paused_ns is None:
                self._alarm(now_ns)
        elif self.paused_ns is not None:
            self._inbox.append((sender, event, payload))
        else:
            self._take(now_ns, sender, event, payload)

    def pause(self, now_ns: int, until_ns: int) -> None:
        """Also what stands still already may have to stand still longer."""
        if self.paused_ns is None:
            self.paused_ns = now_ns
        self.paused_until_ns = max(self.paused_until_ns, until_ns)

    def _take(self, now_ns: int, sender: str, event: Happening, payload: object) -> None:
        for fact in self._port(sender, event):
            self._spins = 0
            self._step(now_ns, sender, fact, payload)

    def _resume(self, now_ns: int) -> None:
        """What its sockets hold is read first, then its timer is looked at."""
        if self.paused_ns is None or now_ns < self.paused_until_ns:
            return
        self.paused_ns = None
        waiting, self._inbox = self._inbox, []
        for sender, held, payload in waiting:
            self._take(now_ns, sender, held, payload)
        self._alarm(now_ns)

    def _alarm(self, now_ns: int) -> None:
        if self._alarm_ns is None or now_ns < self._alarm_ns:
            return
        self._alarm_ns = None
        deadline_ns = self._deadline_ns()
        if deadline_ns is not None and deadline_ns <= now_ns:
            self._spins = self._spins + 1 if now_ns == self._spun_ns else 1
            self._spun_ns = now_ns
            if self._spins > SPINS_MAX:
                raise Violation("deadline spins", f"{self.name} at {deadline_ns}")
            self._step(now_ns, self.name, DeadlinePassed(), None)
        else:
            self._set_alarm()

    def _step(self, now_ns: int, sender: str, fact: Fact, payload: object) -> None:
        due_ns = self._due_ns
        if due_ns is not None and now_ns - max(due_ns, self._armed_ns) > self._stall_ns:
            stalled = DriverStalled(duration_ns=now_ns - self._armed_ns)
            self._run(now_ns, self.name, stalled, None)
            self._set_alarm()
            due_ns = self._due_ns
            if isinstance(fact, DeadlinePassed) and (due_ns is None or due_ns > now_ns):
                return
        self._run(now_ns, sender, fact, payload)
        self._set_alarm()

    def _run(self, now_ns: int, sender: str, fact: Fact, payload: object) -> None:
        self._before(now_ns, sender, fact, payload)
        self.steps += 1
        actions = self.machine.step(now_ns + self.clock_ahead_ns, fact)
        self._perform(now_ns, self, sender, fact, actions)

    def _deadline_ns(self) -> int | None:
        deadline_ns = self.machine.next_deadline_ns()
        return None if deadline_ns is None else deadline_ns - self.clock_ahead_ns

    def _set_alarm(self) -> None:
        deadline_ns = self._due_ns = self._deadline_ns()
        self._armed_ns = self._driver.now_ns
        if deadline_ns is None or (self._alarm_ns is not None and self._alarm_ns <= deadline_ns):
            return
        self._alarm_ns = max(deadline_ns, self._driver.now_ns)
        self._driver.at(self._alarm_ns, self.name, self.name, Alarm())
