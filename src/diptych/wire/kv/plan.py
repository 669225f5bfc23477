"""How pages of one format become pages of another: nothing to do, one strided copy, or a refusal. Pure.

A `Copy` is executed by `diptych.conversion`. It takes the tokens of a page in chunks that lie evenly in
the pages of both sides (16 tokens of a page of 16 and of one of 128), so a chunk is always the same
loops at other offsets, and pages need not be of one size. Where types differ, the elements of a (layer,
K or V, head) block of one chunk go through a small tile in rows [token][dim]; nothing larger is staged.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import msgspec

from diptych.wire.kv.loops import NoCommonLoops
from diptych.wire.kv.nests import Nest, Work
from diptych.wire.kv.rates import RATES, Rates
from diptych.wire.kv.record import SCALE_BYTES, Group, KvFormat

__all__ = ["Copy", "Cost", "Refusal", "Same", "plan", "plan_shards"]

CHUNKS_MAX = 4096
"""Chunks of one page: a peer's record shall not make a plan large."""


class Same(msgspec.Struct, frozen=True):
    """Pages may be shared, or moved as they are."""


class Refusal(msgspec.Struct, frozen=True):
    """The pair cannot hand over pages, because of one field."""

    field: str
    """Path in the record, such as `model` or `group.layers`; `converts` where neither side may."""
    why: str

    def __str__(self) -> str:
        return f"{self.field}: {self.why}"


class Cost(msgspec.Struct, frozen=True):
    bytes_read: int
    bytes_written: int
    estimate_ns: int
    """One thread, by the rates given to `plan`."""


class Copy(msgspec.Struct, frozen=True, kw_only=True):
    """One conversion of pages. Bytes that it does not name (heads of other shards) stay as they are."""

    source: Group
    target: Group
    chunk_tokens: int
    """Divides the page sizes of both sides."""
    nests: tuple[Nest, ...]
    side: str
    """Who converts: `source` or `target`."""
    exact: bool
    """Every value is the same afterwards: no cast, or one to a wider type."""
    bytes_read_per_token: int
    bytes_written_per_token: int
    ns_per_token: float

    @property
    def border_tokens(self) -> int:
        """A handoff can end at multiples of this: borders of pages of both sides."""
        return math.lcm(self.source.page_tokens, self.target.page_tokens)

    def cost(self, tokens: int) -> Cost:
        return Cost(
            tokens * self.bytes_read_per_token,
            tokens * self.bytes_written_per_token,
            round(tokens * self.ns_per_token),
        )


def plan(
    source: KvFormat,
    target: KvFormat,
    *,
    source_converts: bool = True,
    target_converts: bool = True,
    networked: bool = False,
    rates: Rates = RATES,
) -> Same | Copy | Refusal:
    """What makes pages of `target` out of pages of `source`.

    The target converts where it can: it reads each page once and owns what it writes. The source does
    where the target cannot, and where pages cross a network (`networked`) and get smaller by it. Shards
    need not hold the same heads: what both hold is copied, and `plan_shards` says whether several
    sources make up a target.

    Raises `ValueError` where a record is not consistent.
    """
    source.check()
    target.check()
    if source.difference(target) is None:
        return Same()
    if (refusal := _refusal(source, target)) is not None:
        return refusal
    side = "target" if target_converts else "source" if source_converts else None
    if side is None:
        field = source.difference(target)
        return Refusal("converts", f"formats differ in {field}, and neither side can convert")
    if networked and source_converts and _token_bytes(target.group) < _token_bytes(source.group):
        side = "source"
    try:
        return _copy(source.group, target.group, side, rates)
    except NoCommonLoops as error:
        why = f"{error.axis} is cut differently by source and target, no strided copy makes one of the other"
        return Refusal("group.layout", why)


def _refusal(source: KvFormat, target: KvFormat) -> Refusal | None:
    """The first field that no copy can bridge."""
    for field in ("model", "rope_applied"):
        ours, theirs = getattr(source, field), getattr(target, field)
        if ours != theirs:
            return Refusal(field, f"source has {ours!r}, target {theirs!r}")
    for one in (source, target):
        if len(one.groups) != 1:
            return Refusal("groups", f"{len(one.groups)} groups of layers; only pools of one are handed over")
    mine, other = source.group, target.group
    for field in ("layers", "kv_heads", "head_dim", "latent_dim", "retention", "window_tokens"):
        a, b = getattr(mine, field), getattr(other, field)
        if a != b:
            return Refusal(f"group.{field}", f"source has {a!r}, target {b!r}")
    if mine.latent_dim:
        return Refusal("group.latent_dim", f"{mine.latent_dim}: latent vectors are not handed over yet")
    if mine.retention != "full":
        return Refusal("group.retention", f"{mine.retention!r} layers are not handed over yet")
    first, end = _shared_heads(mine, other)
    if first >= end:
        a, b = mine.head_range, other.head_range
        why = f"source has {a.count} from {a.first}, target {b.count} from {b.first}: none in common"
        return Refusal("group.heads", why)
    return None


def _shared_heads(source: Group, target: Group) -> tuple[int, int]:
    a, b = source.head_range, target.head_range
    return max(a.first, b.first), min(a.first + a.count, b.first + b.count)


def _token_bytes(group: Group) -> float:
    return group.page_bytes / group.page_tokens


def _copy(source: Group, target: Group, side: str, rates: Rates) -> Copy | Refusal:
    first, end = _shared_heads(source, target)
    work = Work(source, target, first, end - first)
    if max(source.page_tokens, target.page_tokens) // work.chunk_tokens > CHUNKS_MAX:
        sizes = f"{source.page_tokens} and {target.page_tokens}"
        why = f"pages of {sizes} tokens have only {work.chunk_tokens} in common"
        return Refusal("group.page_tokens", why)
    nests = tuple(work.nests())
    elements = 2 * source.layers * (end - first) * source.head_dim
    vectors = elements // source.head_dim
    read, written = (
        elements * group.element_bytes + (vectors * SCALE_BYTES if group.scales else 0)
        for group in (source, target)
    )
    chunk_ns = sum(rates.nest_ns(nest, source, target, work.chunk_tokens) for nest in nests)
    return Copy(
        source=source,
        target=target,
        chunk_tokens=work.chunk_tokens,
        nests=nests,
        side=side,
        exact=not work.casts or (target.dtype == "float32" and source.element_bytes == 2),
        bytes_read_per_token=read,
        bytes_written_per_token=written,
        ns_per_token=chunk_ns / work.chunk_tokens,
    )


def plan_shards(
    sources: Sequence[KvFormat], target: KvFormat, *, target_converts: bool = True, rates: Rates = RATES
) -> tuple[Same | Copy, ...] | Refusal:
    """One plan for each source that together fill every head of the target (tensor parallelism 4 to 2: two
    sources; 2 to 4: one source, of which half is read), or a refusal.

    A head that several sources hold is copied from each of them; leave out the ones you do not need.
    """
    plans: list[Same | Copy] = []
    covered: set[int] = set()
    for source in sources:
        found = plan(source, target, target_converts=target_converts, rates=rates)
        if isinstance(found, Refusal):
            return found
        plans.append(found)
        first, end = _shared_heads(source.group, target.group)
        covered.update(range(first, end))
    own = target.group.head_range
    missing = [head for head in range(own.first, own.first + own.count) if head not in covered]
    if missing:
        return Refusal("group.heads", f"heads {missing} of the target are in none of {len(sources)} sources")
    return tuple(plans)
