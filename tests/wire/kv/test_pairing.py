"""Two builds find out whether they can hand over: by hash, then by capability, in a version both know.

The build before version 2 is here as it was: its record, its encoder and its decoder.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from diptych.wire.errors import MalformedMessage
from diptych.wire.kv import (
    Announcement,
    Copy,
    KvFormat,
    Refusal,
    Same,
    announce,
    decode_announcement,
    decode_format,
    encode_announcement,
    encode_format,
    format_hash,
    hnd,
    nhd,
    pair,
    panels,
    shard,
)

GEOMETRY: dict[str, Any] = {"model": "m", "layers": 3, "kv_heads": 4, "head_dim": 64}
PANELS, HND = panels(**GEOMETRY), hnd(**GEOMETRY, page_tokens=64)


class OldFactor(msgspec.Struct, frozen=True):
    axis: str
    extent: int
    stride: int


class OldFormat(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    layers: int
    kv_heads: int
    head_dim: int
    dtype: str
    page_tokens: int
    key_block: tuple[OldFactor, ...]
    value_block: tuple[OldFactor, ...]
    rope_applied: bool = True
    version: int = 1


OLD = OldFormat(
    model="m",
    layers=3,
    kv_heads=4,
    head_dim=64,
    dtype="bfloat16",
    page_tokens=16,
    key_block=(OldFactor("dim", 32, 2), OldFactor("token", 16, 1), OldFactor("dim", 2, 1)),
    value_block=(OldFactor("token", 8, 2), OldFactor("dim", 64, 1), OldFactor("token", 2, 1)),
)


def heard(announcement: Announcement) -> Announcement:
    """As it arrives."""
    return decode_announcement(encode_announcement(announcement))


def test_the_hash_settles_equal_formats_without_a_look_at_the_record() -> None:
    announcement = Announcement(format_hash=format_hash(PANELS), formats={99: b"not even a record"})
    assert pair(PANELS, heard(announcement), converts=False) == Same()


def test_an_old_encoder_is_understood_by_the_new_decoder() -> None:
    assert decode_format(msgspec.msgpack.encode(OLD)) == PANELS
    unlike = msgspec.structs.replace(OLD, page_tokens=32, dtype="float16", key_block=(
        OldFactor("token", 32, 1), OldFactor("dim", 64, 1)), value_block=(
        OldFactor("token", 32, 1), OldFactor("dim", 64, 1)))  # fmt: skip
    assert decode_format(msgspec.msgpack.encode(unlike)) == hnd(**GEOMETRY, page_tokens=32, dtype="float16")


def test_an_old_decoder_understands_what_the_new_build_writes_for_it() -> None:
    assert msgspec.msgpack.decode(encode_format(PANELS, 1), type=OldFormat) == OLD


@pytest.mark.parametrize(
    ("kv_format", "field"),
    [
        (nhd(**GEOMETRY), "layout.key"),
        (hnd(**GEOMETRY, dtype="int8"), "dtype"),
        (hnd(**GEOMETRY, regions="layer"), "layout.region_factors"),
        (shard(PANELS, 0, 2), "heads"),
    ],
)
def test_what_an_old_version_cannot_say_is_not_written_in_it(kv_format: KvFormat, field: str) -> None:
    with pytest.raises(ValueError, match=rf"kv_format\.group\.{field}: version 1"):
        encode_format(kv_format, 1)
    assert list(announce(kv_format, converts=True).formats) == [2]
    with pytest.raises(ValueError, match="version: 3 is none of 1, 2"):
        encode_format(kv_format, 3)


def test_two_builds_of_different_versions_pair_in_the_common_one() -> None:
    """The source is a build that writes version 1 only, or 1 and a version 7 of the future."""
    for formats in ({}, {7: b"\xc1 of the future"}):
        source = Announcement(
            format_hash=format_hash(PANELS), formats={1: msgspec.msgpack.encode(OLD), **formats}
        )
        found = pair(HND, heard(source))
        assert isinstance(found, Copy)
        assert (found.source, found.target) == (PANELS.group, HND.group)


def test_without_a_common_version_the_pair_is_refused_by_it() -> None:
    source = Announcement(format_hash=b"x", formats={7: b"", 8: b""})
    found = pair(HND, heard(source))
    assert str(found) == "version: source writes the record in 7, 8, target reads 1, 2"


def test_capability_decides_who_converts() -> None:
    def sides(source_converts: bool, converts: bool) -> Any:
        found = pair(HND, heard(announce(PANELS, converts=source_converts)), converts=converts)
        return found.side if isinstance(found, Copy) else found

    assert sides(True, True) == "target"
    assert sides(False, True) == "target"
    assert sides(True, False) == "source"
    refused = sides(False, False)
    assert isinstance(refused, Refusal)
    assert refused.field == "converts"


def test_a_record_that_is_not_the_announced_one_is_not_believed() -> None:
    source = Announcement(format_hash=format_hash(HND), formats={2: encode_format(PANELS)})
    with pytest.raises(MalformedMessage, match="its hash is not of its record"):
        pair(nhd(**GEOMETRY), heard(source))
