"""Two formats are one only if every field is: sizes and names may agree where the bytes do not."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from diptych.wire.kv_format import Factor, KvFormat, panels

FORMAT = panels(model="m", layers=3, kv_heads=2, head_dim=64)
OTHERS: dict[str, Any] = {
    "model": "n",
    "layers": 4,
    "kv_heads": 1,
    "head_dim": 128,
    "dtype": "float16",
    "page_tokens": 32,
    "key_block": (Factor("token", 16, 1), Factor("dim", 64, 1)),
    "value_block": (Factor("dim", 64, 1), Factor("token", 16, 1)),
    "rope_applied": False,
    "version": 2,
}


@pytest.mark.parametrize("field", KvFormat.__struct_fields__)
def test_a_format_that_differs_is_told_apart_by_the_field(field: str) -> None:
    other = msgspec.structs.replace(FORMAT, **{field: OTHERS[field]})
    assert FORMAT.difference(other) == field
    assert other.difference(FORMAT) == field
    assert FORMAT.difference(panels(model="m", layers=3, kv_heads=2, head_dim=64)) is None


@pytest.mark.parametrize("field", ["dtype", "key_block", "value_block", "rope_applied"])
def test_pages_of_one_size_may_still_differ(field: str) -> None:
    """The same name and as many bytes: what a check of sizes alone would take for equal."""
    other = msgspec.structs.replace(FORMAT, **{field: OTHERS[field]})
    assert other.page_bytes == FORMAT.page_bytes
    assert FORMAT.difference(other) == field
