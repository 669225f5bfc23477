"""Two formats are one only if every field is: sizes and names may agree where the bytes do not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from diptych.wire.kv import Factor, Group, HeadRange, KvFormat, Layout, hnd, llama_cpp, nhd, panels

FORMAT = panels(model="m", layers=3, kv_heads=2, head_dim=64)
INT8 = hnd(model="m", layers=3, kv_heads=2, head_dim=64, dtype="int8")


def changed(kv_format: KvFormat, **fields: Any) -> KvFormat:
    return msgspec.structs.replace(kv_format, groups=(msgspec.structs.replace(kv_format.group, **fields),))


OTHERS: dict[str, KvFormat] = {
    "model": msgspec.structs.replace(FORMAT, model="n"),
    "rope_applied": msgspec.structs.replace(FORMAT, rope_applied=False),
    "groups": msgspec.structs.replace(FORMAT, groups=FORMAT.groups * 2),
    "group.layers": changed(FORMAT, layers=4),
    "group.kv_heads": changed(FORMAT, kv_heads=4, heads=HeadRange(0, 2)),
    "group.head_dim": changed(FORMAT, head_dim=128),
    "group.dtype": changed(FORMAT, dtype="float16"),
    "group.page_tokens": changed(FORMAT, page_tokens=32),
    "group.layout.key": nhd(model="m", layers=3, kv_heads=2, head_dim=64),
    "group.layout.value": changed(FORMAT, layout=Layout(key=FORMAT.group.layout.key, value=())),
    "group.layout.region_factors": changed(
        FORMAT, layout=msgspec.structs.replace(FORMAT.group.layout, region_factors=1)
    ),
    "group.scales": changed(FORMAT, scales=INT8.group.scales),
    "group.heads": changed(FORMAT, heads=HeadRange(1, 1)),
    "group.latent_dim": changed(FORMAT, latent_dim=512),
    "group.retention": changed(FORMAT, retention="window"),
    "group.window_tokens": changed(FORMAT, window_tokens=1024),
}


def test_every_field_of_the_record_is_compared() -> None:
    groups = {f"group.{name}" for name in Group.__struct_fields__}
    layouts = {f"group.layout.{name}" for name in Layout.__struct_fields__}
    fields = (set(KvFormat.__struct_fields__) | groups | layouts) - {"group.layout"}
    assert set(OTHERS) == fields - {"numerics"}


@pytest.mark.parametrize("field", OTHERS)
def test_a_format_that_differs_is_told_apart_by_the_field(field: str) -> None:
    assert FORMAT.difference(OTHERS[field]) == field
    assert OTHERS[field].difference(FORMAT) == field
    assert FORMAT.difference(panels(model="m", layers=3, kv_heads=2, head_dim=64)) is None
    if field != "groups":
        assert FORMAT.field(field) != OTHERS[field].field(field)


@pytest.mark.parametrize("field", ["group.dtype", "group.layout.key", "rope_applied"])
def test_pages_of_one_size_may_still_differ(field: str) -> None:
    """The same name and as many bytes: what a check of sizes alone would take for equal."""
    assert OTHERS[field].page_bytes == FORMAT.page_bytes
    assert FORMAT.difference(OTHERS[field]) == field


def test_numerics_inform_and_decide_nothing() -> None:
    assert FORMAT.difference(msgspec.structs.replace(FORMAT, numerics="native/int8/avx2/1")) is None


def test_all_heads_are_all_heads_however_said() -> None:
    assert FORMAT.difference(changed(FORMAT, heads=HeadRange(0, 2))) is None


def test_sizes_count_scales_and_regions() -> None:
    assert FORMAT.page_bytes == 2 * 3 * 2 * 64 * 16 * 2
    assert INT8.page_bytes == 2 * 3 * 2 * 16 * (64 + 4)
    split = llama_cpp(model="m", layers=3, kv_heads=2, head_dim=64, page_tokens=16)
    assert (split.group.regions, split.group.region_page_bytes) == (6, FORMAT.page_bytes // 6)


def factors(change: Callable[[tuple[Factor, ...]], tuple[Factor, ...]]) -> KvFormat:
    layout = FORMAT.group.layout
    return changed(FORMAT, layout=msgspec.structs.replace(layout, value=change(layout.value)))


BROKEN: dict[str, tuple[str, KvFormat]] = {
    "no model": ("model: is empty", msgspec.structs.replace(FORMAT, model="")),
    "no group": ("groups: 0 of them", msgspec.structs.replace(FORMAT, groups=())),
    "no layers": (r"group\.layers: 0 is not from 1", changed(FORMAT, layers=0)),
    "giant": (r"group\.head_dim: \d+ is not from 1 to 65536", changed(FORMAT, head_dim=1 << 40)),
    "giant page": (
        r"group\.page_tokens: a page of \d+ bytes",
        changed(FORMAT, layers=60000, kv_heads=60000, head_dim=60000),
    ),
    "type": (r"group\.dtype: 'int3' is none of", changed(FORMAT, dtype="int3")),
    "heads": (r"group\.heads: 2 from 1 on, of 2", changed(FORMAT, heads=HeadRange(1, 2))),
    "window": (r"group\.window_tokens: 0 with retention window", changed(FORMAT, retention="window")),
    "axis": (r"group\.layout\.value: axis 'page' is none", factors(lambda f: (*f, Factor("page", 1)))),
    "twice": (r"group\.layout\.value: dim has no step", factors(lambda f: (*f, Factor("dim", 2)))),
    "missing": (r"group\.layout\.value: the factors of head cover 1 ", factors(lambda f: f[:2] + f[3:])),
    "many": (r"group\.layout\.value: 22 factors", factors(lambda f: f + (Factor("dim", 1),) * 16)),
    "kv apart": (
        r"group\.layout\.value: kv must have as many elements",
        factors(lambda f: (f[1], f[0], *f[2:])),
    ),
    "token region": (
        r"group\.layout\.region_factors: ",
        changed(FORMAT, layout=msgspec.structs.replace(FORMAT.group.layout, region_factors=3)),
    ),
    "unscaled": (r"group\.scales: int8 elements mean nothing", changed(INT8, scales=None)),
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_not_consistent_is_refused_by_field(case: str) -> None:
    FORMAT.check()
    INT8.check()
    message, broken = BROKEN[case]
    with pytest.raises(ValueError, match=message):
        broken.check()
