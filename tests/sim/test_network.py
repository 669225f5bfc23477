"""The simulated network: sockets that keep order, links that do not, and what machines see of both."""

from __future__ import annotations

from typing import Any

import pytest

from diptych.core.facts import ClientGone, DoorLost
from diptych.sim import events
from diptych.sim.driver import Driver, Happening
from diptych.sim.faults.tally import Tally
from diptych.sim.network.names import agent_of, generation_of, is_control
from diptych.sim.network.network import Network
from diptych.sim.network.weather import LINK_KINDS, PACKET_KINDS, Weather
from diptych.sim.scenario import MILLISECOND_NS, Fault, Scenario, WorkerPlan

MS = MILLISECOND_NS
LATER = 100_000 * MS
AFAR = "w-0@1"
NEAR = "w-1@1"


class Party:
    def __init__(self) -> None:
        self.heard: list[tuple[int, str, Happening]] = []

    def receive(self, now_ns: int, sender: str, event: Happening, payload: object) -> None:
        self.heard.append((now_ns, sender, event))

    def numbers(self) -> list[int]:
        return [int(event.request) for _, _, event in self.heard if isinstance(event, ClientGone)]


class Stage:
    """Two machines: `w-0` on host-a; `w-1`, control and a door on host-b."""

    def __init__(self, *faults: Fault) -> None:
        workers = (WorkerPlan(name="w-0", host="host-a"), WorkerPlan(name="w-1", host="host-b"))
        self.scenario = Scenario(
            workers=workers,
            requests=(),
            faults=faults,
            control_host="host-b",
            latency_ns=MS,
            jitter_ns=3 * MS,
        )
        self.driver = Driver()
        self.tally = Tally(self.scenario.control)
        self.network = Network(self.scenario, self.driver, self.tally)
        self.parties = {name: Party() for name in (AFAR, NEAR, "control#1", "door-0")}
        self.driver.parties.update(self.parties)
        for fault in faults:
            self.network.weather.begin(fault)

    def say(self, count: int, sender: str = AFAR, to: str = "control#1") -> None:
        for number in range(count):
            self.driver.run(lambda: False, number * MS)
            self.network.send(
                max(self.driver.now_ns, number * MS), sender, to, ClientGone(request=str(number))
            )

    def finish(self) -> None:
        self.driver.run(lambda: False, LATER)


def fault(kind: str, **more: Any) -> Fault:
    fields = {"duration_ns": 200 * MS, "delay_ns": 50 * MS, "chance": 0.5, "target": "host-a=host-b"}
    return Fault(at_ns=0, kind=kind, **(fields | more))


@pytest.mark.parametrize("kind", [*LINK_KINDS, ""])
def test_whatever_befalls_a_link_messages_arrive_once_and_in_order(kind: str) -> None:
    stage = Stage(*([fault(kind)] if kind else []))
    stage.say(100)
    stage.finish()
    assert stage.parties["control#1"].numbers() == list(range(100))
    if kind:
        (count,) = stage.tally.counts.values()
        assert count.effective == 1
        assert count.touched > 10


@pytest.mark.parametrize("kind", PACKET_KINDS)
def test_sockets_inside_a_machine_lose_and_double_nothing(kind: str) -> None:
    """And they need no acknowledgements for it."""
    stage = Stage(fault(kind, target="host-b=host-b", chance=1.0))
    stage.say(20, NEAR)
    before = stage.driver.events
    stage.finish()
    assert stage.parties["control#1"].numbers() == list(range(20))
    assert stage.driver.events - before <= 20
    assert stage.tally.counts == {}


def test_a_one_way_cut_holds_up_both_ways_and_loses_neither() -> None:
    """Messages of the open way arrive; only their acknowledgements do not."""
    stage = Stage(fault("cut", target="host-a>host-b"))
    stage.say(5)
    stage.say(5, "control#1", AFAR)
    stage.driver.run(lambda: False, 150 * MS)
    assert stage.parties["control#1"].numbers() == []
    assert stage.parties[AFAR].numbers() == list(range(5))
    stage.finish()
    assert stage.parties["control#1"].numbers() == list(range(5))
    assert stage.parties[AFAR].numbers() == list(range(5))


def test_the_dead_take_with_them_what_is_not_acknowledged() -> None:
    stage = Stage(fault("cut"))
    stage.say(3)
    notice = events.ControlDown(1)
    stage.network.closed(stage.driver.now_ns, AFAR, {"control#1": notice})
    stage.driver.run(lambda: False, 150 * MS)
    assert stage.parties["control#1"].heard == [], "nothing passes, no closed socket either"
    stage.finish()
    assert [event for _, _, event in stage.parties["control#1"].heard] == [notice]


def test_a_party_that_lives_again_under_its_name_begins_anew() -> None:
    stage = Stage(fault("loss"))
    stage.say(10, "door-0", AFAR)
    stage.network.closed(stage.driver.now_ns, "door-0", {"control#1": DoorLost(door="door-0")})
    before = len(stage.parties[AFAR].heard)
    stage.say(10, "door-0", AFAR)
    stage.finish()
    assert stage.parties[AFAR].numbers()[before:] == list(range(10))


def test_sessions_with_the_dead_end_in_time() -> None:
    stage = Stage(fault("cut"))
    stage.say(3)
    stage.network.closed(stage.driver.now_ns, "control#1", {})
    stage.finish()
    assert stage.driver.now_ns < 5_000 * MS, "nobody sends to the dead for ever"


def test_where_everybody_is() -> None:
    network = Stage().network
    names = (AFAR, NEAR, "control#2", "door-0", agent_of("host-a"))
    assert [network.machine_of(name) for name in names] == ["host-a", "host-b", "host-b", "host-b", "host-a"]
    assert [is_control(name) for name in ("control", "control#2", "control-0@1")] == [True, True, False]
    assert [generation_of(name) for name in ("control", "control#2")] == [1, 2]


def test_weather_is_over_when_it_is_over_and_remembered_for_a_while() -> None:
    stage = Stage()
    weather = Weather(0, stage.tally)
    weather.begin(fault("cut"))
    assert weather.passage(199 * MS, "host-b", "host-a").copies == ()
    assert weather.cut(199 * MS, "host-b", "host-a")
    assert weather.passage(200 * MS, "host-a", "host-b").copies == (0,)
    assert weather.passage(100 * MS, "host-a", "host-c").copies == (0,)
    assert weather.disturbed(150 * MS, "host-a")
    assert not weather.disturbed(201 * MS, "host-a")
    assert not weather.disturbed(150 * MS, "host-c")
