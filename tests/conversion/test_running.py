"""Running a conversion: what is refused before a byte is written, large copies, threads."""

from __future__ import annotations

import functools
import mmap
import threading
from typing import Any

import numpy as np
import pytest

from diptych.conversion import Conversion, instruction_sets
from diptych.wire.kv import Copy, KvFormat, hnd, llama_cpp, nhd, panels, plan, shard, vllm_cpu

GEOMETRY: dict[str, Any] = {"model": "m", "layers": 2, "kv_heads": 2, "head_dim": 16}
SMALL, LARGE = nhd(**GEOMETRY), hnd(**GEOMETRY, page_tokens=64)


def conversion(source: KvFormat, target: KvFormat, executor: str) -> Conversion:
    copy = plan(source, target)
    assert isinstance(copy, Copy)
    if executor == "numpy":
        return Conversion(copy, executor="numpy")
    return Conversion(copy, isa=executor)


def random_pool(kv_format: KvFormat, pages: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, pages * kv_format.page_bytes, dtype=np.uint8)


@pytest.mark.parametrize("executor", [*instruction_sets(), "numpy"])
@pytest.mark.parametrize(
    ("source_pages", "target_pages", "message"),
    [
        ([0, 1, 2], [0], "^pages: "),
        ([0, 1, 2, 8], [0], r"source_pages\[3\]: page 8, the pool has 8"),
        ([0, -1, 2, 3], [0], r"source_pages\[1\]: page -1, the pool has 8"),
        ([0, 1, 2, 3], [2], r"target_pages\[0\]: page 2, the pool has 2"),
        ([[0, 1], [2, 3]], [0], "source_pages: 2 dimensions"),
    ],
)
def test_pages_that_do_not_fit_are_refused_before_a_byte_is_written(
    executor: str, source_pages: Any, target_pages: Any, message: str
) -> None:
    source, target = random_pool(SMALL, 8, 1), np.zeros(2 * LARGE.page_bytes, np.uint8)
    with pytest.raises(ValueError, match=message):
        conversion(SMALL, LARGE, executor).run(source, source_pages, target, target_pages)
    assert not target.any()


@pytest.mark.parametrize("executor", [*instruction_sets(), "numpy"])
def test_pools_that_do_not_fit_are_refused(executor: str) -> None:
    source, target = random_pool(SMALL, 4, 1), np.zeros(LARGE.page_bytes, np.uint8)
    run = conversion(SMALL, LARGE, executor).run
    with pytest.raises(ValueError, match="target_pool: must be writable"):
        run(source, [0, 1, 2, 3], target.tobytes(), [0])
    with pytest.raises(ValueError, match="target_pool: no region"):
        run(source, [0, 1, 2, 3], [], [0])
    split = llama_cpp(**GEOMETRY, page_tokens=16)
    regions = [np.zeros(split.group.region_page_bytes, np.uint8) for _ in range(3)]
    with pytest.raises(ValueError, match="source_pool: 3 regions, the format has 4"):
        conversion(split, SMALL, executor).run(regions, [0], source, [0])


def test_what_cannot_execute_says_so() -> None:
    copy = plan(SMALL, LARGE)
    assert isinstance(copy, Copy)
    with pytest.raises(ValueError, match="executor: 'cuda' is none of native, numpy"):
        Conversion(copy, executor="cuda")
    with pytest.raises(ValueError, match="instruction set 'sse9'"):
        Conversion(copy, isa="sse9")
    assert Conversion(copy, isa="plain").isa == "plain"
    assert Conversion(copy, executor="numpy").isa == "numpy"


def test_without_compiled_kernels_the_model_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("diptych.conversion.execution.kernels", None)
    assert instruction_sets() == []
    copy = plan(SMALL, LARGE)
    assert isinstance(copy, Copy)
    assert Conversion(copy).isa == "numpy"
    with pytest.raises(ValueError, match="executor: 'native' was not compiled here"):
        Conversion(copy, executor="native")


def test_no_pages_are_no_work() -> None:
    target = np.zeros(LARGE.page_bytes, np.uint8)
    conversion(SMALL, LARGE, "plain").run(random_pool(SMALL, 1, 1), [], target, [])
    assert not target.any()


def test_a_read_only_mapping_is_read_where_it_lies() -> None:
    """Nothing of the source is copied or written on the way: its pages are a private read-only mapping."""
    source = random_pool(SMALL, 4, 2)
    with mmap.mmap(-1, source.nbytes) as memory:
        memory[:] = source.tobytes()
        target = np.zeros(LARGE.page_bytes, np.uint8)
        conversion(SMALL, LARGE, "plain").run(memoryview(memory).toreadonly(), [0, 1, 2, 3], target, [0])
    expected = np.zeros(LARGE.page_bytes, np.uint8)
    conversion(SMALL, LARGE, "numpy").run(source, [0, 1, 2, 3], expected, [0])
    assert target.tobytes() == expected.tobytes()


BIG: dict[str, Any] = {"model": "m", "layers": 4, "kv_heads": 4, "head_dim": 64}
LARGE_PAIRS = {
    "runs": (nhd(**BIG), hnd(**BIG, page_tokens=64)),
    "whole pages": (hnd(**BIG), nhd(**BIG, page_tokens=1)),
    "transposed": (nhd(**BIG), panels(**BIG, page_tokens=64)),
    "transposed back": (panels(**BIG), hnd(**BIG, page_tokens=64)),
    "cast": (nhd(**BIG), nhd(**BIG, dtype="float32")),
    "scaled": (nhd(**BIG, dtype="float32"), hnd(**BIG, page_tokens=64, dtype="int8")),
    "cast and transposed": (panels(**BIG), vllm_cpu(**BIG)),
    "shard": (shard(nhd(**BIG), 1, 2), hnd(**BIG)),
}


@functools.cache
def large_copy(pair: str) -> tuple[Copy, np.ndarray, np.ndarray, np.ndarray, list[bytes]]:
    """The plan, the source with its pages, the target's pages, and what the model makes of them."""
    source, target = LARGE_PAIRS[pair]
    copy = plan(source, target)
    assert isinstance(copy, Copy)
    tokens = 128
    while tokens // target.page_tokens * target.page_bytes < 5 << 20:
        tokens *= 2
    pages = np.random.default_rng(3).permutation(tokens // source.page_tokens)
    read = np.random.default_rng(4).integers(0, 256, len(pages) * source.page_bytes, dtype=np.uint8)
    table = np.random.default_rng(5).permutation(tokens // target.page_tokens)
    size = len(table) * target.group.region_page_bytes
    expected = [np.zeros(size, np.uint8) for _ in range(target.group.regions)]
    Conversion(copy, executor="numpy").run(read, pages, expected, table)
    return copy, read, pages, table, [region.tobytes() for region in expected]


@pytest.mark.parametrize("isa", instruction_sets())
@pytest.mark.parametrize("pair", LARGE_PAIRS)
def test_large_copies_past_the_caches_write_the_same(pair: str, isa: str) -> None:
    """Above 4 MiB lines are streamed where they are whole and aligned, which the second start is not."""
    copy, read, pages, table, expected = large_copy(pair)
    for start in (0, 16):
        regions = [mmap.mmap(-1, len(region) + 4096) for region in expected]
        made = [np.frombuffer(region, np.uint8)[start : len(expected[0]) + start] for region in regions]
        Conversion(copy, isa=isa).run(read, pages, made, table)
        assert [region.tobytes() for region in made] == expected


def test_one_conversion_runs_in_several_threads() -> None:
    source = random_pool(SMALL, 64, 6)
    shared = conversion(SMALL, hnd(**GEOMETRY, page_tokens=64, dtype="int8"), instruction_sets()[0])
    size = shared.copy.target.page_bytes
    expected = np.zeros(16 * size, np.uint8)
    shared.run(source, range(64), expected, range(16))
    made = np.zeros(16 * size, np.uint8)

    def work(page: int) -> None:
        for _ in range(50):
            shared.run(source, range(4 * page, 4 * page + 4), made, [page])

    threads = [threading.Thread(target=work, args=(page,)) for page in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made.tobytes() == expected.tobytes()
