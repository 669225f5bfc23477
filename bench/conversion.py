"""Conversion of KV pages on one thread, against memcpy of the source's bytes between the same pools.

Pools of 128 MiB and more, pages at random places of both. memcpy moves one source page at a time (2 MiB
of the 8B geometry, 360 KiB of the 135M one), in turns with the conversion. Speeds count the source's
bytes, so that a conversion to a smaller type is compared with moving what it read.

    python bench/conversion.py [--rounds 9] [--isa NAME] [--json FILE]
"""

from __future__ import annotations

import ctypes
import mmap
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from diptych.conversion import Conversion
from diptych.wire.kv import Copy, KvFormat, Rates, hnd, nhd, panels, plan, vllm_cpu
from prioritised import pinned, take_priority
from report import Row, argument_parser, finish

POOL_BYTES = 128 << 20
GEOMETRIES = {
    "8B": {"layers": 32, "kv_heads": 8, "head_dim": 128},
    "135M": {"layers": 30, "kv_heads": 3, "head_dim": 64},
}
Pool = npt.NDArray[np.uint8]


class Case(msgspec.Struct, frozen=True):
    name: str
    source: KvFormat
    target: KvFormat
    must: str | None = None
    goal: str | None = None


def cases(name: str, geometry: dict[str, Any]) -> list[Case]:
    fields = geometry | {"model": name}
    source = nhd(**fields)
    of = f"{name}: "
    return [
        Case(of + "bf16 NHD/16 to HND/64", source, hnd(**fields, page_tokens=64), ">= 0.5", ">= 0.8"),
        Case(
            of + "bf16 NHD/16 to int8 HND/64 with scales",
            source,
            hnd(**fields, page_tokens=64, dtype="int8"),
            ">= 0.25",
            ">= 0.5",
        ),
        Case(
            of + "bf16 NHD/16 to fp8 HND/64 with scales",
            source,
            hnd(**fields, page_tokens=64, dtype="float8_e4m3"),
            ">= 0.25",
            ">= 0.5",
        ),
        Case(of + "bf16 HND/16 to HND/64", hnd(**fields), hnd(**fields, page_tokens=64)),
        Case(of + "int8 HND/64 to bf16 NHD/16", hnd(**fields, page_tokens=64, dtype="int8"), source),
        Case(of + "bf16 HND/64 to NHD/16", hnd(**fields, page_tokens=64), source),
        Case(of + "bf16 NHD/16 to panels/16", source, panels(**fields)),
        Case(of + "bf16 panels/16 to HND/64", panels(**fields), hnd(**fields, page_tokens=64)),
        Case(of + "bf16 panels/16 to f32 vLLM-CPU/128", panels(**fields), vllm_cpu(**fields)),
        Case(of + "bf16 NHD/16 to f32 NHD/16", source, nhd(**fields, dtype="float32")),
        Case(of + "bf16 NHD/16 to f16 NHD/16", source, nhd(**fields, dtype="float16")),
    ]


def allocated(size_bytes: int) -> Pool:
    """Memory as pools have it: from a page border on, in huge pages where they are granted, and touched."""
    memory = mmap.mmap(-1, size_bytes)
    memory.madvise(mmap.MADV_HUGEPAGE)
    data = np.frombuffer(memory, np.uint8)
    data[:] = 1
    return data


class Bench:
    """The pools of one case, and the two things that are timed in turns."""

    def __init__(self, case: Case, isa: str | None, random: np.random.Generator) -> None:
        copy = plan(case.source, case.target)
        assert isinstance(copy, Copy)
        self.copy = copy
        self.conversion = Conversion(copy, isa=isa)
        tokens = max(1, POOL_BYTES // case.source.page_bytes * case.source.page_tokens // copy.border_tokens)
        tokens *= copy.border_tokens
        self.bytes = tokens // case.source.page_tokens * case.source.page_bytes
        self.estimate_ns = copy.cost(tokens).estimate_ns
        self.source, self.source_pages = self._side(case.source, tokens, random)
        self.target, self.target_pages = self._side(case.target, tokens, random)
        for region in self.source:
            # Values of a normal distribution; random bits would be a fifth NaN and infinities.
            values = random.standard_normal(1 << 16, np.float32).view(np.uint16)[1::2]
            if case.source.group.dtype == "bfloat16":
                region.view(np.uint16)[:] = np.resize(values, region.size // 2)
        self.copied = allocated(self.bytes)
        self.page_bytes = case.source.page_bytes
        self.slots = random.permutation(len(self.source_pages))

    @staticmethod
    def _side(
        kv_format: KvFormat, tokens: int, random: np.random.Generator
    ) -> tuple[list[Pool], npt.NDArray[np.int64]]:
        pages, group = tokens // kv_format.page_tokens, kv_format.group
        regions = [allocated(pages * group.region_page_bytes) for _ in range(group.regions)]
        return regions, random.permutation(pages)

    def convert(self) -> None:
        self.conversion.run(self.source, self.source_pages, self.target, self.target_pages)

    def memcpy(self) -> None:
        (source,) = self.source
        start, end, size = source.ctypes.data, self.copied.ctypes.data, self.page_bytes
        for page, slot in zip(self.source_pages.tolist(), self.slots.tolist(), strict=True):
            ctypes.memmove(end + slot * size, start + page * size, size)


def seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(case: Case, isa: str | None, rounds: int) -> tuple[Row, float]:
    """The case's row, and ns for each element."""
    bench = Bench(case, isa, np.random.default_rng(1))
    bench.convert()
    bench.memcpy()
    pairs = [(seconds(bench.convert), seconds(bench.memcpy)) for _ in range(rounds)]
    converted = statistics.median(pair[0] for pair in pairs)
    copied = statistics.median(pair[1] for pair in pairs)
    print(
        f"{case.name}: {bench.bytes / converted / 1e9:.2f} GB/s, memcpy {bench.bytes / copied / 1e9:.2f}, "
        f"predicted {bench.estimate_ns / converted / 1e9:.2f}x of the time",
        file=sys.stderr,
    )
    row = Row(
        name=case.name,
        value=bench.bytes / converted / 1e9,
        unit="GB/s",
        against="memcpy of the source's pages, scattered",
        ratio=statistics.median(copied / converted for converted, copied in pairs),
        must=case.must,
        goal=case.goal,
    )
    return row, converted * 1e9 / (bench.bytes / case.source.group.element_bytes)


def rates(element_ns: dict[str, float]) -> Rates:
    """From the 8B cases, by what each of them does to an element: see `Rates.nest_ns`."""
    byte_ns = element_ns["8B: bf16 HND/16 to HND/64"] / 2
    run_ns = (element_ns["8B: bf16 NHD/16 to HND/64"] - 2 * byte_ns) * GEOMETRIES["8B"]["head_dim"]
    # K goes by pairs of elements, V one by one.
    transposed_ns = element_ns["8B: bf16 NHD/16 to panels/16"] / 0.75
    return Rates(
        byte_ns=byte_ns,
        run_ns=max(0.0, run_ns),
        transposed_ns=transposed_ns,
        cast_ns=element_ns["8B: bf16 NHD/16 to f32 NHD/16"],
        scaled_ns=element_ns["8B: bf16 NHD/16 to int8 HND/64 with scales"],
    )


def main() -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="of each case, in turns with memcpy (9)")
    parser.add_argument("--isa", help="instruction set (the best this CPU has)")
    arguments = parser.parse_args()
    priority = take_priority()
    with pinned():
        measured = [
            measure(case, arguments.isa, arguments.rounds)
            for name, geometry in GEOMETRIES.items()
            for case in cases(name, geometry)
        ]
    rows = [row for row, _ in measured]
    found = rates({row.name: element_ns for row, element_ns in measured})
    print(f"this machine's {found}", file=sys.stderr)
    settings = {"rounds": arguments.rounds, "isa": arguments.isa or "best", "priority": priority}
    extra = {"settings": settings, "rates": msgspec.to_builtins(found)}
    return finish("conversion", rows, arguments.json, extra=extra)


if __name__ == "__main__":
    sys.exit(main())
