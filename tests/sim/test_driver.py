"""A seat does with its machine what a live driver does: deadlines, stalls, a clock of its own."""

from __future__ import annotations

import msgspec
import pytest

from diptych.core.actions import Action
from diptych.core.facts import ControlJoined, DeadlinePassed, DriverStalled, Fact
from diptych.live import driver as live
from diptych.sim import driver as simulated
from diptych.sim.driver import Driver, Seat
from diptych.sim.events import Resumed, Violation
from diptych.sim.run import simulate
from diptych.sim.scenario import MILLISECOND_NS
from diptych.sim.seeds import ROUND, scenario

MS = MILLISECOND_NS


class Machine:
    """Keeps what it hears; its deadline is what a test sets, and a passed one is over."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, Fact]] = []
        self.deadline_ns: int | None = None
        self.stays = False

    def step(self, now_ns: int, fact: Fact) -> tuple[Action, ...]:
        self.heard.append((now_ns, fact))
        if isinstance(fact, DeadlinePassed) and not self.stays:
            self.deadline_ns = None
        return ()

    def next_deadline_ns(self) -> int | None:
        return self.deadline_ns

    def check(self) -> None:
        pass

    def kinds(self) -> list[str]:
        return [type(fact).__name__ for _, fact in self.heard]


def seated(machine: Machine, ahead_ns: int = 0) -> tuple[Driver, Seat]:
    driver = Driver()
    seat = Seat(
        "m", machine, driver, lambda *_: None, lambda *_: None, clock_ahead_ns=ahead_ns, stall_ns=20 * MS
    )
    driver.parties["m"] = seat
    return driver, seat


def tell(driver: Driver, at_ms: int, epoch: int) -> None:
    driver.at(at_ms * MS, "x", "m", ControlJoined(epoch=epoch))


def test_a_stall_is_what_a_live_driver_takes_for_one() -> None:
    assert simulated.STALL_NS == live.STALL_NS


def test_after_a_pause_sockets_are_read_before_the_timer_and_the_stall_is_said_once() -> None:
    machine = Machine()
    driver, seat = seated(machine)
    machine.deadline_ns = 50 * MS
    tell(driver, 10, 1)
    driver.run(lambda: False, 20 * MS)
    seat.pause(20 * MS, 500 * MS)
    driver.at(500 * MS, "m", "m", Resumed())
    for number in range(2, 6):
        tell(driver, 50 * number, number)
    driver.run(lambda: False, 1000 * MS)
    assert machine.kinds() == ["ControlJoined", "DriverStalled", *["ControlJoined"] * 4, "DeadlinePassed"]
    assert machine.heard[1] == (500 * MS, DriverStalled(duration_ns=490 * MS)), "it last ran at 10 ms"


def test_a_short_pause_is_no_stall() -> None:
    machine = Machine()
    driver, seat = seated(machine)
    machine.deadline_ns = 50 * MS
    tell(driver, 10, 1)
    driver.run(lambda: False, 20 * MS)
    seat.pause(20 * MS, 65 * MS)
    driver.at(65 * MS, "m", "m", Resumed())
    driver.run(lambda: False, 1000 * MS)
    assert machine.heard[1:] == [(65 * MS, DeadlinePassed())]


def test_who_stands_still_already_may_have_to_for_longer() -> None:
    machine = Machine()
    driver, seat = seated(machine)
    seat.pause(0, 30 * MS)
    seat.pause(10 * MS, 90 * MS)
    for at_ms in (30, 90):
        driver.at(at_ms * MS, "m", "m", Resumed())
    tell(driver, 40, 1)
    driver.run(lambda: False, 1000 * MS)
    assert machine.heard == [(90 * MS, ControlJoined(epoch=1))]


def test_a_machine_knows_its_own_clock_only() -> None:
    machine = Machine()
    driver, _ = seated(machine, ahead_ns=7_000 * MS)
    tell(driver, 10, 1)
    driver.run(lambda: False, 10 * MS)
    machine.deadline_ns = 7_080 * MS
    tell(driver, 20, 2)
    driver.run(lambda: False, 1000 * MS)
    assert [now_ns for now_ns, _ in machine.heard] == [7_010 * MS, 7_020 * MS, 7_080 * MS]


def test_a_deadline_that_never_moves_is_found() -> None:
    machine = Machine()
    machine.stays = True
    machine.deadline_ns = 50 * MS
    driver, _ = seated(machine)
    tell(driver, 10, 1)
    with pytest.raises(Violation, match="deadline spins"):
        driver.run(lambda: False, 1000 * MS)


@pytest.mark.parametrize("kind", ROUND)
def test_no_absolute_time_leaks_between_machines(kind: str) -> None:
    """The whole run is the same, however far apart the clocks of its machines are."""
    for seed in (1, 2):
        apart = scenario(f"{kind}-{seed}")
        together = msgspec.structs.replace(apart, clocks_apart_ns=0)
        assert apart.clocks_apart_ns > 1 << 59
        assert simulate(apart).digest == simulate(together).digest
