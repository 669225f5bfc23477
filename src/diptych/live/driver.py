"""The live side of a machine: facts in, actions performed in order, deadlines kept. For any machine.

A driver that stood still (its process was stopped, or the host was overloaded) finds its deadline long
overdue, and says so before anything else: `DriverStalled`. Otherwise it would take its own sleep for the
silence of its peers. How long it slept it cannot know; at most since it last ran, so that is what it says.
And before it tells any deadline it reads what has come meanwhile: peers that spoke were not silent.

Its clock is its own: a time that leaks into another process is wrong by years there, also on one host.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

from diptych.core.actions import Action
from diptych.core.facts import DeadlinePassed, DriverStalled, Fact
from diptych.live.log_file import Origin, Recorder

__all__ = ["STALL_NS", "Driver", "Machine", "own_clock"]

STALL_NS = 200_000_000
"""A deadline missed by more than this was missed by a stall; scheduling delays stay far below."""
_NS_PER_S = 1_000_000_000
_OFFSET_NS_MAX = 1 << 60
"""36 years: no two clocks are near each other, and their sums stay in 63 bits."""


class Machine(Protocol):
    """A machine of the core."""

    def step(self, now_ns: int, fact: Fact) -> tuple[Action, ...]: ...

    def next_deadline_ns(self) -> int | None: ...

    def check(self) -> None: ...


def own_clock() -> Callable[[], int]:
    """The monotonic clock, shifted by a random offset of its own."""
    offset_ns = secrets.randbelow(_OFFSET_NS_MAX)
    return lambda: time.monotonic_ns() + offset_ns


class Driver:
    """Runs one machine on the running asyncio loop; all calls are from the loop's thread.

    An exception of the machine or of `perform` is not caught: the process must end by it, because a
    machine whose actions were performed in part is no longer the one that its peers know.
    """

    def __init__(
        self,
        machine: Machine,
        perform: Callable[[Action], None],
        *,
        recorder: Recorder | None = None,
        checks: bool = False,
        clock_ns: Callable[[], int] | None = None,
        stall_ns: int = STALL_NS,
    ) -> None:
        """With `checks`, the machine's books are audited after every step. The clock is `own_clock()`
        where none is given."""
        self._machine = machine
        self._perform = perform
        self._recorder = recorder
        self._checks = checks
        self._clock_ns = clock_ns or own_clock()
        self._stall_ns = stall_ns
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[Fact, Origin | None]] = deque()
        self._stepping = False
        self._closed = False
        self._due_ns: int | None = None
        self._armed_ns = 0
        """When it last was seen to run: it may have stood still since."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due_ns = 0

    def start(self) -> None:
        """Arms the machine's first deadline."""
        self._arm()

    def feed(self, fact: Fact, origin: Origin | None = None) -> None:
        """Steps the machine with `fact` and performs what it asks. From inside `perform` the fact is
        kept until the actions in hand are done. `origin` is of a fact from another machine."""
        self._waiting.append((fact, origin))
        if self._stepping or self._closed:
            return
        self._stepping = True
        try:
            while self._waiting and not self._closed:
                self._step(*self._waiting.popleft())
        finally:
            self._stepping = False
        if not self._closed:
            self._arm()

    def close(self) -> None:
        """No more steps, whatever still arrives; the log ends in order."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._recorder is not None:
            self._recorder.close()

    def _step(self, fact: Fact, origin: Origin | None) -> None:
        now_ns = self._clock_ns()
        if self._due_ns is not None and now_ns - max(self._due_ns, self._armed_ns) > self._stall_ns:
            # Counted from the deadline alone, whoever was due then would be due again at once, though it
            # may have stood still just as long (a whole host that stops and goes on). And said once: a
            # deadline that no stall moves stays overdue for all that is read after it.
            stalled_ns, self._armed_ns = now_ns - self._armed_ns, now_ns
            self._step_at(now_ns, DriverStalled(duration_ns=stalled_ns), None)
            self._due_ns = self._machine.next_deadline_ns()
            if isinstance(fact, DeadlinePassed) and (self._due_ns is None or self._due_ns > now_ns):
                return
        self._step_at(now_ns, fact, origin)

    def _step_at(self, now_ns: int, fact: Fact, origin: Origin | None) -> None:
        try:
            actions = self._machine.step(now_ns, fact)
        except Exception as error:
            if self._recorder is not None:
                self._recorder.record_failure(now_ns, fact, origin, error)
            raise
        if self._recorder is not None:
            self._recorder.record(now_ns, fact, origin, actions)
        if self._checks:
            self._machine.check()
        for action in actions:
            self._perform(action)

    def _arm(self) -> None:
        """A timer that is armed for an earlier moment is left: it looks again when it fires."""
        due_ns = self._due_ns = self._machine.next_deadline_ns()
        self._armed_ns = self._clock_ns()
        if due_ns is None or (self._timer is not None and self._timer_due_ns <= due_ns):
            return
        if self._timer is not None:
            self._timer.cancel()
        wait_s = max(0, due_ns - self._armed_ns) / _NS_PER_S
        self._timer_due_ns = due_ns
        self._timer = self._loop.call_later(wait_s, self._fire)

    def _fire(self) -> None:
        """A loop that wakes late may run its timers before it looks at its sockets; two turns later it
        has read them."""
        self._timer = None
        self._loop.call_soon(self._loop.call_soon, self._tell_deadline)

    def _tell_deadline(self) -> None:
        if self._closed:
            return
        if self._due_ns is not None and self._due_ns <= self._clock_ns():
            self.feed(DeadlinePassed())
        else:
            self._arm()
