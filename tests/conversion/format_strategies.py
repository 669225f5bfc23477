"""Random KV formats of one small model, and pools for them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from diptych.wire.kv import Factor, Group, KvFormat, Layout, Scales, shard

DTYPES = ("float32", "bfloat16", "float16", "float8_e4m3", "int8")
PAGE_TOKENS = (1, 2, 4, 8, 12, 16, 32)
Geometry = tuple[int, int, int]
"""Layers, heads, head dim."""

geometries = st.tuples(st.integers(1, 3), st.sampled_from([1, 2, 4]), st.sampled_from([2, 8, 24, 48, 64]))


@st.composite
def splits(draw: st.DrawFn, axis: str, extent: int, rounds: int = 2) -> list[Factor]:
    """Factors of one axis: it is halved at powers of two, so that any two formats have common loops."""
    borders = [1]
    for _ in range(rounds):
        step = draw(st.sampled_from([1, 2, 4]))
        if extent % (borders[-1] * step) == 0:
            borders.append(borders[-1] * step)
    borders = sorted({*borders, extent})
    pairs = itertools.pairwise(borders)
    return [Factor(axis, end // start, start) for start, end in pairs] or [Factor(axis, 1)]


@st.composite
def layouts(draw: st.DrawFn, geometry: Geometry, tokens: int) -> Layout:
    layers, heads, dims = geometry
    lead = draw(st.sampled_from([(), (), ("layer",), ("layer", "kv"), ("kv", "layer"), ("kv",)]))
    single = {"layer": Factor("layer", layers), "kv": Factor("kv", 2), "head": Factor("head", heads)}
    outer = [single[axis] for axis in lead]
    inner = [single[axis] for axis in single if axis not in lead]
    key, value = (
        outer + draw(st.permutations(inner + draw(splits("token", tokens)) + draw(splits("dim", dims))))
        for _ in range(2)
    )
    if "kv" not in lead:
        value = [*key] if draw(st.booleans()) else _aligned(key, value)
    return Layout(key=tuple(key), value=tuple(value), region_factors=len(lead))


def _aligned(key: list[Factor], value: list[Factor]) -> list[Factor]:
    """`value` reversed on both sides of K's place of `kv`: another order, as many elements below."""
    index = next(i for i, factor in enumerate(key) if factor.axis == "kv")
    lead = [factor for factor in value if factor.axis == "layer" and key[0] == factor][:1]
    before, after = key[len(lead) : index], key[index + 1 :]
    return [*lead, *reversed(before), key[index], *reversed(after)]


@st.composite
def formats(
    draw: st.DrawFn,
    geometry: Geometry,
    dtypes: Sequence[str] = DTYPES,
    page_tokens: Sequence[int] = PAGE_TOKENS,
) -> KvFormat:
    layers, heads, dims = geometry
    tokens, dtype = draw(st.sampled_from(page_tokens)), draw(st.sampled_from(dtypes))
    layout = draw(layouts(geometry, tokens))
    scaled = dtype == "int8" or (dtype == "float8_e4m3" and draw(st.booleans()))
    scales = None
    if scaled:
        lead = layout.key[: layout.region_factors]
        extents = {"layer": layers, "kv": 2, "head": heads, "token": tokens}
        rest = [Factor(a, e) for a, e in extents.items() if a not in {factor.axis for factor in lead}]
        scales = Scales(factors=(*lead, *draw(st.permutations(rest))))
    group = Group(
        layers=layers,
        kv_heads=heads,
        head_dim=dims,
        dtype=dtype,
        page_tokens=tokens,
        layout=layout,
        scales=scales,
    )
    made = KvFormat(model="m", groups=(group,))
    made.check()
    return made


@st.composite
def shards(draw: st.DrawFn, whole: KvFormat) -> KvFormat:
    degree = draw(st.sampled_from([1, 1, 2, 4]))
    return shard(whole, draw(st.integers(0, degree - 1)), degree)


def pool(kv_format: KvFormat, pages: int, random: np.random.Generator) -> list[np.ndarray]:
    """Regions of random bytes: every bit pattern that a page may hold, NaN included."""
    group = kv_format.group
    size = pages * group.region_page_bytes
    return [random.integers(0, 256, size, dtype=np.uint8) for _ in range(group.regions)]


def pages_for(
    kv_format: KvFormat, tokens: int, spare: int, random: np.random.Generator
) -> tuple[int, np.ndarray]:
    """Pages of a pool, and some of them in random order that hold `tokens` tokens."""
    count = tokens // kv_format.page_tokens
    return count + spare, random.permutation(count + spare)[:count]
