"""Full systems move on: back-pressure does not deadlock, preemption does not livelock, nobody starves."""

from __future__ import annotations

import msgspec
import pytest

from diptych.core import facts
from diptych.core.actions import Action, PauseStream
from diptych.core.config import ControlConfig
from diptych.sim.checkers import Checkers
from diptych.sim.driver import Seat
from diptych.sim.run import simulate
from diptych.sim.scenario import MILLISECOND_NS, Fault, RequestPlan, Scenario, WorkerPlan
from diptych.sim.world import World

RATES = {"prefill_ns_per_token": 100_000, "decode_ns_per_step": 2 * MILLISECOND_NS}
AT_ONCE_NS = 20 * MILLISECOND_NS


def burst(count: int, prompt: int, output: int, **more: object) -> tuple[RequestPlan, ...]:
    plan = RequestPlan(
        request="", at_ns=AT_ONCE_NS, prompt=(("", prompt),), lengths=(output,), tokens_max=output
    )
    return tuple(
        msgspec.structs.replace(plan, request=f"r{n}", prompt=((f"text {n}", prompt),), **more)
        for n in range(count)
    )


def pair(prefill_pages: int, decode_pages: int, **more: object) -> tuple[WorkerPlan, ...]:
    return (
        WorkerPlan(
            name="prefill-0", role="prefill", numerics=("int8",), pages=prefill_pages, **RATES, **more
        ),
        WorkerPlan(name="decode-0", role="decode", numerics=("int4",), pages=decode_pages, **RATES, **more),
    )


@pytest.mark.parametrize(("prefill_pages", "decode_pages"), [(12, 14), (14, 40), (40, 14), (14, 14)])
def test_a_full_prefill_worker_before_a_full_decode_worker_is_no_deadlock(
    prefill_pages: int, decode_pages: int
) -> None:
    """Neither can do the other's part: every page that P computes must wait for room at D."""
    requests = burst(12, prompt=33, output=8, seeded=True)
    outcome = simulate(Scenario(workers=pair(prefill_pages, decode_pages), requests=requests))
    assert (outcome.whole, outcome.failures) == (12, {})
    assert outcome.splits["full"] == 12


def test_answers_that_outgrow_the_pool_take_turns_and_all_end() -> None:
    worker = WorkerPlan(name="both-0", numerics=("int8",), pages=20, quantum_tokens=2, **RATES)
    requests = burst(10, prompt=9, output=40)
    world = World(Scenario(workers=(worker,), requests=requests))
    pauses: dict[str, int] = {}

    def count(now_ns: int, seat: Seat, sender: str, fact: facts.Fact, asked: tuple[Action, ...]) -> None:
        for action in asked:
            if isinstance(action, PauseStream):
                pauses[action.request] = pauses.get(action.request, 0) + 1

    world.observers = [count, Checkers(world)]
    assert world.driver.run(world.idle, world.scenario.horizon_ns)
    assert all(client.complete() for client in world.done)
    assert len(world.done) == 10
    assert pauses, "the pool was large enough: this test tests nothing"
    assert max(pauses.values()) <= 2, "after two preemptions a stream needs its pages for good"


def test_a_queue_over_its_limit_rejects_and_serves_the_rest() -> None:
    requests = burst(30, prompt=33, output=8)
    outcome = simulate(Scenario(workers=pair(14, 14), requests=requests, control=ControlConfig(queue_max=10)))
    assert outcome.whole >= 10
    assert outcome.failures == {"overloaded": 30 - outcome.whole}


def test_a_waiting_request_is_not_starved_by_those_that_come_later() -> None:
    """Everybody has the same priority: age decides."""
    requests = burst(1, prompt=50, output=4) + tuple(
        msgspec.structs.replace(plan, request=f"late{n}", at_ns=AT_ONCE_NS + (n + 1) * MILLISECOND_NS)
        for n, plan in enumerate(burst(30, prompt=9, output=12))
    )
    world = World(Scenario(workers=pair(16, 18), requests=requests))
    assert world.driver.run(world.idle, world.scenario.horizon_ns)
    order = [client.plan.request for client in world.done]
    assert order.index("r0") < 10


@pytest.mark.parametrize("victim", ["prefill-0", "decode-0"])
@pytest.mark.parametrize("at_ms", [20, 23, 26, 30, 40, 60])
def test_no_stream_is_lost_to_a_death_at_any_moment(victim: str, at_ms: int) -> None:
    """Each worker can do the other's part, so every stream goes on by its own recipe."""
    both = {"pages": 40, **RATES}
    workers = (
        WorkerPlan(name="prefill-0", role="prefill", numerics=("int8", "int4"), **both),
        WorkerPlan(name="decode-0", role="decode", numerics=("int4", "int8"), **both),
    )
    requests = burst(4, prompt=33, output=12)
    fault = Fault(at_ns=at_ms * MILLISECOND_NS, kind="kill", target=victim)
    outcome = simulate(Scenario(workers=workers, requests=requests, faults=(fault,)))
    assert (outcome.whole, outcome.exact, outcome.failures) == (4, 4, {})
