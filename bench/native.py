"""The native engine against llama.cpp: same weights at the same bits, same instruction set, one thread.

Both sides run in turns on one core, in processes at raised priority where that is permitted: prefill of
512 tokens, and decode after 512 tokens of context at batch 1, 4 and 16. llama.cpp keeps KV in float16,
the native engine in bfloat16; neither side samples.

    python bench/native.py [--rounds 5] [--formats int4 int8 bf16] [--json FILE]
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

import llama_cpp
from diptych.engine.native import _kernels
from diptych.models.embedded import fetch_embedded
from prioritised import pinned, take_priority
from report import Row, argument_parser, best_and_median, finish

CONTEXT = 512
DECODE_TOKENS = 32
BATCHES = (1, 4, 16)
MUST = ">= 1.0"
GATED_FORMATS = ("int4", "int8")


class Native:
    """A running `bench/native_side.py`."""

    def __init__(self, child: subprocess.Popen[str]) -> None:
        self._child = child
        self.isa: str = json.loads(self._line())["isa"]

    def prefill_speed(self, format: str) -> float:
        return CONTEXT / self._seconds(f"{format} prefill {CONTEXT}")

    def decode_speed(self, format: str, batch: int) -> float:
        """Tokens/s over the whole batch."""
        return batch * DECODE_TOKENS / self._seconds(f"{format} decode {batch} {CONTEXT} {DECODE_TOKENS}")

    def _seconds(self, work: str) -> float:
        assert self._child.stdin is not None
        self._child.stdin.write(work + "\n")
        self._child.stdin.flush()
        return float(self._line())

    def _line(self) -> str:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        if not line:
            raise RuntimeError("the native engine's process ended early")
        return line


@contextmanager
def native_side(model: Path) -> Iterator[Native]:
    """A child with the native engine."""
    program = str(Path(__file__).with_name("native_side.py"))
    child = subprocess.Popen(
        [sys.executable, program, str(model)], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        yield Native(child)
    finally:
        child.kill()
        child.wait()


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to time on both sides, each call giving tokens/s."""

    name: str
    ours: Callable[[], float]
    peers: dict[str, Callable[[], float]]
    """By what the row says it is compared with; the first is the one that is gated."""
    must: str | None


def figures(
    format: str, native: Native, builds: dict[str, llama_cpp.LlamaCpp], model: Path
) -> Iterator[Figure]:
    """What is timed of one format. `builds`: by the words that tell them apart."""
    must = MUST if format in GATED_FORMATS else None
    peers = {f"llama.cpp {llama_cpp.MODEL_TYPES[format]}, {words}": built for words, built in builds.items()}
    yield Figure(
        name=f"{format} prefill {CONTEXT}",
        ours=partial(native.prefill_speed, format),
        peers={name: partial(built.speed, model, prompt=CONTEXT) for name, built in peers.items()},
        must=must,
    )
    for batch in BATCHES:
        yield Figure(
            name=f"{format} decode, batch {batch}, context {CONTEXT}",
            ours=partial(native.decode_speed, format, batch),
            peers={name: partial(_decode, built, model, batch) for name, built in peers.items()},
            must=must if batch == 1 else None,
        )


def _decode(built: llama_cpp.LlamaCpp, model: Path, batch: int) -> float:
    if batch == 1:
        return built.speed(model, generated=DECODE_TOKENS, depth=CONTEXT)
    return built.batched_speed(model, batch=batch, generated=DECODE_TOKENS, depth=CONTEXT)


def measure(figure: Figure, rounds: int) -> list[Row]:
    """Times both sides in turns; rows of the best and the median round."""
    ours: list[float] = []
    theirs: dict[str, list[float]] = {name: [] for name in figure.peers}
    for _ in range(rounds):
        ours.append(figure.ours())
        for name, run in figure.peers.items():
            theirs[name].append(run())
    return rows_of(figure, ours, theirs)


def rows_of(figure: Figure, ours: list[float], theirs: dict[str, list[float]]) -> list[Row]:
    best, median = best_and_median(ours, lower_is_better=False)
    rows: list[Row] = []
    for number, (name, speeds) in enumerate(theirs.items()):
        peer_best, peer_median = best_and_median(speeds, lower_is_better=False)
        for which, value, peer in (("best", best, peer_best), ("median", median, peer_median)):
            rows.append(
                Row(
                    name=f"{figure.name}: {which}",
                    value=value,
                    unit="tokens/s",
                    against=f"{name}: {peer:.4g}",
                    ratio=value / peer,
                    must=figure.must if which == "median" and number == 0 else None,
                )
            )
    return rows


def builds_for(isa: str, console: Console) -> dict[str, llama_cpp.LlamaCpp]:
    """llama.cpp held to the instruction set `isa`, then unrestricted where that is more."""
    held = llama_cpp.same_set(isa, llama_cpp.cpu_features())
    if held == "native":
        return {f"{isa} (all this CPU has)": llama_cpp.build("native", console)}
    return {
        f"held to {isa}": llama_cpp.build(held, console),
        "unrestricted": llama_cpp.build("native", console),
    }


def main() -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="turns of both sides for each figure (5)")
    parser.add_argument(
        "--formats",
        nargs="+",
        choices=tuple(llama_cpp.MODEL_TYPES),
        default=list(llama_cpp.MODEL_TYPES),
        help="weight formats (all)",
    )
    arguments = parser.parse_args()
    console = Console()
    source = fetch_embedded()
    isa = _kernels.default_variant()
    # Before the priority is raised: a build must not starve its neighbours.
    builds = builds_for(isa, console)
    quantiser = next(iter(builds.values()))
    models = {one: llama_cpp.model_file(one, source, quantiser, console) for one in arguments.formats}
    priority = take_priority()
    rows: list[Row] = []
    with pinned() as core, native_side(source) as native:
        assert native.isa == isa
        console.print(f"native kernels: {isa}; 1 thread on core {core}, {priority}")
        console.print(f"against {llama_cpp.TITLE}")
        for format, model in models.items():
            for figure in figures(format, native, builds, model):
                with console.status(f"{figure.name}, {arguments.rounds} rounds in turns"):
                    rows += measure(figure, arguments.rounds)
    settings: dict[str, Any] = {
        "isa": isa,
        "threads": 1,
        "core": core,
        "priority": priority,
        "rounds": arguments.rounds,
        "llama_cpp": {words: llama_cpp.settings(built.isa) for words, built in builds.items()},
    }
    return finish("native", rows, arguments.json, extra={"settings": settings}, console=console)


if __name__ == "__main__":
    sys.exit(main())
