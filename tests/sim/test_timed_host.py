"""What a host costs beyond its engines, in the world of times and counts."""

from __future__ import annotations

import msgspec
import pytest

from diptych.core.actions import RunSteps
from diptych.core.config import ControlConfig
from diptych.live.fleet_file import FleetFile, WorkerGroup
from diptych.sim.costs.file import CostFile, HostCosts, LinkCosts
from diptych.sim.costs.measured import MeasuredCosts
from diptych.sim.costs.model import PS_PER_NS, ConstantCosts, DecodePoint, PromptPoint
from diptych.sim.fleet import Limits, plan_fleet
from diptych.sim.scenario import MILLISECOND_NS, Scenario, WorkerPlan
from diptych.sim.timed.plan import Plan
from diptych.sim.timed.replay import replay
from diptych.sim.timed.served import Served
from diptych.sim.timed.step_loop import FULL_SPEED, Run
from diptych.sim.workloads.spec import Common, read_workload

STEP_NS = 5 * MILLISECOND_NS
COSTS = ConstantCosts(step_ns=STEP_NS, prompt_token_ns=100_000)


def plan(*roles: str, host: HostCosts, cores: tuple[int | None, ...]) -> Plan:
    workers = tuple(
        WorkerPlan(
            name=f"{role}-{number}",
            role=role,
            numerics=("a",),
            pages=400,
            chunk_tokens=256,
            mixed_chunk_tokens=64,
            quantum_tokens=8,
            prefill_ns_per_token=100_000,
            decode_ns_per_step=STEP_NS,
        )
        for number, role in enumerate(roles)
    )
    return Plan(
        scenario=Scenario(workers=workers, requests=(), page_tokens=16, control=ControlConfig()),
        costs={own.name: COSTS for own in workers},
        link=LinkCosts(latency_ns=1000),
        host=host,
        cores={own.name: core for own, core in zip(workers, cores, strict=True)},
    )


def served(made: Plan, workload: str) -> tuple[list[Served], dict[int, int]]:
    world = replay(made, read_workload(workload, Common()))
    return sorted(world.meter.served, key=lambda one: one.request), dict(world.meter.gaps)


ONE = "poisson:rate=1,requests=1,input=64,output=20"
ALONE = plan("both", host=HostCosts(), cores=(None,))


def of_host(**changes: object) -> Plan:
    return msgspec.structs.replace(ALONE, host=HostCosts(**changes))  # type: ignore[arg-type]


def test_a_request_is_late_by_what_its_door_takes() -> None:
    (plain,), _ = served(ALONE, ONE)
    (late,), _ = served(of_host(request_ns=2_000_000, prompt_token_ns=500), ONE)
    assert plain.first_ns is not None
    assert late.first_ns is not None
    assert late.arrived_ns == plain.arrived_ns
    assert late.first_ns - plain.first_ns == 2_000_000 + 64 * 500
    assert late.end_ns - plain.end_ns == 2_000_000 + 64 * 500


def test_the_pause_between_runs_is_a_gap_between_tokens() -> None:
    (plain,), gaps = served(ALONE, ONE)
    assert sum(gaps.values()) == 19
    assert len(gaps) == 1
    (paused,), apart = served(of_host(turnaround_ns=MILLISECOND_NS), ONE)
    assert sum(apart.values()) == 19
    (usual, longer), (often, seldom) = zip(*sorted(apart.items()), strict=True)
    assert [usual] == list(gaps)
    assert longer - usual == pytest.approx(MILLISECOND_NS, rel=0.02)
    assert 2 <= seldom < often
    assert paused.end_ns - plain.end_ns == seldom * MILLISECOND_NS


def test_a_first_token_costs_its_logits_only_where_nobody_decodes() -> None:
    def costs(sample_ns: int) -> MeasuredCosts:
        return MeasuredCosts(
            prompt=(PromptPoint(1, 0, STEP_NS),), decode=(DecodePoint(1, 1, STEP_NS),), sample_ns=sample_ns
        )

    pair = "bursts:size=1,every=0.05,requests=2,input=64,output=40"
    plain, dear = (
        served(msgspec.structs.replace(ALONE, costs={"both-0": costs(sample_ns)}), pair)[0]
        for sample_ns in (0, 2 * MILLISECOND_NS)
    )
    assert (dear[0].first_ns or 0) - (plain[0].first_ns or 0) == 2 * MILLISECOND_NS
    # The second one's first token comes in a step of the first one's stream, which is no later for it.
    assert dear[0].end_ns - plain[0].end_ns == 2 * MILLISECOND_NS


def test_a_first_token_waits_for_those_of_its_step() -> None:
    pair = "bursts:size=1,every=0.05,requests=2,input=64,output=40"
    before, _ = served(ALONE, pair)
    after, _ = served(of_host(token_ns=70_000), pair)
    late = [(b.first_ns or 0) - (a.first_ns or 0) for a, b in zip(before, after, strict=True)]
    assert late == [0, 70_000]


def test_engines_at_work_together_slow_each_other_down_and_only_then() -> None:
    """Two workers, each with a stream; the second one comes when the first is in mid-stream."""
    host = HostCosts(cores=2, slowdown=1.5)
    pair = "bursts:size=1,every=0.025,requests=2,input=16,output=20"
    apart, _ = served(plan("both", "both", host=host, cores=(None, None)), pair)
    beside, gaps = served(plan("both", "both", host=host, cores=(0, 1)), pair)
    assert len({one.decode_worker for one in apart}) == len({one.decode_worker for one in beside}) == 2
    alone_ns = [one.end_ns - one.arrived_ns for one in apart]
    together_ns = [one.end_ns - one.arrived_ns for one in beside]
    for alone, together in zip(alone_ns, together_ns, strict=True):
        assert alone < together < 1.5 * alone
    assert sum(gaps.values()) == 38
    # Some gaps before and behind the time together, most within it.
    assert min(gaps) == pytest.approx(STEP_NS, rel=0.01)
    assert max(gaps) == pytest.approx(1.5 * STEP_NS, rel=0.01)
    shared, _ = served(plan("both", "both", host=host, cores=(0, 0)), pair)
    for together, halved in zip(beside, shared, strict=True):
        assert halved.end_ns > together.end_ns


def test_a_run_bends_where_its_pace_changes() -> None:
    run = Run(RunSteps(run=1, steps_max=4, prompts=(), tables=(), predicted_ns=0), 0, 1, 0)
    run.first_ps = run.step_ps = 10 * PS_PER_NS
    run.steps = 4
    assert run.set_pace(15, 2 * FULL_SPEED)
    assert not run.set_pace(16, 2 * FULL_SPEED)
    # Half of the second step is done; the rest takes twice as long.
    assert [run.border_ns(step) for step in (1, 2, 3, 4)] == [10, 25, 45, 65]
    assert run.set_pace(35, FULL_SPEED)
    assert [run.border_ns(step) for step in (1, 2, 3, 4)] == [10, 25, 40, 50]
    assert [run.borders_passed(now) for now in (9, 10, 24, 25, 39, 40, 50)] == [0, 1, 1, 2, 2, 3, 4]


def test_workers_that_compute_are_dealt_out_over_the_cores_of_the_cost_file() -> None:
    groups = (
        WorkerGroup(role="prefill", engine="native", count=2),
        WorkerGroup(role="decode", engine="native"),
        WorkerGroup(role="decode", engine="torch", format="bf16", name="gpu", options={"device": "cuda"}),
    )
    costs = CostFile(workers={"*": COSTS}, host=HostCosts(cores=2))
    made = plan_fleet(FleetFile(), groups, costs, Limits())
    assert made.cores == {"prefill-0": 0, "prefill-1": 1, "decode-0": 0, "gpu-0": None}
    apart = plan_fleet(FleetFile(), groups, CostFile(workers={"*": COSTS}), Limits())
    assert set(apart.cores.values()) == {None}
    scripted = plan_fleet(FleetFile(), (WorkerGroup(role="both", engine="scripted"),), costs, Limits())
    assert scripted.cores == {"both-0": None}


def test_an_unknown_host_changes_nothing() -> None:
    workload = "poisson:rate=20,requests=60,input=16-300,output=1-60"
    host = HostCosts(cores=2, slowdown=1.0)
    plain = served(plan("prefill", "decode", host=HostCosts(), cores=(None, None)), workload)
    paced = served(plan("prefill", "decode", host=host, cores=(0, 1)), workload)
    assert plain == paced
