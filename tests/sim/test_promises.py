"""The checkers that watch a whole world catch what they are there for."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from diptych.core.actions import FenceWorker
from diptych.core.config import ControlConfig
from diptych.core.control import ControlPlane
from diptych.core.facts import ControlLost, DeadlinePassed, RequestArrived
from diptych.sim.checkers import Checkers
from diptych.sim.checkers.books import check_worker
from diptych.sim.checkers.endings import check_ends, check_in_time
from diptych.sim.door import Client
from diptych.sim.events import Payload, Violation
from diptych.sim.run import simulate
from diptych.sim.scenario import MILLISECOND_NS, Fault, RequestPlan, Scenario, WorkerPlan
from diptych.sim.world import World

MS = MILLISECOND_NS
LEASE_NS = 300 * MS


def scenario(*faults: Fault, **more: Any) -> Scenario:
    workers = (WorkerPlan(name="w-0"), WorkerPlan(name="w-1", host="host-1"))
    requests = (RequestPlan(request="r", at_ns=50 * MS, prompt=(("a", 9),), lengths=(40,)),)
    control = ControlConfig(lease_ns=LEASE_NS)
    fields = {"beat_ns": LEASE_NS // 3, "control": control, "stall_ns": 20 * MS}
    return Scenario(workers=workers, requests=requests, faults=faults, **(fields | more))


def watched(value: Scenario, until_ns: int) -> tuple[World, Checkers]:
    world = World(value)
    checkers = Checkers(world)
    world.observers = [checkers]
    world.driver.run(lambda: False, until_ns)
    return world, checkers


# ---- silence --------------------------------------------------------------------------------------


def fenced(world: World, checkers: Checkers, worker: str) -> None:
    action = FenceWorker(worker=worker, why="it was silent for 0.3 s")
    assert world.control is not None
    checkers(world.driver.now_ns, world.control, "control", ControlLost(), (action,))


def test_a_worker_that_spoke_is_not_to_be_fenced_for_silence() -> None:
    world, checkers = watched(scenario(), 1000 * MS)
    with pytest.raises(Violation, match="healthy worker fenced: w-0@1"):
        fenced(world, checkers, "w-0@1")


@pytest.mark.parametrize(
    ("excuse", "worker"),
    [
        (Fault(at_ns=900 * MS, kind="pause", target="w-0", duration_ns=500 * MS), "w-0@1"),
        (Fault(at_ns=900 * MS, kind="stall", target="w-0", duration_ns=500 * MS), "w-0@1"),
        (Fault(at_ns=900 * MS, kind="freeze", target="host-1", duration_ns=500 * MS), "w-1@1"),
        (Fault(at_ns=900 * MS, kind="cut", target="host-0=host-1", duration_ns=500 * MS), "w-1@1"),
        (Fault(at_ns=990 * MS, kind="kill", target="w-0"), "w-0@1"),
    ],
    ids=lambda value: getattr(value, "kind", ""),
)
def test_a_worker_that_could_not_speak_may_be_fenced(excuse: Fault, worker: str) -> None:
    world, checkers = watched(scenario(excuse, backoff_ns=2000 * MS), 1000 * MS)
    fenced(world, checkers, worker)
    world, checkers = watched(scenario(msgspec.structs.replace(excuse, at_ns=5000 * MS)), 1000 * MS)
    with pytest.raises(Violation, match="healthy worker fenced"):
        fenced(world, checkers, worker)


def test_a_worker_that_stood_still_with_control_may_not() -> None:
    still = Fault(at_ns=900 * MS, kind="freeze", target="host-0", duration_ns=1500 * MS)
    outcome = simulate(scenario(still))
    assert outcome.faults["whole host stands still, longer than the lease"].touched == 2
    assert "worker death" not in outcome.faults
    world, checkers = watched(scenario(still), 1000 * MS)
    with pytest.raises(Violation, match="healthy worker fenced"):
        fenced(world, checkers, "w-0@1")


# ---- control that is soon back ----


@pytest.mark.parametrize("absent_ms", [0, 1, 3, 30])
def test_news_of_a_new_control_may_overtake_news_of_the_old_ones_end(absent_ms: int) -> None:
    """Sockets keep the order of one control's words, and of no two; a new one takes the old one's place."""
    faults = tuple(
        Fault(at_ns=at_ms * MS, kind="kill", target="control", duration_ns=absent_ms * MS)
        for at_ms in (52, 60, 61, 90)
    )
    for seed in range(4):
        outcome = simulate(scenario(*faults, seed=seed, jitter_ns=20 * MS))
        assert (outcome.whole, outcome.failures) == (1, {})
        assert outcome.faults["control restart with a new epoch"].effective >= 2


# ---- books ----------------------------------------------------------------------------------------


def test_a_page_that_only_the_worker_thinks_its_own_is_found() -> None:
    world, _ = watched(scenario(), 1000 * MS)
    seat, pool = world.workers["w-0@1"], world.pool_of("w-0@1")
    check_worker("w-0@1", seat.machine, pool)  # type: ignore[arg-type]
    pool.pages[7].owner = "w-9@1"
    with pytest.raises(Violation, match=r"books differ: w-0@1 books \[7\]"):
        check_worker("w-0@1", seat.machine, pool)  # type: ignore[arg-type]


# ---- endings --------------------------------------------------------------------------------------


def control_with(deadline_ns: int) -> ControlPlane:
    control = ControlPlane(ControlConfig())
    arrived = RequestArrived(
        request="r",
        door="d",
        model="m",
        prompt_tokens=3,
        page_hashes=(),
        tokens_max=4,
        deadline_ns=deadline_ns,
    )
    control.step(0, arrived)
    return control


def test_a_request_past_its_deadline_is_found() -> None:
    control = control_with(50)
    check_in_time(control, 49, DeadlinePassed())
    with pytest.raises(Violation, match="past its deadline: r"):
        check_in_time(control, 50, DeadlinePassed())


def test_a_deadline_that_nobody_waits_for_is_found() -> None:
    control = control_with(50)
    request = control.requests.open["r"]
    request.deadline_ns = 20
    with pytest.raises(Violation, match="deadline forgotten: r"):
        check_in_time(control, 0, ControlLost())


def client(**fields: Any) -> Client:
    plan = RequestPlan(request="r", at_ns=0, prompt=(("a", 3),), lengths=(2,))
    arrived = RequestArrived(request="r", door="d", model="m", prompt_tokens=3, page_hashes=(), tokens_max=4)
    made = Client(plan, Payload("m/", (1, 2, 3), (2,), 4, ((),)), arrived)
    for name, value in fields.items():
        setattr(made, name, value)
    return made


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        ({"failure": "it did not feel like it"}, "ended without a name"),
        ({"failure": None}, "ended without a name"),
        ({"failure": "deadline"}, "deadline of its own"),
    ],
)
def test_an_end_needs_a_name(fields: dict[str, Any], rule: str) -> None:
    with pytest.raises(Violation) as caught:
        check_ends([client(**fields)])
    assert caught.value.rule == rule


def test_ends_with_names_and_whole_ones_are_no_violation_but_two_of_one_are() -> None:
    whole = client(reasons=["length"])
    for ended in (whole, client(gone=True), client(failure="overloaded"), client(failure="client_gone")):
        check_ends([ended])
    with pytest.raises(Violation, match="ended twice"):
        check_ends([whole, whole])
