"""Figures against requests made up by hand, and reports that other programs can read."""

from __future__ import annotations

import json
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
from rich.console import Console

from diptych.core.config import ControlConfig
from diptych.sim.costs.model import ConstantCosts
from diptych.sim.report.figures import Slo, figures, keeps, spread, weighted_spread
from diptych.sim.report.page import page
from diptych.sim.report.perfetto import Perfetto
from diptych.sim.report.svg import POINTS_MAX, Axis, Series, bars, cumulative, plot, thinned
from diptych.sim.report.terminal import show
from diptych.sim.scenario import MILLISECOND_NS, Scenario, WorkerPlan
from diptych.sim.timed.meter import SAMPLES_MAX, Meter
from diptych.sim.timed.plan import Plan
from diptych.sim.timed.replay import replay
from diptych.sim.timed.served import Sample, Served
from diptych.sim.timed.world import TimedWorld
from diptych.sim.workloads.spec import Common, read_workload

COSTS = ConstantCosts(step_ns=MILLISECOND_NS, prompt_token_ns=10_000, decode_row_ns=50_000)
WORKLOAD = "poisson:rate=20,requests=40,input=100-300,output=2-30"


def fleet() -> Plan:
    workers = tuple(
        WorkerPlan(
            name=name, role=role, pages=300, chunk_tokens=256, mixed_chunk_tokens=64, quantum_tokens=32
        )
        for name, role in (("prefill-0", "prefill"), ("decode-0", "decode"))
    )
    scenario = Scenario(workers=workers, requests=(), page_tokens=16, control=ControlConfig())
    return Plan(scenario=scenario, costs={own.name: COSTS for own in workers}, page_bytes=1024)


@pytest.fixture(scope="module")
def traced() -> tuple[TimedWorld, Perfetto]:
    tracer = Perfetto()
    return replay(fleet(), read_workload(WORKLOAD, Common(seed=3)), tracer=tracer), tracer


def request(first_ms: float, gap_ms: float | None) -> Served:
    return Served(
        request="r",
        arrived_ns=10 * MILLISECOND_NS,
        first_ns=10 * MILLISECOND_NS + round(first_ms * MILLISECOND_NS),
        end_ns=10**9,
        failure=None,
        prompt_tokens=10,
        output_tokens=2,
        gap_ns=None if gap_ms is None else gap_ms * MILLISECOND_NS,
        cached_tokens=0,
        prefill_tokens=0,
        split=0,
        queue_ns=0,
        handoff_pages=0,
        handoff_ns=0,
        attempts=("finished",),
        prefill_worker=None,
        decode_worker="d",
    )


def test_goodput_wants_both_limits_kept() -> None:
    slo = Slo(ttft_ms=100, itl_ms=10)
    assert keeps(request(100, 10), slo)
    assert not keeps(request(101, 10), slo)
    assert not keeps(request(100, 10.1), slo)
    assert keeps(request(100, None), slo)
    assert keeps(request(1e6, 1e6), Slo())


def test_percentiles() -> None:
    found = spread([n * MILLISECOND_NS for n in range(1, 102)])
    assert (found.p50, found.p90, found.p99, found.max, found.count) == (51, 91, 100, 101, 101)
    assert spread([]).p50 is None
    weighted = weighted_spread(Counter({2_000_000: 98, 50_000_000: 1, 90_000_000: 1}))
    assert (weighted.p50, weighted.p90, weighted.p99, weighted.max) == (2, 2, 50, 90)
    assert weighted.mean == pytest.approx(3.36)


def test_the_figures_of_one_request_alone_are_its_costs() -> None:
    """200 prompt tokens: P computes 192 in one step, D the last 8 and samples; then 9 steps of one."""
    alone = read_workload("bursts:size=1,requests=1,input=200,output=10", Common())
    world = replay(fleet(), alone)
    found = figures(world, Slo(ttft_ms=10))
    latency = world.latency_ns / MILLISECOND_NS
    # Six messages on the way: request, target, reserved, prefill, offer, and tokens to the client.
    assert found.ttft_ms.p50 == pytest.approx(2 * 1 + 200 * 0.01 + 6 * latency, abs=1e-6)
    assert found.itl_ms.p50 == pytest.approx(1.05, rel=1 / 256)
    assert found.itl_ms.count == 9
    assert found.e2e_ms.p50 == pytest.approx(found.ttft_ms.p50 + 9 * 1.05, abs=1e-3)
    assert (found.handoffs, found.pages_handed_over, found.bytes_handed_over) == (1, 12, 12 * 1024)
    assert found.splits == {"aggregated": 0, "partial": 0, "full": 1}
    prefill, decode = found.workers
    assert (prefill.prompt_tokens, decode.prompt_tokens, decode.output_tokens) == (192, 8, 10)
    assert prefill.prompt * found.duration_s * 1000 == pytest.approx(1 + 1.92)
    assert decode.decode * found.duration_s * 1000 == pytest.approx(9 * 1.05)
    assert found.good == 1.0


def test_figures_add_up(traced: tuple[TimedWorld, Perfetto]) -> None:
    found = figures(traced[0], Slo(ttft_ms=1))
    assert found.served == found.requests == 40
    assert sum(found.splits.values()) == 40
    assert found.itl_ms.count == found.output_tokens - 40
    assert sum(worker.output_tokens for worker in found.workers) == found.output_tokens
    for worker in found.workers:
        assert worker.busy == pytest.approx(worker.prompt + worker.mixed + worker.decode)
        assert 0 < worker.busy < 1
        assert worker.pages_held_mean <= worker.pages_held_max <= 1
    assert found.good == 0.0


def test_samples_thin_out_as_time_goes_on() -> None:
    meter = Meter(0)
    for number in range(2000):
        meter.sample(Sample(at_ns=number, queued=0, reserving=0, prefilling=0, decoding=0, pages=((0, 0),)))
    assert len(meter.samples) < SAMPLES_MAX
    assert meter.sample_every_ns > Meter(0).sample_every_ns
    assert [sample.at_ns for sample in meter.samples] == sorted({sample.at_ns for sample in meter.samples})


def test_the_json_document_reads_back(traced: tuple[TimedWorld, Perfetto]) -> None:
    found = figures(traced[0], Slo())
    assert msgspec.json.decode(msgspec.json.encode(found), type=type(found)) == found


def test_the_terminal_table_says_the_figures(traced: tuple[TimedWorld, Perfetto]) -> None:
    console = Console(width=80, record=True, file=None, quiet=False)
    with console.capture() as captured:
        show(figures(traced[0], Slo(ttft_ms=50)), console)
    text = captured.get()
    assert "40 of 40 requests served" in text
    assert "TTFT <= 50 ms" in text
    assert max(map(len, text.splitlines())) <= 80


def test_the_page_stands_alone(traced: tuple[TimedWorld, Perfetto]) -> None:
    world, _ = traced
    text = page(figures(world, Slo()), world.meter, [("fleet", "<two> & more")])
    assert "&lt;two&gt; &amp; more" in text
    assert not re.search(r"(src|href)=|https?://|@import|url\(", text)
    drawings = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(drawings) == 7
    for drawing in drawings:
        ElementTree.fromstring(drawing)
    assert len(text) < 300_000


def test_the_trace_has_every_request_and_run(traced: tuple[TimedWorld, Perfetto], tmp_path: Path) -> None:
    world, tracer = traced
    tracer.write(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    processes = {event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert processes == {"requests", "prefill-0", "decode-0"}
    runs = [event for event in events if event["ph"] == "X"]
    assert len(runs) == world.meter.runs
    lanes: dict[int, list[tuple[float, float]]] = {}
    for run in runs:
        lanes.setdefault(run["pid"], []).append((run["ts"], run["ts"] + run["dur"]))
    for lane in lanes.values():
        ordered = sorted(lane)
        assert all(one[1] <= other[0] + 1e-6 for one, other in pairwise(ordered))
    begun, ended = (Counter((e["id"], e["name"], e["pid"]) for e in events if e["ph"] == ph) for ph in "be")
    assert begun == ended
    assert len({identity for identity, _, _ in begun}) == 40


def test_plots_place_their_points() -> None:
    axis = Axis([0.5, 80.0], 0.0, 100.0, log=True)
    assert (axis.place(0.1), axis.place(100), axis.marks()[0]) == (0.0, 100.0, 0.1)
    assert Axis([3.0], 0.0, 90.0).place(1.0) == 30.0
    assert cumulative([2.0, 1.0], [1, 3]) == [(1.0, 0.75), (2.0, 1.0)]
    points = [(float(n), 0.0) for n in range(5000)]
    assert len(thinned(points, POINTS_MAX)) <= POINTS_MAX
    assert thinned(points, POINTS_MAX)[-1] == points[-1]
    assert plot([Series("none", [])], x="x", y="y") == "<p>nothing to show</p>"
    assert "50.0%" in bars([("w", [0.5, 0.25])], ["a", "b"])
