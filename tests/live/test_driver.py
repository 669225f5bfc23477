from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest

from diptych.core.actions import Action, EndRun, FenceWorker, Send
from diptych.core.config import ControlConfig
from diptych.core.control import ControlPlane
from diptych.core.errors import BrokenInvariant
from diptych.core.facts import (
    ClientGone,
    ControlJoined,
    DeadlinePassed,
    DoorJoined,
    DriverStalled,
    Fact,
    HostStated,
    WorkerJoined,
)
from diptych.live.driver import Driver, own_clock
from diptych.live.log_file import Origin, Recorder

MS = 1_000_000
WORKER_JOINED = WorkerJoined(
    worker="w@1",
    host="h",
    role="both",
    engine="scripted",
    models=("m",),
    numerics=("x",),
    formats=("x",),
    page_tokens=4,
    context_tokens_max=64,
)


class Echo:
    """Answers every fact by an action that names its number; its deadline is what a test sets."""

    def __init__(self) -> None:
        self.facts: list[tuple[int, Fact]] = []
        self.deadline_ns: int | None = None
        self.broken = False

    def step(self, now_ns: int, fact: Fact) -> tuple[Action, ...]:
        self.facts.append((now_ns, fact))
        match fact:
            case DeadlinePassed():
                self.deadline_ns = None
            case DriverStalled(duration_ns=duration_ns) if self.deadline_ns is not None:
                self.deadline_ns += duration_ns
        return (EndRun(run=len(self.facts)), Send(to="control", fact=fact))

    def next_deadline_ns(self) -> int | None:
        return self.deadline_ns

    def check(self) -> None:
        if self.broken:
            raise BrokenInvariant("Echo", "a test broke it")

    def kinds(self) -> list[str]:
        return [type(fact).__name__ for _, fact in self.facts]


class Clock:
    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        return self.now_ns


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 20))


def test_actions_are_performed_in_order_and_facts_from_inside_wait_their_turn() -> None:
    async def drive() -> None:
        machine, performed = Echo(), []

        def perform(action: Action) -> None:
            performed.append(action)
            if action == EndRun(run=1):
                driver.feed(ControlJoined(epoch=2))

        driver = Driver(machine, perform)
        driver.feed(ControlJoined(epoch=1))
        assert performed == [
            EndRun(run=1),
            Send(to="control", fact=ControlJoined(epoch=1)),
            EndRun(run=2),
            Send(to="control", fact=ControlJoined(epoch=2)),
        ]

    run(drive())


def test_a_deadline_is_told_when_it_has_come_and_not_before() -> None:
    async def drive() -> None:
        machine, told = Echo(), asyncio.Event()
        driver = Driver(machine, lambda action: told.set(), clock_ns=time.monotonic_ns)
        loop = asyncio.get_running_loop()
        machine.deadline_ns = int(loop.time() * 1e9) + 3_600_000 * MS
        driver.start()
        # A nearer deadline takes the armed timer's place, a later one lets it stand.
        machine.deadline_ns = int(loop.time() * 1e9) + 20 * MS
        due_ns = machine.deadline_ns
        driver.feed(ControlJoined(epoch=1))
        told.clear()
        await told.wait()
        assert machine.kinds()[-1] == "DeadlinePassed"
        assert machine.facts[-1][0] >= due_ns
        assert machine.kinds().count("DeadlinePassed") == 1
        driver.close()

    run(drive())


def test_a_driver_that_stood_still_says_so_before_anything_else() -> None:
    async def drive() -> None:
        machine, clock = Echo(), Clock()
        driver = Driver(machine, lambda action: None, clock_ns=clock, stall_ns=200 * MS)
        machine.deadline_ns = 1000 * MS
        driver.start()
        clock.now_ns = 1200 * MS
        driver.feed(ControlJoined(epoch=1))
        assert machine.kinds() == ["ControlJoined"], "200 ms late is no stall"
        clock.now_ns = 6000 * MS
        driver.feed(ControlJoined(epoch=2))
        assert machine.facts[1:] == [
            (6000 * MS, DriverStalled(duration_ns=4800 * MS)),
            (6000 * MS, ControlJoined(epoch=2)),
        ]
        assert machine.deadline_ns == 5800 * MS
        driver.close()

    run(drive())


def test_a_deadline_that_a_stall_moved_has_not_passed() -> None:
    class Patient(Echo):
        def step(self, now_ns: int, fact: Fact) -> tuple[Action, ...]:
            self.deadline_ns = 10_000 * MS
            self.facts.append((now_ns, fact))
            return ()

    async def drive() -> None:
        machine, clock = Patient(), Clock()
        driver = Driver(machine, lambda action: None, clock_ns=clock, stall_ns=200 * MS)
        machine.deadline_ns = 1
        driver.start()
        clock.now_ns = 700 * MS
        await asyncio.sleep(0.01)
        assert machine.kinds() == ["DriverStalled"]
        driver.close()

    run(drive())


def test_control_that_stood_still_with_its_workers_gives_them_their_lease_again() -> None:
    """A host that stops and goes on: nobody was silent while control could have heard."""

    async def drive() -> None:
        clock, asked = Clock(), list[Action]()
        lease_ns = 3000 * MS
        machine = ControlPlane(ControlConfig(lease_ns=lease_ns))
        driver = Driver(machine, asked.append, clock_ns=clock)
        driver.start()
        driver.feed(HostStated(host="h", pool_pages=8, workers=("w@1",), shares=(("w", 8),)))
        driver.feed(WORKER_JOINED)
        clock.now_ns = 100 * MS
        driver.feed(DoorJoined(door="door-0"))
        clock.now_ns = 60_000 * MS
        driver.feed(DeadlinePassed())
        assert [action for action in asked if isinstance(action, FenceWorker)] == []
        assert machine.next_deadline_ns() == clock.now_ns - 100 * MS + lease_ns
        clock.now_ns += lease_ns
        driver.feed(DeadlinePassed())
        assert [action.worker for action in asked if isinstance(action, FenceWorker)] == ["w@1"]
        driver.close()

    run(drive())


def test_what_lies_in_the_sockets_is_read_before_a_deadline_is_told() -> None:
    """As after a stop: the timer is due and a message has come, both before the loop runs again."""

    async def drive() -> None:
        machine = Echo()
        driver = Driver(machine, lambda action: None, clock_ns=time.monotonic_ns)
        ours, theirs = socket.socketpair()
        loop = asyncio.get_running_loop()
        loop.add_reader(ours, lambda: driver.feed(ControlJoined(epoch=len(ours.recv(1)))))
        machine.deadline_ns = time.monotonic_ns() + MS
        driver.start()
        # Sent when the loop has waited: the timer's turn comes first, as it does where a signal ended
        # the wait for sockets.
        loop.call_later(0.001, theirs.send, b"x")
        time.sleep(0.005)
        while len(machine.facts) < 2:
            await asyncio.sleep(0.001)
        assert machine.kinds() == ["ControlJoined", "DeadlinePassed"]
        loop.remove_reader(ours)
        ours.close()
        theirs.close()
        driver.close()

    run(drive())


def test_one_stall_is_said_once_however_much_has_come_meanwhile() -> None:
    """Each would move every lease on: a worker that hangs would not be missed for minutes."""

    class Impatient(Echo):
        """Its deadline is of a kind that no stall moves."""

        def step(self, now_ns: int, fact: Fact) -> tuple[Action, ...]:
            self.facts.append((now_ns, fact))
            return ()

    async def drive() -> None:
        machine, clock = Impatient(), Clock()
        driver = Driver(machine, lambda action: None, clock_ns=clock, stall_ns=200 * MS)
        machine.deadline_ns = 1000 * MS
        driver.start()
        clock.now_ns = 5000 * MS
        for epoch in range(1, 20):
            driver.feed(ControlJoined(epoch=epoch))
            clock.now_ns += MS
        assert machine.kinds().count("DriverStalled") == 1
        assert machine.facts[0] == (5000 * MS, DriverStalled(duration_ns=5000 * MS))
        driver.close()

    run(drive())


def test_a_closed_driver_steps_no_more(tmp_path: Path) -> None:
    async def drive() -> None:
        machine, performed = Echo(), []

        def perform(action: Action) -> None:
            performed.append(action)
            driver.feed(ControlJoined(epoch=2))
            driver.close()

        driver = Driver(machine, perform, recorder=Recorder(tmp_path, "worker", "echo@1", ControlConfig()))
        driver.feed(ControlJoined(epoch=1))
        driver.feed(ControlJoined(epoch=3))
        assert machine.kinds() == ["ControlJoined"]
        assert len(performed) == 2, "the actions of a step are performed to the last one"

    run(drive())


def test_checks_audit_the_machine_after_each_step_and_errors_come_out() -> None:
    async def drive() -> None:
        machine = Echo()
        machine.broken = True
        Driver(machine, lambda action: None).feed(ControlJoined(epoch=1))
        with pytest.raises(BrokenInvariant, match="a test broke it"):
            Driver(machine, lambda action: None, checks=True).feed(ControlJoined(epoch=1))

    run(drive())


def test_every_clock_is_its_own() -> None:
    one, other = own_clock(), own_clock()
    assert abs(one() - other()) > 1000_000 * MS, "a quarter of an hour, or one chance in half a million"
    assert one() <= one() < 1 << 62
    first_ns, host_first_ns = one(), time.monotonic_ns()
    while time.monotonic_ns() < host_first_ns + MS:
        pass
    assert one() - first_ns >= MS


def test_a_step_is_logged_before_its_actions_are_performed(tmp_path: Path) -> None:
    path = tmp_path / "decode-0@1.jsonl"
    seen: list[bytes] = []

    async def drive() -> None:
        recorder = Recorder(tmp_path, "worker", "decode-0@1", ControlConfig())
        driver = Driver(Echo(), lambda action: seen.append(path.read_bytes()), recorder=recorder)
        driver.feed(ClientGone(request="r"), Origin("door-0@1", 3))
        driver.close()

    run(drive())
    assert len(seen) == 2
    step = msgspec.json.decode(seen[0].splitlines()[1])
    assert seen[0].endswith(b"\n")
    assert step["fact"][0] == "ClientGone"
    assert step["origin"] == ["door-0@1", 3]
    assert step["actions"][0] == ["EndRun", 1]


def test_the_fact_that_a_machine_died_of_is_logged(tmp_path: Path) -> None:
    class Fragile(Echo):
        def step(self, now_ns: int, fact: Fact) -> tuple[Action, ...]:
            raise BrokenInvariant("Fragile", "met a fact")

    async def drive() -> None:
        recorder = Recorder(tmp_path, "worker", "decode-0@1", ControlConfig())
        Driver(Fragile(), lambda action: None, recorder=recorder).feed(ClientGone(request="r"))

    with pytest.raises(BrokenInvariant, match="met a fact"):
        run(drive())
    step = msgspec.json.decode((tmp_path / "decode-0@1.jsonl").read_bytes().splitlines()[1])
    assert (step["fact"], step["raised"]) == (["ClientGone", "r"], "BrokenInvariant")
