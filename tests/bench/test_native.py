"""The comparison with llama.cpp: what its tools print, which build is the peer, which rows are gated."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from rich.console import Console

from diptych.engine.native import probe

Bench = Callable[[str], ModuleType]


def test_speeds_are_read_from_the_tools(bench: Bench) -> None:
    llama_cpp = bench("llama_cpp")
    assert llama_cpp.bench_speed(json.dumps([{"avg_ts": 75.5, "n_gen": 32}])) == 75.5
    with pytest.raises(ValueError, match="2 tests"):
        llama_cpp.bench_speed(json.dumps([{"avg_ts": 1}, {"avg_ts": 2}]))
    lines = 'load: words\n{"pl": 4, "speed_pp": 10.0, "speed_tg": 86.25}\n\nperf: words\n'
    assert llama_cpp.batched_speed(lines) == 86.25
    with pytest.raises(ValueError, match="0 results"):
        llama_cpp.batched_speed("words")


@pytest.mark.parametrize(
    ("isa", "features", "build"),
    [
        ("avx512", {"avx2", "avx512f", "avx512_vnni", "avx512_bf16"}, "native"),
        ("avx512", {"avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile"}, "avx512"),
        ("avx2", {"avx2", "avx512f"}, "avx2"),
        ("avx2", {"avx2", "fma"}, "native"),
        ("plain", {"avx", "avx2"}, "plain"),
        ("plain", set(), "native"),
    ],
)
def test_the_peer_is_held_to_our_instruction_set(
    bench: Bench, isa: str, features: set[str], build: str
) -> None:
    assert bench("llama_cpp").same_set(isa, features) == build


def test_flags_of_a_held_build_switch_every_set(bench: Bench) -> None:
    llama_cpp = bench("llama_cpp")
    assert "-DGGML_NATIVE=ON" in llama_cpp.set_flags("native")
    flags = llama_cpp.set_flags("avx2")
    assert {"-DGGML_NATIVE=OFF", "-DGGML_AVX2=ON", "-DGGML_FMA=ON", "-DGGML_AVX512=OFF"} <= set(flags)
    assert {flag.partition("=")[2] for flag in llama_cpp.set_flags("plain")} == {"OFF"}


def test_a_model_that_has_the_format_is_taken_as_it_is(bench: Bench) -> None:
    llama_cpp = bench("llama_cpp")
    source = Path("Some.Q4_1.gguf")
    unbuilt = llama_cpp.LlamaCpp(isa="native", binaries=Path("nowhere"))
    assert llama_cpp.model_file("int4", source, unbuilt, Console()) == source


def test_rows_gate_the_median_against_the_same_set(bench: Bench) -> None:
    native = bench("native")
    figure = native.Figure(
        name="int4 decode", ours=lambda: 1.0, peers={"same": lambda: 1.0, "free": lambda: 1.0}, must=">= 1.0"
    )
    rows = native.rows_of(figure, [90.0, 100.0, 110.0], {"same": [50.0, 40.0, 80.0], "free": [200.0] * 3})
    assert [(row.name, row.ratio, row.missed) for row in rows] == [
        ("int4 decode: best", 110 / 80, False),
        ("int4 decode: median", 2.0, False),
        ("int4 decode: best", 0.55, False),
        ("int4 decode: median", 0.5, False),
    ]
    slower = native.rows_of(figure, [10.0], {"same": [20.0]})
    assert [row.missed for row in slower] == [False, True]


def test_both_sides_run_in_turns(bench: Bench) -> None:
    native = bench("native")
    order: list[str] = []

    def timed(name: str) -> Callable[[], float]:
        return lambda: (order.append(name), 1.0)[1]

    figure = native.Figure(name="x", ours=timed("ours"), peers={"peer": timed("peer")}, must=None)
    native.measure(figure, 3)
    assert order == ["ours", "peer"] * 3


class Absent:
    """A native side that has nothing to run."""

    def prefill_speed(self, format: str) -> float:
        raise AssertionError(f"asked for {format} prefill")

    def decode_speed(self, format: str, batch: int) -> float:
        raise AssertionError(f"asked for {format} decode at batch {batch}")


def test_gated_figures_are_those_of_the_issue(bench: Bench) -> None:
    native = bench("native")
    gated = {
        figure.name
        for format in ("int4", "int8", "bf16")
        for figure in native.figures(format, Absent(), {}, Path("x"))
        if figure.must
    }
    assert gated == {
        f"{format} {work}"
        for format in ("int4", "int8")
        for work in ("prefill 512", "decode, batch 1, context 512")
    }


def test_the_native_side_decodes_a_batch_of_equal_contexts(bench: Bench) -> None:
    side = bench("native_side").Side(probe._model())
    assert side.isa == side.engine.capabilities.numerics[0].split("/")[2]
    assert side.decode("int8", 3, 32, 4) > 0
    last = side.engine.step([side._span("int8", row, 36, 37) for row in range(3)])
    batch = side.engine.logits(last)
    alone = side.engine.logits(side.engine.step([side._span("int8", 0, 0, 37)]))
    assert np.array_equal(batch, np.repeat(alone, 3, axis=0))
    assert side.prefill("int8", 40) > 0
