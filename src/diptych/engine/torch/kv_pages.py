"""KV pages in the `panels` layout, read and written where they lie in the pool.

The pool is the only place where K and V are kept. What attention needs of one layer is gathered from
the pages for the time of that layer, because torch has no attention over scattered blocks.
"""

from __future__ import annotations

import torch

from diptych.wire.kv import KvFormat, panels


class KvPages:
    """The pool as bfloat16 blocks.

    `memory`: the pool's bytes, writable; `count`: pages in it. Raises `ValueError` naming the field where
    the format is not the `panels` layout or the memory is too small.
    """

    def __init__(self, memory: memoryview, count: int, kv_format: KvFormat) -> None:
        expected = panels(
            model=kv_format.model,
            layers=kv_format.group.layers,
            kv_heads=kv_format.group.kv_heads,
            head_dim=kv_format.group.head_dim,
            page_tokens=kv_format.page_tokens,
        )
        if (field := kv_format.difference(expected)) is not None:
            raise ValueError(f"kv_format.{field}: the torch engine reads and writes the panels layout only")
        size_bytes = count * kv_format.page_bytes
        if memory.readonly or memory.nbytes < size_bytes:
            raise ValueError(f"pool: {memory.nbytes} bytes, {count} pages need {size_bytes} writable ones")
        group = kv_format.group
        tokens, dim, heads, layers = group.page_tokens, group.head_dim, group.kv_heads, group.layers
        blocks = torch.frombuffer(memory, dtype=torch.bfloat16, count=size_bytes // 2)
        blocks = blocks.view(count, layers, 2, heads, tokens * dim)
        self.count = count
        self._tokens = tokens
        self._keys = blocks[:, :, 0].view(count, layers, heads, dim // 2, tokens, 2)
        self._values = blocks[:, :, 1].view(count, layers, heads, tokens // 2, dim, 2)

    def write(
        self, layer: int, table: torch.Tensor, first: int, keys: torch.Tensor, values: torch.Tensor
    ) -> None:
        """Stores positions [first, first + n) of one layer; `keys`, `values`: [n, kv_heads, head_dim].

        `table`: int64, the sequence's pages.
        """
        positions = torch.arange(first, first + len(keys))
        pages, slots = table[positions // self._tokens], positions % self._tokens
        count, heads, dim = keys.shape
        pairs = keys.to("cpu", torch.bfloat16).view(count, heads, dim // 2, 2)
        self._keys[pages, layer, :, :, slots] = pairs
        self._values[pages, layer, :, slots // 2, :, slots % 2] = values.to("cpu", torch.bfloat16)

    def read(
        self, layer: int, table: torch.Tensor, count: int, like: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """K and V of positions [0, count) of one layer, [kv_heads, count, head_dim] each, with the type
        and on the device of `like`. Slots beyond `count` are not read."""
        pages = table[: -(-count // self._tokens)]
        keys = self._keys[pages, layer]  # [pages, heads, dim / 2, tokens, 2]
        values = self._values[pages, layer]  # [pages, heads, tokens / 2, dim, 2]
        heads, dim = keys.shape[1], keys.shape[2] * 2
        keys = keys.permute(1, 0, 3, 2, 4).reshape(heads, -1, dim)[:, :count]
        values = values.permute(1, 0, 2, 4, 3).reshape(heads, -1, dim)[:, :count]
        return keys.to(like), values.to(like)
