"""The KV format record: what the bytes of a page mean, as a value. DESIGN idea 7. Pure.

A page holds `page_tokens` consecutive tokens of every layer of one group. Where an element lies is told
by two lists of factors, one for K and one for V, slowest first. A factor is one loop: `extent`
consecutive steps along an axis of the model, each `stride` elements of that axis. The axes are `layer`,
`kv` (0 is K, 1 is V), `head`, `token` and `dim`; dims are counted as in the model's published weights,
with rotary halves (d and d + D/2 turn together), so an interleaved order is a split of `dim`.

Numbers in a record may come from a peer: `KvFormat.check` bounds all of them before any is used.
"""

from __future__ import annotations

from typing import NoReturn

import msgspec

__all__ = ["DTYPE_BYTES", "Factor", "Group", "HeadRange", "KvFormat", "Layout", "Scales"]

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2, "float8_e4m3": 1, "int8": 1}
"""`float8_e4m3` is the OCP type without infinities (E4M3FN), greatest value 448."""
SCALE_BYTES = 4
AXES = ("layer", "kv", "head", "token", "dim")
RETENTIONS = ("full", "window", "state")
EXTENT_MAX = 1 << 16
FACTORS_MAX = 16
PAGE_BYTES_MAX = 1 << 32


class Factor(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One loop of a layout: `extent` consecutive steps along `axis`, each `stride` elements of it."""

    axis: str
    extent: int
    stride: int = 1


class Layout(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Order of a page's elements, slowest factor first."""

    key: tuple[Factor, ...]
    value: tuple[Factor, ...]
    region_factors: int = 0
    """So many leading factors (of axes `layer` and `kv`) choose a region: memory of its own, in which
    the pages lie one after the other. 0: a pool is one region and a page is contiguous."""


class Scales(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One float32 scale for each (layer, K or V, head, token): value = code * scale.

    They follow the elements of their page (of their region's part of it), ordered by `factors` over
    those four axes, slowest first.
    """

    factors: tuple[Factor, ...]


class HeadRange(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """The K and V heads that a tensor-parallel shard holds: `count` from `first`."""

    first: int
    count: int


class Group(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Layers of one geometry and one retention, and how their pages are laid out."""

    layers: int
    kv_heads: int
    """K heads, and as many V heads, of the model."""
    head_dim: int
    dtype: str
    page_tokens: int
    layout: Layout
    scales: Scales | None = None
    heads: HeadRange | None = None
    """Of a tensor-parallel shard; None: all of them."""
    latent_dim: int = 0
    """Width of the one latent vector a token has in place of K and V (MLA); 0 where there is none.
    Described; no engine here has it, so nothing pairs on it."""
    retention: str = "full"
    """`full`, or `window` (the last `window_tokens`), or `state` (one recurrent state, no tokens). The
    last two are described, as `latent_dim` is."""
    window_tokens: int = 0

    @property
    def head_range(self) -> HeadRange:
        return self.heads or HeadRange(0, self.kv_heads)

    @property
    def element_bytes(self) -> int:
        return DTYPE_BYTES[self.dtype]

    @property
    def page_elements(self) -> int:
        return 2 * self.layers * self.head_range.count * self.page_tokens * self.head_dim

    @property
    def page_bytes(self) -> int:
        """Elements and scales of one page over all regions."""
        scales = self.page_elements // self.head_dim * SCALE_BYTES if self.scales else 0
        return self.page_elements * self.element_bytes + scales

    @property
    def regions(self) -> int:
        count = 1
        for factor in self.layout.key[: self.layout.region_factors]:
            count *= factor.extent
        return count

    @property
    def region_page_bytes(self) -> int:
        """What one page takes of each region."""
        return self.page_bytes // self.regions

    def check(self) -> None:
        """Raises `ValueError` naming the field."""
        _check_numbers(self)
        extents = self._extents()
        for name in ("key", "value"):
            _check_factors(f"group.layout.{name}", getattr(self.layout, name), extents)
        _check_sides(self.layout)
        if self.scales is None:
            if self.dtype == "int8":
                _refuse("group.scales", "int8 elements mean nothing without scales")
            return
        _check_factors("group.scales.factors", self.scales.factors, extents | {"dim": 1})
        if sum(factor.axis == "token" for factor in self.scales.factors) != 1:
            _refuse("group.scales.factors", "token must be one loop")
        lead = self.layout.region_factors
        if self.scales.factors[:lead] != self.layout.key[:lead]:
            _refuse("group.scales.factors", "must begin with the factors that choose the region")

    def _extents(self) -> dict[str, int]:
        return {
            "layer": self.layers,
            "kv": 2,
            "head": self.head_range.count,
            "token": self.page_tokens,
            "dim": self.head_dim,
        }


class KvFormat(msgspec.Struct, frozen=True, kw_only=True):
    """Format of a worker's pool. Two formats are equal where pages may be shared; see `difference`."""

    model: str
    """Fingerprint of the model's configuration and weights (not of a numerics choice)."""
    groups: tuple[Group, ...]
    """One at present: a pool of several kinds of pages is described, and refused by name."""
    rope_applied: bool = True
    """Whether K is stored turned to its position."""
    numerics: str = ""
    """Numerics id of who computes the pages, for people. Which numerics a page has is its recipe's to
    say, so it decides nothing here and is no part of the hash."""

    @property
    def group(self) -> Group:
        """The one group. Raises `ValueError` where there are more."""
        if len(self.groups) != 1:
            _refuse("groups", f"{len(self.groups)} of them; engines here have pools of one group")
        return self.groups[0]

    @property
    def page_tokens(self) -> int:
        return self.group.page_tokens

    @property
    def page_bytes(self) -> int:
        return self.group.page_bytes

    def check(self) -> None:
        """Raises `ValueError` naming the first field that is out of range or says nothing consistent."""
        if not self.model:
            _refuse("model", "is empty")
        if not 1 <= len(self.groups) <= FACTORS_MAX:
            _refuse("groups", f"{len(self.groups)} of them, from 1 to {FACTORS_MAX} can be")
        for group in self.groups:
            group.check()

    def difference(self, other: KvFormat) -> str | None:
        """Path of the first field in which the bytes of `other` mean something else (`model`,
        `group.dtype`, `group.layout.key`, ...), or None where pages may be shared."""
        for field in ("model", "rope_applied"):
            if getattr(self, field) != getattr(other, field):
                return field
        if len(self.groups) != len(other.groups):
            return "groups"
        for group, theirs in zip(self.groups, other.groups, strict=True):
            if (path := _group_difference(group, theirs)) is not None:
                return f"group.{path}"
        return None

    def field(self, path: str) -> object:
        """The value at a path that `difference` returned."""
        value: object = self
        for name in path.split("."):
            value = getattr(value, name)
        return value


def _group_difference(group: Group, other: Group) -> str | None:
    for field in group.__struct_fields__:
        mine, theirs = getattr(group, field), getattr(other, field)
        if field == "heads":
            mine, theirs = group.head_range, other.head_range
        if mine == theirs:
            continue
        if field == "layout":
            return next(
                f"layout.{n}" for n in mine.__struct_fields__ if getattr(mine, n) != getattr(theirs, n)
            )
        return field
    return None


def _check_numbers(group: Group) -> None:
    for name in ("layers", "kv_heads", "head_dim", "page_tokens"):
        if not 1 <= getattr(group, name) <= EXTENT_MAX:
            _refuse(f"group.{name}", f"{getattr(group, name)} is not from 1 to {EXTENT_MAX}")
    if group.dtype not in DTYPE_BYTES:
        _refuse("group.dtype", f"{group.dtype!r} is none of {', '.join(DTYPE_BYTES)}")
    if group.retention not in RETENTIONS:
        _refuse("group.retention", f"{group.retention!r} is none of {', '.join(RETENTIONS)}")
    if (group.retention == "window") != (group.window_tokens > 0):
        _refuse("group.window_tokens", f"{group.window_tokens} with retention {group.retention}")
    if not 0 <= group.latent_dim <= EXTENT_MAX:
        _refuse("group.latent_dim", f"{group.latent_dim} is not from 0 to {EXTENT_MAX}")
    heads = group.head_range
    if heads.count < 1 or not 0 <= heads.first <= group.kv_heads - heads.count:
        _refuse("group.heads", f"{heads.count} from {heads.first} on, of {group.kv_heads}")
    if group.page_bytes > PAGE_BYTES_MAX:
        _refuse("group.page_tokens", f"a page of {group.page_bytes} bytes, at most {PAGE_BYTES_MAX} can be")


def _check_factors(path: str, factors: tuple[Factor, ...], extents: dict[str, int]) -> None:
    """Every index of every axis exactly once: the factors of an axis, by stride, make a mixed radix."""
    if len(factors) > FACTORS_MAX:
        _refuse(path, f"{len(factors)} factors, at most {FACTORS_MAX} can be")
    for axis in dict.fromkeys(factor.axis for factor in factors):
        if axis not in extents:
            _refuse(path, f"axis {axis!r} is none of {', '.join(extents)}")
    for axis, extent in extents.items():
        reached = 1
        own = sorted((f for f in factors if f.axis == axis), key=lambda f: (f.stride, f.extent))
        for factor in own:
            if factor.stride != reached or not 1 <= factor.extent <= EXTENT_MAX:
                _refuse(path, f"{axis} has no step of {reached} elements where one is due")
            reached *= factor.extent
        if reached != extent or (axis not in ("token", "dim") and len(own) > 1):
            _refuse(path, f"the factors of {axis} cover {reached} elements in {len(own)} loops, not {extent}")


def _check_sides(layout: Layout) -> None:
    """K and V share a page without sharing a byte, and a region factor is one of both."""
    lead = layout.region_factors
    if not 0 <= lead <= 2 or layout.key[:lead] != layout.value[:lead]:
        _refuse("group.layout.region_factors", "K and V must begin with the same region factors")
    if any(factor.axis not in ("layer", "kv") for factor in layout.key[:lead]):
        _refuse("group.layout.region_factors", "only layer and kv can choose a region")
    below = []
    for factors in (layout.key, layout.value):
        size = 1
        for factor in reversed(factors):
            if factor.axis == "kv":
                break
            size *= factor.extent
        below.append(size)
    if below[0] != below[1]:
        _refuse("group.layout.value", "kv must have as many elements below it as in group.layout.key")


def _refuse(path: str, why: str) -> NoReturn:
    raise ValueError(f"kv_format.{path}: {why}")
