"""Skipping steps, sharing links and losing workers in the world of times and counts."""

from __future__ import annotations

import math
from itertools import pairwise

import msgspec
import pytest

from diptych.core import facts
from diptych.core.actions import RunSteps
from diptych.core.config import SECOND_NS, ControlConfig
from diptych.sim.costs.file import LinkCosts
from diptych.sim.costs.measured import MeasuredCosts
from diptych.sim.costs.model import ConstantCosts, DecodePoint, PromptPoint, StepCosts
from diptych.sim.costs.roofline import Geometry, RooflineCosts
from diptych.sim.driver import Driver, Happening
from diptych.sim.report.figures import Figures, Slo, figures
from diptych.sim.scenario import MILLISECOND_NS, Scenario, WorkerPlan
from diptych.sim.timed.links import Links
from diptych.sim.timed.plan import Plan
from diptych.sim.timed.replay import replay
from diptych.sim.timed.step_loop import Run
from diptych.sim.workloads.spec import Common, read_workload

MODEL = Geometry(
    parameters=1e9, layers=16, heads=16, kv_heads=4, head_dim=128, weight_bytes=1e9, kv_element_bytes=2
)
ROOFLINE = RooflineCosts(
    flops_per_s=2e13, bytes_per_s=3.3e11, compute_efficiency=0.7, step_overhead_ns=123_457, model=MODEL
)
MEASURED = MeasuredCosts(
    prompt=(PromptPoint(1, 0, 5_000_003), PromptPoint(256, 0, 40_000_019), PromptPoint(256, 512, 47_000_017)),
    decode=(DecodePoint(1, 64, 5_000_007), DecodePoint(1, 600, 5_400_001), DecodePoint(9, 64, 11_000_003)),
)


def plan(costs: StepCosts, *, workers: int = 1, pages: int = 400, **changes: object) -> Plan:
    plans = tuple(
        WorkerPlan(
            name=f"{role}-{number}",
            role=role,
            numerics=("a",),
            pages=pages,
            chunk_tokens=256,
            mixed_chunk_tokens=64,
            quantum_tokens=32,
            prefill_ns_per_token=150_000,
            decode_ns_per_step=5 * MILLISECOND_NS,
        )
        for role in ("prefill", "decode")
        for number in range(workers)
    )
    scenario = Scenario(workers=plans, requests=(), page_tokens=16, control=ControlConfig())
    made = Plan(scenario=scenario, costs={own.name: costs for own in plans}, page_bytes=1000)
    return msgspec.structs.replace(made, **changes)


def found(made: Plan, workload: str, seed: int = 1) -> Figures:
    world = replay(made, read_workload(workload, Common(seed=seed)))
    assert not world.streams
    return figures(world, Slo())


@pytest.mark.parametrize("costs", [ROOFLINE, MEASURED], ids=["roofline", "measured"])
def test_runs_of_one_step_give_the_same_report_as_whole_runs(costs: StepCosts) -> None:
    """A closed form over the steps of a run, cut by arrivals, is the sum of the steps."""
    workload = "poisson:rate=6,requests=120,input=30-400,output=1-120"
    whole = found(plan(costs), workload)
    single = found(plan(costs, steps_max=1), workload)
    assert sum(worker.steps for worker in whole.workers) == sum(worker.steps for worker in single.workers)
    assert whole.workers[1].steps_per_run > 2 > single.workers[1].steps_per_run == 1.0
    # Only how many steps a run has may differ, and what was sampled meanwhile.
    for name in ("ttft_ms", "itl_ms", "e2e_ms", "queue_ms", "handoff_ms", "splits", "duration_s", "good"):
        assert getattr(whole, name) == getattr(single, name), name
    for one, other in zip(whole.workers, single.workers, strict=True):
        assert math.isclose(one.busy, other.busy, rel_tol=1e-9)
        assert (one.prompt_tokens, one.output_tokens) == (other.prompt_tokens, other.output_tokens)


def test_a_run_is_one_event() -> None:
    made = plan(ROOFLINE)
    alone = "bursts:size=1,every=60,requests=1,input=64,output=300"
    world = replay(made, read_workload(alone, Common()))
    decode = world.meter.workers["decode-0"]
    assert decode.steps == 300
    assert decode.runs <= 2 + math.ceil(299 / 32)


def test_the_same_seed_gives_the_same_report_and_another_one_does_not() -> None:
    workload = "agents:rate=2,conversations=12,turns=1-4,system=200,think=0.3"
    first, again = found(plan(ROOFLINE, workers=2), workload), found(plan(ROOFLINE, workers=2), workload)
    assert first == again
    assert found(plan(ROOFLINE, workers=2), workload, seed=2) != first


def test_the_next_turn_finds_its_history_cached() -> None:
    """Prompt and answer of the turns before, whose pages the decode worker sealed."""
    workload = "agents:rate=0.1,conversations=3,turns=4,system=320,input=100,output=100,think=1"
    result = found(plan(ROOFLINE, pages=4000), workload)
    assert result.served == 12
    # Turn k repeats 320 + 200 k of its 420 + 200 k tokens, in pages of 16; the system prompt is common.
    assert 0.6 < result.prefix_hit_share < 0.85
    assert found(plan(ROOFLINE), "poisson:rate=1,requests=10").prefix_hit_share == 0.0


def test_a_slow_link_is_felt_and_what_landed_is_counted() -> None:
    workload = "poisson:rate=2,requests=30,input=320,output=20"
    near = found(plan(ROOFLINE), workload)
    slow = LinkCosts(latency_ns=100_000, bytes_per_s=1e6, shared_by="fleet")
    far = found(plan(ROOFLINE, link=slow), workload)
    assert near.bytes_moved == 0
    assert far.bytes_moved == far.bytes_handed_over > 0
    assert far.ttft_ms.p50 is not None
    assert near.ttft_ms.p50 is not None
    assert far.ttft_ms.p50 > near.ttft_ms.p50 + 10  # some 19 kB at 1 MB/s


class Inbox:
    def __init__(self) -> None:
        self.got: list[tuple[int, str, int]] = []

    def receive(self, now_ns: int, sender: str, event: Happening, payload: object) -> None:
        assert isinstance(event, facts.PagesOffered | facts.ContextReturned)
        number = event.first_page if isinstance(event, facts.PagesOffered) else -event.attempt
        self.got.append((now_ns, sender, number))


def offer(number: int, pages: int) -> facts.PagesOffered:
    return facts.PagesOffered(request="r", attempt=1, sender="p@1", first_page=number, pages=(0,) * pages)


def linked(shared_by: str) -> tuple[Driver, Links, Inbox]:
    driver, inbox = Driver(), Inbox()
    driver.parties["d@1"] = driver.parties["e@1"] = inbox
    costs = LinkCosts(latency_ns=0, bytes_per_s=1e9, shared_by=shared_by)
    return driver, Links(driver, costs, page_bytes=1000), inbox


def test_transfers_on_one_link_share_it() -> None:
    """1000 pages of 1000 bytes take 1 ms at 1 GB/s alone, 2 ms beside another; the longer one then has
    the link for itself."""
    driver, links, inbox = linked("fleet")
    links.send("p@1", "d@1", offer(1, 1000))
    links.send("q@1", "d@1", offer(2, 3000))
    driver.run(lambda: False, SECOND_NS)
    (first_ns, _, first), (second_ns, _, second) = inbox.got
    assert (first, second) == (1, 2)
    assert first_ns == pytest.approx(2_000_000, abs=10)
    assert second_ns == pytest.approx(4_000_000, abs=10)
    assert links.bytes_landed == 4_000_000


def test_links_that_are_not_shared_do_not_slow_each_other() -> None:
    driver, links, inbox = linked("source")
    links.send("p@1", "d@1", offer(1, 1000))
    links.send("q@1", "d@1", offer(2, 3000))
    driver.run(lambda: False, SECOND_NS)
    assert [at for at, _, _ in inbox.got] == pytest.approx([1_000_000, 3_000_000], abs=10)


def test_a_small_last_chunk_does_not_overtake_the_first() -> None:
    driver, links, inbox = linked("source")
    links.send("p@1", "d@1", offer(1, 3000))
    links.send("p@1", "e@1", offer(2, 100))
    links.send("p@1", "d@1", offer(3, 1))
    links.send("p@1", "d@1", facts.ContextReturned(request="r", attempt=7, sender="p@1"))
    driver.run(lambda: False, SECOND_NS)
    assert [number for _, _, number in inbox.got] == [2, 1, 3, -7]
    assert all(earlier <= later for (earlier, _, _), (later, _, _) in pairwise(inbox.got))


class Stumbling:
    """The first step of three sequences takes 20 s, all others what the constants say."""

    def __init__(self, costs: ConstantCosts) -> None:
        self.costs = costs
        self.sample_ps = costs.sample_ps
        self.prompt_ps = costs.prompt_ps
        self.mixed_ps = costs.mixed_ps
        self.stumbled = False

    def decode_line(self, sequences: int) -> tuple[int, int]:
        if sequences == 3 and not self.stumbled:
            self.stumbled = True
            return 20_000 * MILLISECOND_NS * 1000, 0
        return self.costs.decode_line(sequences)


def test_a_worker_that_breaks_its_prediction_is_restarted_and_no_stream_is_lost() -> None:
    made = plan(Stumbling(ConstantCosts(step_ns=10 * MILLISECOND_NS, prompt_token_ns=1000)))
    world = replay(made, read_workload("bursts:size=3,every=400,requests=3,output=40", Common()))
    assert world.restarts() == 1
    assert [(one.failure, one.output_tokens) for one in world.meter.served] == [(None, 40)] * 3
    assert all(one.attempts == ("target lost", "finished") for one in world.meter.served)
    # Lease and overrun are 3 s each; the streams go on at once after that.
    assert 3 < max(one.end_ns for one in world.meter.served) / SECOND_NS < 7


def test_shortage_of_pages_preempts_and_everything_is_served() -> None:
    made = plan(ROOFLINE, pages=60)
    result = found(made, "bursts:size=12,every=1,requests=24,input=64,output=200")
    assert result.served == 24
    assert result.resumed > 0
    assert result.queued_max > 0


def test_steps_that_are_complete_have_a_closed_form() -> None:
    """The same as counting borders one by one, at, before and after each of them."""
    action = RunSteps(run=1, steps_max=40, prompts=(), tables=(), predicted_ns=0)
    for step_ps, growth_ps in ((5_000_001, 0), (4_999_999, 1), (3_000_500, 12_345), (1_000, 999_999)):
        run = Run(action, origin_ps=7_654_321, before=1, since_ps=0)
        run.first_ps, run.step_ps, run.growth_ps, run.steps = 9_000_700, step_ps, growth_ps, 40
        borders = [run.border_ns(step) for step in range(1, 41)]
        for now_ns in {time for border in borders for time in (border - 1, border, border + 1)}:
            assert run.borders_passed(now_ns) == sum(border <= now_ns for border in borders)
    run.steps = 1
    assert [run.borders_passed(now_ns) for now_ns in (0, borders[0], 1 << 50)] == [0, 1, 1]
