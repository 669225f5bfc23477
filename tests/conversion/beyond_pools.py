"""Converts between pools with forbidden memory before and behind them; a stray access kills the process."""

from __future__ import annotations

import ctypes
import itertools
import mmap
from typing import Any

import numpy as np

from diptych.conversion import Conversion, instruction_sets
from diptych.wire.kv import Copy, KvFormat, hnd, llama_cpp, nhd, panels, plan, shard, vllm_cpu

PAGE = mmap.PAGESIZE


def guarded(size: int, at_end: bool) -> tuple[mmap.mmap, np.ndarray]:
    """`size` bytes that begin, or end, where memory may be neither read nor written."""
    room = -(-size // PAGE) * PAGE
    memory = mmap.mmap(-1, room + 2 * PAGE)
    data = np.frombuffer(memory, np.uint8)
    for fence in (data.ctypes.data, data.ctypes.data + PAGE + room):
        if ctypes.CDLL(None).mprotect(ctypes.c_void_p(fence), ctypes.c_size_t(PAGE), 0) != 0:
            raise OSError("mprotect failed")
    start = PAGE + room - size if at_end else PAGE
    return memory, data[start : start + size]


def formats(head_dim: int) -> list[KvFormat]:
    fields: dict[str, Any] = {"model": "m", "layers": 2, "kv_heads": 2, "head_dim": head_dim}
    return [
        panels(**fields),
        nhd(**fields, dtype="float32", regions="layer"),
        hnd(**fields, dtype="float16", regions="layer kv", page_tokens=24),
        hnd(**fields, dtype="int8", page_tokens=32),
        nhd(**fields, dtype="float8_e4m3"),
        vllm_cpu(**fields, page_tokens=48),
        llama_cpp(**fields, page_tokens=48, transposed_values=True),
        shard(nhd(**fields), 1, 2),
    ]


def main() -> None:
    for head_dim, at_end in itertools.product((2, 24, 72), (False, True)):
        for source, target in itertools.permutations(formats(head_dim), 2):
            copy = plan(source, target)
            if not isinstance(copy, Copy):
                raise TypeError(str(copy))
            sides = []
            for kv_format in (source, target):
                pages = copy.border_tokens // kv_format.page_tokens
                size = pages * kv_format.group.region_page_bytes
                sides.append((pages, [guarded(size, at_end) for _ in range(kv_format.group.regions)]))
            (read, source_pool), (written, target_pool) = sides
            for isa in instruction_sets():
                reading, writing = ([data for _, data in pool] for pool in (source_pool, target_pool))
                Conversion(copy, isa=isa).run(reading, range(read), writing, range(written))
    print("within the pools")


if __name__ == "__main__":
    main()
