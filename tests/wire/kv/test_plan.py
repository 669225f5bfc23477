"""Plans: nothing to do, a copy and what it costs, or a refusal that names the field."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from diptych.wire.kv import (
    Copy,
    Factor,
    KvFormat,
    Layout,
    Rates,
    Refusal,
    Same,
    Scales,
    hnd,
    nhd,
    panels,
    plan,
    plan_shards,
    shard,
)

GEOMETRY: dict[str, Any] = {"model": "m", "layers": 3, "kv_heads": 4, "head_dim": 64}
NHD, HND = nhd(**GEOMETRY), hnd(**GEOMETRY, page_tokens=64)


def changed(kv_format: KvFormat, **fields: Any) -> KvFormat:
    return msgspec.structs.replace(kv_format, groups=(msgspec.structs.replace(kv_format.group, **fields),))


def copied(source: KvFormat, target: KvFormat, **options: Any) -> Copy:
    found = plan(source, target, **options)
    assert isinstance(found, Copy)
    return found


def test_equal_formats_have_nothing_to_do() -> None:
    assert plan(NHD, msgspec.structs.replace(NHD, numerics="other")) == Same()


WIDE_DIMS = Layout(
    key=(*NHD.group.layout.key[:4], Factor("dim", 16), Factor("dim", 4, 16)),
    value=NHD.group.layout.value,
)
SIX: dict[str, Any] = {"model": "m", "layers": 1, "kv_heads": 1, "head_dim": 6}


def cut(inner: int) -> KvFormat:
    """Dims in an order that cuts them at `inner`."""
    dims = (Factor("dim", inner), Factor("dim", 6 // inner, inner))
    plain = nhd(**SIX)
    key = (*plain.group.layout.key[:-1], *dims)
    return changed(plain, layout=msgspec.structs.replace(plain.group.layout, key=key))


REFUSALS: dict[str, tuple[KvFormat, KvFormat, str]] = {
    "model": (NHD, nhd(**GEOMETRY | {"model": "n"}), "model: source has 'm', target 'n'"),
    "rope": (NHD, nhd(**GEOMETRY, rope_applied=False), "rope_applied: source has True, target False"),
    "groups": (
        msgspec.structs.replace(NHD, groups=NHD.groups * 2),
        HND,
        "groups: 2 groups of layers; only pools of one are handed over",
    ),
    "layers": (NHD, hnd(**GEOMETRY | {"layers": 4}), "group.layers: source has 3, target 4"),
    "heads": (NHD, hnd(**GEOMETRY | {"kv_heads": 2}), "group.kv_heads: source has 4, target 2"),
    "dims": (NHD, hnd(**GEOMETRY | {"head_dim": 128}), "group.head_dim: source has 64, target 128"),
    "latent": (
        changed(NHD, latent_dim=512),
        changed(HND, latent_dim=512),
        "group.latent_dim: 512: latent vectors are not handed over yet",
    ),
    "latent to plain": (changed(NHD, latent_dim=512), HND, "group.latent_dim: source has 512, target 0"),
    "window": (
        changed(NHD, retention="window", window_tokens=128),
        changed(HND, retention="window", window_tokens=128),
        "group.retention: 'window' layers are not handed over yet",
    ),
    "windows": (
        changed(NHD, retention="window", window_tokens=128),
        changed(HND, retention="window", window_tokens=256),
        "group.window_tokens: source has 128, target 256",
    ),
    "state": (
        changed(NHD, retention="state"),
        changed(HND, retention="state"),
        "group.retention: 'state' layers are not handed over yet",
    ),
    "shards": (
        shard(NHD, 0, 2),
        shard(HND, 1, 2),
        "group.heads: source has 2 from 0, target 2 from 2: none in common",
    ),
    "page sizes": (
        nhd(**GEOMETRY, page_tokens=8191),
        HND,
        "group.page_tokens: pages of 8191 and 64 tokens have only 1 in common",
    ),
    "layout": (
        cut(2),
        cut(3),
        "group.layout: dim is cut differently by source and target, no strided copy makes one of the other",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refusal_names_the_field(case: str) -> None:
    source, target, words = REFUSALS[case]
    found = plan(source, target)
    assert isinstance(found, Refusal)
    assert str(found) == words
    assert words.startswith(found.field)


def test_a_record_that_is_not_consistent_makes_no_plan() -> None:
    with pytest.raises(ValueError, match=r"kv_format\.group\.layers: 0"):
        plan(changed(NHD, layers=0), HND)
    split = Scales(factors=(Factor("layer", 3), Factor("kv", 2), Factor("head", 4), Factor("token", 8, 2), Factor("token", 2)))  # fmt: skip # noqa: E501
    with pytest.raises(ValueError, match=r"group\.scales\.factors: token must be one loop"):
        plan(NHD, changed(nhd(**GEOMETRY, dtype="int8"), scales=split))


def test_who_converts_is_part_of_the_plan() -> None:
    smaller = hnd(**GEOMETRY, dtype="int8")
    assert copied(NHD, HND).side == "target"
    assert copied(NHD, HND, networked=True).side == "target"
    assert copied(NHD, HND, target_converts=False).side == "source"
    assert copied(NHD, smaller, networked=True).side == "source", "half the bytes cross"
    assert copied(NHD, smaller).side == "target", "nothing crosses"
    assert copied(NHD, smaller, networked=True, source_converts=False).side == "target"
    assert copied(smaller, NHD, networked=True).side == "target"
    none = plan(NHD, HND, source_converts=False, target_converts=False)
    assert str(none) == "converts: formats differ in group.page_tokens, and neither side can convert"
    assert plan(NHD, NHD, source_converts=False, target_converts=False) == Same()


def test_what_is_exact_says_so() -> None:
    single = nhd(**GEOMETRY, dtype="float32")
    assert copied(NHD, HND).exact
    assert copied(NHD, single).exact
    assert copied(nhd(**GEOMETRY, dtype="float16"), single).exact
    assert copied(nhd(**GEOMETRY, dtype="int8"), hnd(**GEOMETRY, dtype="int8")).exact
    assert not copied(single, NHD).exact
    assert not copied(NHD, nhd(**GEOMETRY, dtype="float16")).exact
    assert not copied(NHD, nhd(**GEOMETRY, dtype="int8")).exact


@pytest.mark.parametrize(
    ("source_tokens", "target_tokens", "border", "chunk"),
    [(16, 64, 64, 16), (128, 16, 128, 16), (16, 24, 48, 8), (16, 1, 16, 1), (5, 7, 35, 1)],
)
def test_a_handoff_ends_at_a_border_of_both(
    source_tokens: int, target_tokens: int, border: int, chunk: int
) -> None:
    found = copied(nhd(**GEOMETRY, page_tokens=source_tokens), hnd(**GEOMETRY, page_tokens=target_tokens))
    assert (found.border_tokens, found.chunk_tokens) == (border, chunk)


def test_loops_are_joined_to_the_longest_runs() -> None:
    """What is equal on both sides is one run; a page that is only cut is one loop of them."""
    (nest,) = copied(NHD, HND).nests
    assert (nest.run_bytes, [loop.extent for loop in nest.loops]) == (128, [6, 4, 16])
    (nest,) = copied(NHD, nhd(**GEOMETRY, page_tokens=64)).nests
    assert (nest.run_bytes, [loop.extent for loop in nest.loops]) == (16 * 4 * 128, [6])
    (nest,) = copied(NHD, shard(NHD, 1, 2)).nests
    assert (nest.run_bytes, [loop.extent for loop in nest.loops]) == (256, [6 * 16])
    key, value = copied(panels(**GEOMETRY), panels(**GEOMETRY, page_tokens=128)).nests
    assert (key.run_bytes, value.run_bytes) == (16 * 4, 16 * 64 * 2)


def test_costs_count_bytes_and_follow_the_rates() -> None:
    rates = Rates(byte_ns=1.0, run_ns=10.0, transposed_ns=2.0, cast_ns=3.0, scaled_ns=5.0)
    elements = 2 * 3 * 4 * 64
    cost = copied(NHD, HND, rates=rates).cost(64)
    assert (cost.bytes_read, cost.bytes_written) == (64 * elements * 2, 64 * elements * 2)
    assert cost.estimate_ns == 64 * elements * 2 + 64 * elements // 64 * 10
    cost = copied(NHD, hnd(**GEOMETRY, dtype="int8"), rates=rates).cost(16)
    assert (cost.bytes_read, cost.bytes_written) == (16 * elements * 2, 16 * (elements + elements // 64 * 4))
    assert cost.estimate_ns == 16 * elements * 5
    cost = copied(NHD, panels(**GEOMETRY), rates=rates).cost(16)
    assert cost.estimate_ns == 16 * (elements // 2 // 2 + elements // 2) * 2
    part = copied(NHD, shard(HND, 0, 4), rates=rates).cost(64)
    assert part.bytes_read == 64 * elements // 4 * 2


def test_shards_that_make_up_a_target() -> None:
    quarters = [shard(NHD, rank, 4) for rank in range(4)]
    plans = plan_shards(quarters[:2], shard(HND, 0, 2))
    assert isinstance(plans, tuple)
    assert all(isinstance(one, Copy) for one in plans)
    assert plan_shards([shard(NHD, 0, 2)], shard(NHD, 0, 2)) == (Same(),)
    missing = plan_shards([quarters[0], quarters[3]], HND)
    assert str(missing) == "group.heads: heads [1, 2] of the target are in none of 2 sources"
    other = plan_shards([shard(nhd(**GEOMETRY | {"model": "n"}), 0, 2)], HND)
    assert isinstance(other, Refusal)
    assert other.field == "model"


def test_more_ranks_than_heads_hold_each_head_more_than_once() -> None:
    ranks = [shard(NHD, rank, 8).group.head_range for rank in range(8)]
    assert [(heads.first, heads.count) for heads in ranks] == [(r // 2, 1) for r in range(8)]
    with pytest.raises(ValueError, match="rank 0 of 3: 4 heads cannot be shared out so"):
        shard(NHD, 0, 3)
    with pytest.raises(ValueError, match="rank 2 of 2"):
        shard(NHD, 2, 2)
