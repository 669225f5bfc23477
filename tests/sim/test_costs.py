"""Cost models against figures worked out by hand, and cost files read and refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from diptych.engine.scripted import ScriptedCost, ScriptedEngine
from diptych.sim.costs.file import CostFile, HostCosts, LinkCosts, read_costs, write_costs
from diptych.sim.costs.measured import MeasuredCosts, MixedPoint, fit_line
from diptych.sim.costs.messages import measure_link
from diptych.sim.costs.model import BadCosts, ConstantCosts, Curve, DecodePoint, PromptPoint
from diptych.sim.costs.profiling import Bench, Grid, MeasuredDoor, shortest
from diptych.sim.costs.roofline import Geometry, RooflineCosts

GEOMETRY = Geometry(parameters=1e9, layers=10, heads=8, kv_heads=2, head_dim=64, weight_bytes=5e8)


def test_constants_are_what_the_scripted_engine_declares() -> None:
    costs = ConstantCosts(step_ns=1000, prompt_token_ns=7, decode_row_ns=30)
    assert costs.prompt_ps([(0, 10), (5, 1)]) == 1_077_000
    assert costs.decode_line(3) == (1_090_000, 0)
    assert costs.mixed_ps([(0, 10)], 2, 999) == 1_130_000


def measured(**changes: object) -> MeasuredCosts:
    points: dict[str, object] = {
        "prompt": (
            PromptPoint(10, 0, 1000),
            PromptPoint(20, 0, 1600),
            PromptPoint(10, 100, 1200),
            PromptPoint(20, 100, 2000),
        ),
        "decode": (
            DecodePoint(1, 100, 500),
            DecodePoint(1, 300, 700),
            DecodePoint(3, 100, 1000),
            DecodePoint(3, 300, 1600),
        ),
    }
    return MeasuredCosts(**(points | changes))  # type: ignore[arg-type]


def test_a_measured_table_is_drawn_between_its_points_and_beyond() -> None:
    costs = measured()
    assert costs.prompt_ps([(0, 10)]) == 1_000_000
    assert costs.prompt_ps([(0, 15)]) == 1_300_000
    assert costs.prompt_ps([(0, 40)]) == 2_800_000
    assert costs.prompt_ps([(0, 1)]) == 1_000_000
    # 0.2 ns for each token and position before its span.
    assert costs.prompt_ps([(100, 20)]) == 2_000_000
    assert costs.prompt_ps([(100, 10), (0, 10)]) == 1_800_000
    # One sequence: 400 ns and 1 ns a position; three: 700 ns and 1 ns a position of each.
    assert costs.decode_line(1) == (400_000, 1000)
    assert costs.decode_line(3) == (700_000, 1000)
    assert costs.decode_line(2) == (550_000, 1000)


def test_behind_the_last_point_one_points_noise_decides_nothing() -> None:
    curve = Curve([(1, 10.0), (2, 20.0), (4, 40.0), (5, 90.0)])
    assert curve.at(3) == 30
    assert curve.at(4.5) == 65
    assert curve.at(5) == 90
    # From (2, 20) to (5, 90), not from (4, 40).
    assert curve.at(8) == pytest.approx(90 + 3 * 70 / 3)
    assert Curve([(1, 10.0), (2, 8.0)]).at(9) == 8
    assert Curve([(1, 10.0)]).at(9) == 10


def test_rows_of_the_decode_table_share_one_slope() -> None:
    """The long rows decide: the noise of a row that reads little does not."""
    costs = measured(
        decode=(
            DecodePoint(1, 0, 500),
            DecodePoint(1, 100, 900),
            DecodePoint(10, 0, 2000),
            DecodePoint(10, 100, 3000),
        )
    )
    # (100 * 400 + 1000 * 1000) / (100^2 + 1000^2) ns a position.
    slope = (50 * 200 + 50 * 200 + 2 * 500 * 500) / (2 * 50**2 + 2 * 500**2) * 1000
    assert costs.decode_line(1) == (int(700_000 - slope * 50), int(slope))
    assert costs.decode_line(10) == (int(2_500_000 - slope * 500), int(slope))


def test_what_a_mixed_step_saves_is_measured() -> None:
    alone = measured().mixed_ps([(0, 10)], 1, 100)
    assert alone == 1_500_000
    shared = measured(mixed=(MixedPoint(10, 1, 0, 1200),))
    # Halves of 1000 and 400 ns took 1200: half of the smaller one was saved.
    assert shared.mixed_ps([(0, 10)], 1, 0) == 1_200_000
    assert shared.mixed_ps([(0, 10)], 1, 100) == 1_250_000


def test_noise_gives_no_negative_slope() -> None:
    assert fit_line([(1.0, 5.0), (2.0, 4.0)]) == (4.5, 0.0)
    assert fit_line([(1.0, 5.0)]) == (5.0, 0.0)


def test_the_roofline_takes_the_longer_of_work_and_bytes() -> None:
    costs = RooflineCosts(
        flops_per_s=2e12,
        bytes_per_s=1e11,
        compute_efficiency=0.5,
        memory_efficiency=0.5,
        step_overhead_ns=1000,
        model=GEOMETRY,
    )
    # One row: 2e9 operations at 1e12/s = 2 ms, 5e8 bytes at 5e10/s = 10 ms.
    base, slope = costs.decode_line(1)
    assert base == 10_000_000_000 + 1_000_000
    # A position: 2 * 10 * 2 * 64 * 2 bytes = 5120 at 5e10/s = 102.4 ns; 20480 operations are 20.48 ns.
    assert slope == 102_400
    assert costs.decode_line(10)[0] == 20_000_000_000 + 1_000_000
    # 100 tokens: 200 ms; attention: 5050 pairs at 20.48 ns against 100 positions at 102.4 ns.
    assert costs.prompt_ps([(0, 100)]) == pytest.approx(200e9 + 1e6 + 5050 * 20_480, rel=1e-9)
    mixed = costs.mixed_ps([(0, 100)], 10, 1000)
    assert mixed == pytest.approx(220e9 + 1e6 + 5050 * 20_480 + 1000 * 102_400, rel=1e-9)


BAD: list[tuple[str, str]] = [
    ('{"workers": {"*": {"type": "constant", "step_ns": -1}}}', "step_ns: -1"),
    ('{"workers": {"*": {"type": "constant", "speed": 1}}}', "speed"),
    ('{"workers": {"*": {"type": "guess"}}}', "guess"),
    ('{"workers": {"*": {"type": "measured", "prompt": [], "decode": []}}}', "prompt: 0 points"),
    (
        '{"workers": {"*": {"type": "measured", "prompt": [{"tokens": 1, "context": 5, "ns": 1}],'
        ' "decode": [{"sequences": 1, "context": 5, "ns": 1}]}}}',
        "context 0",
    ),
    ('{"workers": {}, "link": {"bytes_per_s": 0}}', "bytes_per_s: 0"),
    ('{"workers": {}, "link": {"shared_by": "none"}}', "shared_by: 'none'"),
    ('{"workers": {}, "host": {"turnaround_ns": -1}}', "host.turnaround_ns: -1"),
    ('{"workers": {}, "host": {"slowdown": 0.5}}', "host.slowdown: 0.5"),
    ('{"workers": {}, "host": {"cores": -1}}', "host.cores: -1"),
    ("{", "costs.json"),
]


@pytest.mark.parametrize(("text", "words"), BAD, ids=[words for _, words in BAD])
def test_bad_cost_files_are_named(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "costs.json"
    path.write_text(text)
    with pytest.raises(BadCosts, match=words):
        read_costs(path)


def test_a_cost_file_comes_back_as_it_was(tmp_path: Path) -> None:
    roofline = RooflineCosts(flops_per_s=1e12, bytes_per_s=1e11, model=GEOMETRY)
    link = LinkCosts(latency_ns=5, page_ns=2, bytes_per_s=1e9, shared_by="pair")
    costs = CostFile(
        workers={"native:int8": measured(), "torch": roofline, "*": ConstantCosts(step_ns=5)},
        link=link,
        host=HostCosts(request_ns=7, cores=2, slowdown=1.5),
        page_tokens=32,
        page_bytes=100,
    )
    write_costs(tmp_path / "costs.json", costs)
    again = read_costs(tmp_path / "costs.json")
    assert again == costs
    assert again.of("prefill-0", "native", "int8") == measured()
    assert again.of("decode-0", "torch", "bf16") == roofline
    assert again.of("decode-0", "native", "int4") == ConstantCosts(step_ns=5)


def test_a_worker_by_name_comes_before_its_group_and_its_engine() -> None:
    named = {
        name: ConstantCosts(step_ns=step)
        for step, name in enumerate(("decode-1", "decode", "native:int4", "native", "*"))
    }
    costs = CostFile(workers=named)
    for worker, engine, format_, name in (
        ("decode-1", "native", "int4", "decode-1"),
        ("decode-0", "native", "int4", "decode"),
        ("fast-0", "native", "int4", "native:int4"),
        ("fast-0", "native", "int8", "native"),
        ("fast-0", "torch", "bf16", "*"),
    ):
        assert costs.of(worker, engine, format_) == named[name]
    assert costs.named("fast-0", "torch", "bf16") is None


def test_a_worker_without_costs_is_named() -> None:
    costs = CostFile(workers={"native:int8": ConstantCosts()})
    with pytest.raises(BadCosts, match=r"decode-1 \(native:int4\)"):
        costs.of("decode-1", "native", "int4")


def test_the_shortest_of_each_point_is_kept() -> None:
    disturbed = measured(
        prompt=(PromptPoint(10, 0, 9000), PromptPoint(20, 0, 1500)),
        decode=(DecodePoint(1, 100, 400), DecodePoint(3, 100, 7000)),
        sample_ns=90,
    )
    usual = measured(
        prompt=(PromptPoint(10, 0, 1000), PromptPoint(20, 0, 1600)),
        decode=(DecodePoint(1, 100, 500), DecodePoint(3, 100, 1000)),
        sample_ns=70,
    )
    assert shortest([disturbed, usual]) == measured(
        prompt=(PromptPoint(10, 0, 1000), PromptPoint(20, 0, 1500)),
        decode=(DecodePoint(1, 100, 400), DecodePoint(3, 100, 1000)),
        sample_ns=70,
    )


@pytest.fixture
def door() -> Iterator[MeasuredDoor]:
    made = MeasuredDoor()
    yield made
    made.close()


def test_profiling_finds_what_an_engine_declares(door: MeasuredDoor) -> None:
    """Declared costs are slept, so they can only come out longer; how much longer is not looked at."""
    cost = ScriptedCost(step_ns=500_000, prompt_token_ns=20_000, decode_row_ns=100_000)
    engine = ScriptedEngine(cost=cost, page_tokens=16)
    notes: list[str] = []
    grid = Grid(tokens=(1, 32), contexts=(0, 64), sequences=(1, 3), mixed_tokens=(16,), rounds=2)
    found = Bench(engine, grid, door).measure(notes.append)
    assert [(point.tokens, point.context) for point in found.prompt] == [(1, 0), (1, 64), (32, 0), (32, 64)]
    assert [(point.sequences, point.context) for point in found.decode] == [(1, 1), (1, 64), (3, 1), (3, 64)]
    # In each of two sweeps one more for the first token's sampling.
    assert len(notes) == 2 * (len(found.prompt) + len(found.decode) + len(found.mixed) + 1)
    assert [(point.sequences, point.context) for point in found.mixed] == [(1, 1), (1, 64)]
    for point in found.prompt:
        declared = 100_000 if point.tokens == 1 else 20_000 * point.tokens
        assert point.ns >= 500_000 + declared
    for point in found.decode:
        assert point.ns >= 500_000 + 100_000 * point.sequences


def test_the_grid_keeps_within_the_engine(door: MeasuredDoor) -> None:
    engine = ScriptedEngine(step_tokens_max=40, step_spans_max=2, context_tokens_max=100)
    grid = Grid(tokens=(32, 64), contexts=(0, 512), sequences=(1, 2, 4), rounds=1)
    found = Bench(engine, grid, door).measure(lambda _: None)
    assert [(point.tokens, point.context) for point in found.prompt] == [(32, 0)]
    assert [(point.sequences, point.context) for point in found.decode] == [(1, 1), (1, 97), (2, 1), (2, 97)]


def test_messages_between_processes_are_measured() -> None:
    link = measure_link(rounds=5)
    assert link.latency_ns + 64 * link.page_ns > 0
    assert link.bytes_per_s is None
