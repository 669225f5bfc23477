"""Conversion in NumPy, element by element from the two records: the slow, obvious statement of what a
conversion is. It knows nothing of plans and loops, so that it can hold the kernels to account, and it is
what runs where they cannot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.conversion.dtypes import CODES, decode, encode, one_nan, quantise
from diptych.wire.kv import Factor, Group

__all__ = ["convert"]

Bytes = npt.NDArray[np.uint8]
Ids = npt.NDArray[np.int64]


class _Elements:
    """Where each element of a page lies: its region and its offset in bytes."""

    def __init__(
        self,
        group: Group,
        factors: Sequence[Factor],
        kv: int,
        dtype: np.dtype[Any],
        dims: int,
        first_byte: int,
    ) -> None:
        axes = ("layer", "head", "token", "dim")
        shape = (group.layers, group.head_range.count, group.page_tokens, dims)
        index = dict(zip(axes, np.indices(shape), strict=True)) | {"kv": np.full(shape, kv)}
        lead = group.layout.region_factors
        self.dtype = dtype
        self.region = _number(factors[:lead], index, shape)
        self.offset = first_byte + _number(factors[lead:], index, shape) * dtype.itemsize

    def _bytes(self, page: int, page_bytes: int) -> npt.NDArray[np.int64]:
        start = page * page_bytes + self.offset
        return np.asarray(start[..., None] + np.arange(self.dtype.itemsize))

    def read(self, pool: Sequence[Bytes], page: int, page_bytes: int) -> npt.NDArray[Any]:
        """[layers, heads, tokens, dims] of the codes' type."""
        out = np.empty((*self.offset.shape, self.dtype.itemsize), np.uint8)
        places = self._bytes(page, page_bytes)
        for region, data in enumerate(pool):
            here = self.region == region
            out[here] = data[places[here]]
        return out.view(self.dtype)[..., 0]

    def write(
        self, pool: Sequence[Bytes], page: int, page_bytes: int, first_head: int, codes: npt.NDArray[Any]
    ) -> None:
        """Writes `codes` [layers, heads, tokens, dims] to the heads from `first_head` on."""
        heads = slice(first_head, first_head + codes.shape[1])
        places, regions = self._bytes(page, page_bytes)[:, heads], self.region[:, heads]
        data = np.ascontiguousarray(codes).view(np.uint8).reshape(*codes.shape, self.dtype.itemsize)
        for region, target in enumerate(pool):
            here = regions == region
            target[places[here]] = data[here]


def _number(
    factors: Sequence[Factor], index: dict[str, npt.NDArray[np.int64]], shape: tuple[int, ...]
) -> npt.NDArray[np.int64]:
    """The mixed-radix number that the factors make of each element's indices."""
    out = np.zeros(shape, np.int64)
    for factor in factors:
        out = out * factor.extent + index[factor.axis] // factor.stride % factor.extent
    return out


class _Pages:
    """The pages of one side as codes and scales."""

    def __init__(self, group: Group) -> None:
        self.group = group
        codes = CODES[group.dtype]
        layouts = group.layout.key, group.layout.value
        self.elements = [
            _Elements(group, factors, kv, codes, group.head_dim, 0) for kv, factors in enumerate(layouts)
        ]
        behind = group.page_elements // group.regions * codes.itemsize
        scales = group.scales.factors if group.scales else ()
        self.scales = [
            _Elements(group, scales, kv, np.dtype(np.float32), 1, behind) for kv in (0, 1) if scales
        ]

    def read(self, pool: Sequence[Bytes], pages: Ids, kv: int) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        """Codes [layers, heads, tokens, dims] and scales [layers, heads, tokens] of consecutive pages."""
        size = self.group.region_page_bytes
        codes = [self.elements[kv].read(pool, int(page), size) for page in pages]
        scales = [self.scales[kv].read(pool, int(page), size)[..., 0] for page in pages if self.scales]
        joined = np.concatenate(scales, 2) if scales else np.empty((0, 0, 0), np.float32)
        return np.concatenate(codes, 2), joined

    def write(
        self,
        pool: Sequence[Bytes],
        pages: Ids,
        kv: int,
        first_head: int,
        codes: npt.NDArray[Any],
        scales: npt.NDArray[Any],
    ) -> None:
        size = self.group.region_page_bytes
        for number, page in enumerate(pages):
            own = slice(number * self.group.page_tokens, (number + 1) * self.group.page_tokens)
            self.elements[kv].write(pool, int(page), size, first_head, codes[:, :, own])
            if self.scales:
                self.scales[kv].write(pool, int(page), size, first_head, scales[:, :, own, None])


def convert(
    source: Group,
    target: Group,
    source_pool: Sequence[Bytes],
    source_pages: Ids,
    target_pool: Sequence[Bytes],
    target_pages: Ids,
) -> None:
    """Copies the heads that both sides hold, a few pages at a time. The numbers of pages must agree and
    the ids be within the pools."""
    reader, writer = _Pages(source), _Pages(target)
    first = max(source.head_range.first, target.head_range.first)
    end = min(group.head_range.first + group.head_range.count for group in (source, target))
    tokens = math.lcm(source.page_tokens, target.page_tokens)
    read, written = tokens // source.page_tokens, tokens // target.page_tokens
    for part in range(-(-len(source_pages) // read)):
        for kv in (0, 1):
            codes, scales = reader.read(source_pool, source_pages[part * read : (part + 1) * read], kv)
            shared = slice(first - source.head_range.first, end - source.head_range.first)
            codes, scales = _cast(source, target, codes[:, shared], scales[:, shared])
            pages = target_pages[part * written : (part + 1) * written]
            writer.write(target_pool, pages, kv, first - target.head_range.first, codes, scales)


def _cast(
    source: Group, target: Group, codes: npt.NDArray[Any], scales: npt.NDArray[Any]
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    if source.dtype == target.dtype and (source.scales is None) == (target.scales is None):
        return codes, scales
    with np.errstate(invalid="ignore", over="ignore"):
        values = decode(np.ascontiguousarray(codes), source.dtype)
        if source.scales is not None:
            values = one_nan(values * scales[..., None])
        if target.scales is not None:
            return quantise(values, target.dtype)
        return encode(values, target.dtype), scales
