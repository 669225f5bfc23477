"""KV pages of any layout that torch can stride over, read and written where they lie in the pool.

The pool is the only place where K and V are kept, and its format says where each element lies: the same
factors that conversions are made of become the strides of two views. What attention needs of one layer
is gathered from the pages for the time of that layer, because torch has no attention over scattered
blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from diptych.wire.kv import Factor, Group, KvFormat
from diptych.wire.kv.loops import place

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class KvPages:
    """The pool as elements of its type.

    `memory`: the pool's bytes, writable; `count`: pages in it. Raises `ValueError` naming the field where
    torch cannot view the format (scales, regions, a shard of the heads) or the memory is too small.
    """

    def __init__(self, memory: memoryview, count: int, kv_format: KvFormat) -> None:
        check_viewable(kv_format)
        group = kv_format.group
        size_bytes = count * kv_format.page_bytes
        if memory.readonly or memory.nbytes < size_bytes:
            raise ValueError(f"pool: {memory.nbytes} bytes, {count} pages need {size_bytes} writable ones")
        self.count = count
        self._tokens = group.page_tokens
        self._dtype = DTYPES[group.dtype]
        elements = torch.frombuffer(memory, dtype=self._dtype, count=count * group.page_elements)
        self._keys = _View(elements, count, group, group.layout.key, 0)
        self._values = _View(elements, count, group, group.layout.value, 1)

    def write(
        self, layer: int, table: torch.Tensor, first: int, keys: torch.Tensor, values: torch.Tensor
    ) -> None:
        """Stores positions [first, first + n) of one layer; `keys`, `values`: [n, kv_heads, head_dim].

        `table`: int64, the sequence's pages.
        """
        positions = torch.arange(first, first + len(keys))
        pages, slots = table[positions // self._tokens], positions % self._tokens
        self._keys.write(layer, pages, slots, keys.to("cpu", self._dtype))
        self._values.write(layer, pages, slots, values.to("cpu", self._dtype))

    def read(
        self, layer: int, table: torch.Tensor, count: int, like: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """K and V of positions [0, count) of one layer, [kv_heads, count, head_dim] each, with the type
        and on the device of `like`. Slots beyond `count` are not read."""
        pages = table[: -(-count // self._tokens)]
        keys, values = (view.read(layer, pages)[:, :count] for view in (self._keys, self._values))
        return keys.to(like), values.to(like)


class _View:
    """K (or V) of all pages, [page, layer, token factors..., head, dim factors...], slowest factors first."""

    def __init__(
        self, elements: torch.Tensor, count: int, group: Group, factors: Sequence[Factor], kv: int
    ) -> None:
        where = place(group, factors, 1)
        # By what they step in the model, so that the digits of an index come in order.
        tokens, dims = (
            sorted(where.axes[axis], key=lambda step: step.stride, reverse=True) for axis in ("token", "dim")
        )
        steps = [*where.axes["layer"], *tokens, *where.axes["head"], *dims]
        self._data = elements.as_strided(
            (count, *(step.extent for step in steps)),
            (group.page_elements, *(step.stride_bytes for step in steps)),
            where.offset("kv", kv),
        )
        self._token_steps = tokens
        self._dims = tuple(step.extent for step in dims)

    def write(self, layer: int, pages: torch.Tensor, slots: torch.Tensor, rows: torch.Tensor) -> None:
        """`rows`: [n, heads, dim]."""
        digits = [slots // step.stride % step.extent for step in self._token_steps]
        index: tuple[torch.Tensor | int, ...] = (pages, layer, *digits)
        self._data[index] = rows.reshape(*rows.shape[:2], *self._dims)

    def read(self, layer: int, pages: torch.Tensor) -> torch.Tensor:
        """[heads, tokens of the pages, dim]."""
        gathered = self._data[pages, layer]  # [pages, tokens..., heads, dims...]
        heads = gathered.movedim(1 + len(self._token_steps), 0)
        return heads.reshape(len(heads), -1, heads.shape[-len(self._dims) :].numel())


def check_viewable(kv_format: KvFormat) -> None:
    """Raises `ValueError` naming the field that torch cannot stride over."""
    kv_format.check()
    group = kv_format.group
    refused = {
        "dtype": group.dtype not in DTYPES,
        "scales": group.scales is not None,
        "heads": group.head_range.count != group.kv_heads,
        "layout.region_factors": group.layout.region_factors != 0,
        "latent_dim": group.latent_dim != 0,
        "retention": group.retention != "full",
    }
    for field, unlike in refused.items():
        if unlike:
            value = kv_format.field(f"group.{field}")
            viewed = f"the torch engine views contiguous pages of {', '.join(DTYPES)} without scales"
            raise ValueError(f"kv_format.group.{field}: {value!r}; {viewed}")
