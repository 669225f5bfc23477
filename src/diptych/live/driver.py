"""The live side of a machine: facts in, actions performed in order, deadlines kept. For any machine.

A driver that stood still (its process was stopped, or the host was overloaded) finds its timer long
overdue before it reads anything else, and says so first: `DriverStalled`. Otherwise it would take its
own sleep for the silence of its peers.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec

from diptych.core.actions import Action
from diptych.core.errors import DiptychError
from diptych.core.facts import DeadlinePassed, DriverStalled, Fact
from diptych.wire.messages import AnyFact

__all__ = ["STALL_NS", "Driver", "Machine", "Recorder", "ReplayDiffers", "replay"]

STALL_NS = 200_000_000
"""A deadline missed by more than this was missed by a stall; scheduling delays stay far below."""
_NS_PER_S = 1_000_000_000


class Machine(Protocol):
    """A machine of the core."""

    def step(self, now_ns: int, fact: Fact) -> tuple[Action, ...]: ...

    def next_deadline_ns(self) -> int | None: ...

    def check(self) -> None: ...


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
        clock_ns: Callable[[], int] = time.monotonic_ns,
        stall_ns: int = STALL_NS,
    ) -> None:
        """With `checks`, the machine's books are audited after every step."""
        self._machine = machine
        self._perform = perform
        self._recorder = recorder
        self._checks = checks
        self._clock_ns = clock_ns
        self._stall_ns = stall_ns
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[Fact] = deque()
        self._stepping = False
        self._closed = False
        self._due_ns: int | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due_ns = 0

    def start(self) -> None:
        """Arms the machine's first deadline."""
        self._arm()

    def feed(self, fact: Fact) -> None:
        """Steps the machine with `fact` and performs what it asks. From inside `perform` the fact is
        kept until the actions in hand are done."""
        self._waiting.append(fact)
        if self._stepping or self._closed:
            return
        self._stepping = True
        try:
            while self._waiting and not self._closed:
                self._step(self._waiting.popleft())
        finally:
            self._stepping = False
        if not self._closed:
            self._arm()

    def close(self) -> None:
        """No more steps, whatever still arrives; the recorder's file is closed."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._recorder is not None:
            self._recorder.close()

    def _step(self, fact: Fact) -> None:
        now_ns = self._clock_ns()
        if self._due_ns is not None and now_ns - self._due_ns > self._stall_ns:
            stalled_ns, self._due_ns = now_ns - self._due_ns, None
            self._step_at(now_ns, DriverStalled(duration_ns=stalled_ns))
            self._due_ns = self._machine.next_deadline_ns()
            if isinstance(fact, DeadlinePassed) and (self._due_ns is None or self._due_ns > now_ns):
                return
        self._step_at(now_ns, fact)

    def _step_at(self, now_ns: int, fact: Fact) -> None:
        actions = self._machine.step(now_ns, fact)
        if self._recorder is not None:
            self._recorder.record(now_ns, fact, actions)
        if self._checks:
            self._machine.check()
        for action in actions:
            self._perform(action)

    def _arm(self) -> None:
        """A timer that is armed for an earlier moment is left: it looks again when it fires."""
        due_ns = self._due_ns = self._machine.next_deadline_ns()
        if due_ns is None or (self._timer is not None and self._timer_due_ns <= due_ns):
            return
        if self._timer is not None:
            self._timer.cancel()
        wait_s = max(0, due_ns - self._clock_ns()) / _NS_PER_S
        self._timer_due_ns = due_ns
        self._timer = self._loop.call_later(wait_s, self._fire)

    def _fire(self) -> None:
        self._timer = None
        if self._due_ns is not None and self._due_ns <= self._clock_ns():
            self.feed(DeadlinePassed())
        else:
            self._arm()


class _Header(msgspec.Struct, frozen=True):
    machine: str
    config: msgspec.Raw


class _Line(msgspec.Struct, frozen=True):
    now_ns: int
    fact: AnyFact
    actions: msgspec.Raw


class ReplayDiffers(DiptychError):
    def __init__(self, path: Path, line: int, recorded: bytes, replayed: bytes) -> None:
        super().__init__(
            f"{path}:{line}: the machine asked for {replayed.decode()}, recorded is {recorded.decode()}"
        )
        self.line = line


_encode = msgspec.json.Encoder().encode
_decode_line = msgspec.json.Decoder(_Line).decode


class Recorder:
    """The log of one machine incarnation: a line of JSON for its configuration, then one for each step.

    Facts carry no text and no token ids, and attachments are not recorded. Every line is written before
    its actions are performed, so the log of a killed process is whole up to its last action.
    """

    def __init__(self, path: Path, machine: str, config: msgspec.Struct) -> None:
        self._file = path.open("wb", buffering=0)
        self._file.write(_encode({"machine": machine, "config": config}) + b"\n")

    def record(self, now_ns: int, fact: Fact, actions: tuple[Action, ...]) -> None:
        self._file.write(_encode({"now_ns": now_ns, "fact": fact, "actions": actions}) + b"\n")

    def close(self) -> None:
        self._file.close()


def replay(path: Path, make: Callable[[str, bytes], Machine]) -> int:
    """Steps a new machine, `make(name, config as JSON)`, through a log; returns the number of steps.

    Raises `ReplayDiffers` at the first step whose actions are not those recorded, and
    `msgspec.DecodeError` on a line that is none (a last line without its end is left out).
    """
    lines = path.read_bytes().split(b"\n")[:-1]
    header = msgspec.json.decode(lines[0], type=_Header)
    machine = make(header.machine, bytes(header.config))
    for number, text in enumerate(lines[1:], start=2):
        line = _decode_line(text)
        replayed = _encode(machine.step(line.now_ns, line.fact))
        if replayed != bytes(line.actions):
            raise ReplayDiffers(path, number, bytes(line.actions), replayed)
    return len(lines) - 1
