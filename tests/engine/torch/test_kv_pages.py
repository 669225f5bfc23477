"""The pool's bytes against the layout that `panels` documents."""

from __future__ import annotations

import numpy as np
import pytest

from diptych.wire.kv import Copy, KvFormat, hnd, nhd, panels, plan, shard

torch = pytest.importorskip("torch", reason="torch is not installed")

from diptych.conversion import Conversion  # noqa: E402
from diptych.engine.torch.kv_pages import KvPages  # noqa: E402

pytestmark = pytest.mark.torch

LAYERS, HEADS, DIM, TOKENS, PAGES = 3, 2, 8, 4, 6
FORMAT = panels(model="m", layers=LAYERS, kv_heads=HEADS, head_dim=DIM, page_tokens=TOKENS)


def element(data: np.ndarray, page: int, layer: int, kind: int, head: int, offset: int) -> float:
    """bfloat16 element at `offset` in a block, by the page's own arithmetic."""
    blocks = data.view(np.uint16).reshape(PAGES, LAYERS, 2, HEADS, TOKENS * DIM)
    bits = int(blocks[page, layer, kind, head, offset]) << 16
    return float(np.array([bits], np.uint32).view(np.float32)[0])


def test_elements_lie_where_the_format_says() -> None:
    data = np.full(PAGES * FORMAT.page_bytes, 0xFF, np.uint8)
    pages = KvPages(data.data, PAGES, FORMAT)
    table = torch.tensor([4, 1, 3])
    first, count = 2, 7
    # Small integers are exact in bfloat16: value = token * 16 + dim (+ head * 128).
    token = torch.arange(count)[:, None, None] * 16
    keys = (token + torch.arange(HEADS)[None, :, None] * 128 + torch.arange(DIM)).float()
    pages.write(1, table, first, keys, -keys)
    for index in range(count):
        position = first + index
        page, t = int(table[position // TOKENS]), position % TOKENS
        for head in range(HEADS):
            for d in range(DIM):
                value = index * 16 + head * 128 + d
                assert element(data, page, 1, 0, head, (d // 2) * 2 * TOKENS + 2 * t + d % 2) == value
                assert element(data, page, 1, 1, head, (t // 2) * 2 * DIM + 2 * d + t % 2) == -value
    # Nothing else was written: 2 kinds, all heads and dims of 7 tokens of one layer.
    assert np.count_nonzero(data.view(np.uint16) != 0xFFFF) == 2 * HEADS * DIM * count


def test_what_is_written_is_read_back() -> None:
    data = np.full(PAGES * FORMAT.page_bytes, 0xFF, np.uint8)
    pages = KvPages(data.data, PAGES, FORMAT)
    table = torch.tensor([5, 0, 2])
    generator = torch.Generator().manual_seed(1)
    keys = torch.randn(11, HEADS, DIM, generator=generator)
    values = torch.randn(11, HEADS, DIM, generator=generator)
    pages.write(2, table, 0, keys[:6], values[:6])
    pages.write(2, table, 6, keys[6:], values[6:])
    read_keys, read_values = pages.read(2, table, 11, keys)
    assert torch.equal(read_keys, keys.bfloat16().float().transpose(0, 1))
    assert torch.equal(read_values, values.bfloat16().float().transpose(0, 1))


GEOMETRY = {"model": "m", "layers": LAYERS, "kv_heads": HEADS, "head_dim": DIM}
LAYOUTS = [
    nhd(**GEOMETRY, page_tokens=4, dtype="float32"),
    hnd(**GEOMETRY, page_tokens=8, dtype="float16", interleaved_keys=True),
    panels(**GEOMETRY, page_tokens=2),
]


@pytest.mark.parametrize("other", LAYOUTS, ids=["nhd", "interleaved hnd", "panels of 2"])
def test_native_pages_and_their_conversions_are_one_thing_to_torch(other: KvFormat) -> None:
    """What torch writes into native pages it reads back from a conversion of them to another layout."""
    native, copy = np.zeros(PAGES * FORMAT.page_bytes, np.uint8), plan(FORMAT, other)
    assert isinstance(copy, Copy)
    converted = np.zeros(2 * PAGES * other.page_bytes, np.uint8)
    generator = torch.Generator().manual_seed(2)
    keys, values = (torch.randn(8, HEADS, DIM, generator=generator) for _ in range(2))
    pages = KvPages(native.data, PAGES, FORMAT)
    pages.write(1, torch.tensor([5, 2]), 0, keys, values)
    table = [7, 4, 1, 0][: 8 // other.page_tokens]
    Conversion(copy).run(native, [5, 2], converted, table)
    viewed = KvPages(converted.data, 2 * PAGES, other)
    for before, after in zip(
        pages.read(1, torch.tensor([5, 2]), 7, keys),
        viewed.read(1, torch.tensor(table), 7, keys),
        strict=True,
    ):
        assert torch.equal(before, after)
        assert bool(before.any())


def test_foreign_formats_and_pools_are_refused() -> None:
    data = np.zeros(PAGES * FORMAT.page_bytes, np.uint8)
    refused = {
        "dtype": nhd(**GEOMETRY, page_tokens=TOKENS, dtype="int8"),
        "heads": shard(FORMAT, 0, 2),
        "layout.region_factors": nhd(**GEOMETRY, regions="layer"),
    }
    for field, other in refused.items():
        with pytest.raises(ValueError, match=rf"kv_format\.group\.{field}: "):
            KvPages(data.data, 1, other)
    with pytest.raises(ValueError, match="pool: "):
        KvPages(data.data, PAGES + 1, FORMAT)
    data.flags.writeable = False
    with pytest.raises(ValueError, match="writable"):
        KvPages(data.data, PAGES, FORMAT)
