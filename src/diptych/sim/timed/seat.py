"""A machine's inbox and alarm where nothing is attached to facts and no process stands still.

The same as `sim.driver.Seat` without what only the proving world needs: here facts pass by the ten
thousand a second.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from diptych.core.actions import Action, Send
from diptych.core.config import FOREVER_NS
from diptych.core.facts import DeadlinePassed, Fact
from diptych.sim.driver import SPINS_MAX, Driver, Machine
from diptych.sim.events import Alarm, Violation

Perform = Callable[[int, "TimedSeat", Action], None]
Watch = Callable[[int, "TimedSeat", str, Fact, tuple[Action, ...]], None]

_ALARM = Alarm()
_DEADLINE = DeadlinePassed()


class TimedSeat:
    """One incarnation of one machine; `send` and `perform` do what it asks for."""

    __slots__ = (
        "_alarm_ns",
        "_deadline",
        "_driver",
        "_perform",
        "_send",
        "_spins",
        "_spun_ns",
        "_step",
        "alive",
        "machine",
        "name",
        "watch",
    )

    def __init__(
        self,
        name: str,
        machine: Machine,
        driver: Driver,
        send: Callable[[str, str, Fact], None],
        perform: Mapping[type[Action], Perform],
    ) -> None:
        self.name = name
        self.machine = machine
        self.alive = True
        self.watch: Watch | None = None
        self._driver = driver
        self._send = send
        self._perform = perform
        self._step = machine.step
        self._deadline = machine.next_deadline_ns
        self._alarm_ns = FOREVER_NS
        self._spins = 0
        self._spun_ns = -1

    def receive(self, now_ns: int, sender: str, event: Any, payload: object) -> None:
        """A fact, or the alarm."""
        if event is _ALARM:
            if not self._due(now_ns):
                return
            event = _DEADLINE
        actions = self._step(now_ns, event)
        if self.watch is not None:
            self.watch(now_ns, self, sender, event, actions)
        for action in actions:
            if type(action) is Send:
                self._send(self.name, action.to, action.fact)
            else:
                self._perform[type(action)](now_ns, self, action)
        deadline_ns = self._deadline()
        if deadline_ns is not None and deadline_ns < self._alarm_ns:
            self._set(deadline_ns)

    def _set(self, deadline_ns: int) -> None:
        self._alarm_ns = max(deadline_ns, self._driver.now_ns)
        self._driver.at(self._alarm_ns, self.name, self.name, _ALARM)

    def _due(self, now_ns: int) -> bool:
        """Whether the machine's deadline has come. Alarms also come for deadlines that have moved on since:
        then it is set anew."""
        if now_ns < self._alarm_ns:
            return False
        self._alarm_ns = FOREVER_NS
        deadline_ns = self._deadline()
        if deadline_ns is None:
            return False
        if deadline_ns > now_ns:
            self._set(deadline_ns)
            return False
        self._spins = self._spins + 1 if now_ns == self._spun_ns else 1
        self._spun_ns = now_ns
        if self._spins > SPINS_MAX:
            raise Violation("deadline spins", f"{self.name} at {deadline_ns}")
        return True
