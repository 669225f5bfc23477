"""Properties over the cross product of formats, against the NumPy model that knows only the records."""

from __future__ import annotations

import math

import numpy as np
import pytest
from format_strategies import Geometry, formats, geometries, pages_for, pool, shards
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diptych.conversion import Conversion, instruction_sets
from diptych.wire.kv import Copy, KvFormat, Same, plan, shard

SETTINGS = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


def converted(
    source: KvFormat,
    target: KvFormat,
    source_pool: list[np.ndarray],
    source_pages: np.ndarray,
    random: np.random.Generator,
) -> tuple[list[np.ndarray], np.ndarray]:
    """A fresh pool of the target's with the source's pages in it, and where they are."""
    tokens = len(source_pages) * source.page_tokens
    count, pages = pages_for(target, tokens, 2, random)
    made = pool(target, count, random)
    copy = plan(source, target)
    if isinstance(copy, Same):
        for before, after in zip(source_pool, made, strict=True):
            size = source.group.region_page_bytes
            after.reshape(-1, size)[pages] = before.reshape(-1, size)[source_pages]
        return made, pages
    assert isinstance(copy, Copy)
    Conversion(copy).run(source_pool, source_pages, made, pages)
    return made, pages


def in_order(kv_format: KvFormat, regions: list[np.ndarray], pages: np.ndarray) -> bytes:
    size = kv_format.group.region_page_bytes
    return b"".join(region.reshape(-1, size)[pages].tobytes() for region in regions)


@SETTINGS
@given(st.data(), geometries)
def test_every_instruction_set_equals_the_model(data: st.DataObject, geometry: Geometry) -> None:
    """All bytes of the target's pool, so also: nothing is written beyond the pages and heads meant."""
    source = data.draw(shards(data.draw(formats(geometry))))
    target = data.draw(shards(data.draw(formats(geometry))))
    copy = plan(source, target)
    if not isinstance(copy, Copy):
        return
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    tokens = copy.border_tokens * data.draw(st.integers(1, 3))
    read_count, read = pages_for(source, tokens, 1, random)
    written_count, written = pages_for(target, tokens, 2, random)
    source_pool, target_pool = pool(source, read_count, random), pool(target, written_count, random)
    expected = [region.copy() for region in target_pool]
    Conversion(copy, executor="numpy").run(source_pool, read, expected, written)
    for isa in instruction_sets():
        made = [region.copy() for region in target_pool]
        Conversion(copy, isa=isa).run(source_pool, read, made, written)
        assert [region.tobytes() for region in made] == [region.tobytes() for region in expected], isa


@SETTINGS
@given(st.data(), geometries, st.sampled_from(["float32", "bfloat16", "float16", "int8"]))
def test_without_a_cast_every_bit_comes_back(data: st.DataObject, geometry: Geometry, dtype: str) -> None:
    here, there = (data.draw(formats(geometry, [dtype])) for _ in range(2))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    tokens = math.lcm(here.page_tokens, there.page_tokens)
    count, pages = pages_for(here, tokens, 1, random)
    first = pool(here, count, random)
    middle, middle_pages = converted(here, there, first, pages, random)
    last, last_pages = converted(there, here, middle, middle_pages, random)
    assert in_order(here, last, last_pages) == in_order(here, first, pages)


@SETTINGS
@given(st.data(), geometries)
def test_a_wider_type_and_back_is_exact(data: st.DataObject, geometry: Geometry) -> None:
    narrow = data.draw(formats(geometry, ["bfloat16", "float16"]))
    wide = data.draw(formats(geometry, ["float32"]))
    copy = plan(narrow, wide)
    assert isinstance(copy, Copy)
    assert copy.exact
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    count, pages = pages_for(narrow, copy.border_tokens, 0, random)
    first = pool(narrow, count, random)
    for region in first:
        halves = region.view(np.uint16)
        special = 0x7F80 if narrow.group.dtype == "bfloat16" else 0x7C00
        halves[(halves & special) == special] &= 0xBFFF  # NaN has one form after a cast
    middle, middle_pages = converted(narrow, wide, first, pages, random)
    last, last_pages = converted(wide, narrow, middle, middle_pages, random)
    assert in_order(narrow, last, last_pages) == in_order(narrow, first, pages)


@SETTINGS
@given(st.data(), st.tuples(st.integers(1, 2), st.just(4), st.sampled_from([8, 48])))
def test_shards_of_any_degree_make_the_whole_again(data: st.DataObject, geometry: Geometry) -> None:
    """Tensor parallelism 1 to 2 to 4 and back, each with layouts of its own."""
    dtype = data.draw(st.sampled_from(["float32", "bfloat16", "int8"]))
    whole = data.draw(formats(geometry, [dtype]))
    random = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    steps = [data.draw(formats(geometry, [dtype])) for _ in range(4)]
    tokens = math.lcm(whole.page_tokens, *(step.page_tokens for step in steps))
    count, pages = pages_for(whole, tokens, 1, random)
    first = pool(whole, count, random)
    held = [(whole, first, pages)]
    for degree, step in zip((2, 4, 2, 1), steps, strict=True):
        ranks = [shard(step, rank, degree) for rank in range(degree)]
        held = [(rank, *gathered(held, rank, tokens, random)) for rank in ranks]
    last, last_pages = gathered(held, whole, tokens, random)
    assert in_order(whole, last, last_pages) == in_order(whole, first, pages)


def gathered(
    sources: list[tuple[KvFormat, list[np.ndarray], np.ndarray]],
    target: KvFormat,
    tokens: int,
    random: np.random.Generator,
) -> tuple[list[np.ndarray], np.ndarray]:
    """The target's pages from all sources that hold heads of it."""
    count, pages = pages_for(target, tokens, 1, random)
    made = pool(target, count, random)
    for source, source_pool, source_pages in sources:
        found = plan(source, target)
        if isinstance(found, Copy):
            Conversion(found).run(source_pool, source_pages, made, pages)
        elif isinstance(found, Same):
            return source_pool, source_pages
        else:
            assert found.field == "group.heads"
    return made, pages


@pytest.mark.parametrize("tokens", [128, 384])
def test_pages_of_16_become_pages_of_128_and_back(tokens: int) -> None:
    from diptych.wire.kv import hnd, panels

    geometry = {"model": "m", "layers": 3, "kv_heads": 2, "head_dim": 64}
    small, large = panels(**geometry), hnd(**geometry, page_tokens=128)
    random = np.random.default_rng(7)
    count, pages = pages_for(small, tokens, 3, random)
    first = pool(small, count, random)
    middle, middle_pages = converted(small, large, first, pages, random)
    assert len(middle_pages) == tokens // 128
    last, last_pages = converted(large, small, middle, middle_pages, random)
    assert in_order(small, last, last_pages) == in_order(small, first, pages)
