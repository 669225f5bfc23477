"""The record as bytes: versions, what may be skipped and what may not, and the hash."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.wire.errors import MalformedMessage
from diptych.wire.kv import (
    VERSIONS,
    Copy,
    HeadRange,
    KvFormat,
    Refusal,
    announce,
    decode_announcement,
    decode_format,
    encode_announcement,
    encode_format,
    format_hash,
    hnd,
    llama_cpp,
    nhd,
    panels,
    plan,
    shard,
    vllm_cpu,
)

GEOMETRY: dict[str, Any] = {"model": "m", "layers": 3, "kv_heads": 4, "head_dim": 64}
PANELS = panels(**GEOMETRY)
FORMATS: dict[str, KvFormat] = {
    "panels": PANELS,
    "nhd": nhd(**GEOMETRY, rope_applied=False),
    "hnd int8": hnd(**GEOMETRY, dtype="int8"),
    "vllm": vllm_cpu(**GEOMETRY),
    "llama": llama_cpp(**GEOMETRY, page_tokens=8),
    "shard": shard(PANELS, 1, 2),
    "numerics": msgspec.structs.replace(PANELS, numerics="native/int8/avx2/1"),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_record_comes_back(name: str) -> None:
    assert decode_format(encode_format(FORMATS[name])) == FORMATS[name]


def test_hashes_tell_formats_apart_and_nothing_else() -> None:
    hashes = {name: format_hash(kv_format) for name, kv_format in FORMATS.items()}
    assert hashes.pop("numerics") == hashes["panels"]
    assert len(set(hashes.values())) == len(hashes)
    group = msgspec.structs.replace(PANELS.group, heads=HeadRange(0, 4))
    assert format_hash(msgspec.structs.replace(PANELS, groups=(group,))) == hashes["panels"]


def test_the_hash_is_one_for_all_builds() -> None:
    """Another value here would make equal formats of two builds convert for nothing: it is part of the
    protocol, and changes with a new format version at most."""
    assert format_hash(PANELS).hex() == "6262f1f7d4cfff17dce4faa5fd1fd887"
    assert format_hash(hnd(**GEOMETRY, dtype="int8")).hex() == "2d1f12cca67c7680988357887b9f7e60"


def altered(*path: str | int, **fields: Any) -> bytes:
    """The record with more fields in the map at `path`."""
    document = msgspec.msgpack.decode(encode_format(PANELS))
    place = document
    for step in path:
        place = place[step]
    place.update(fields)
    return msgspec.msgpack.encode(document)


def test_unknown_optional_fields_are_skipped() -> None:
    """What a later build adds to `may`, or beside both parts."""
    assert decode_format(altered("may", compiler="x")) == PANELS
    assert decode_format(altered(signature=b"x")) == PANELS


@pytest.mark.parametrize(
    "path", [(), ("groups", 0), ("groups", 0, "layout"), ("groups", 0, "layout", "key", 0)]
)
def test_unknown_required_fields_are_refused_by_name(path: tuple[str | int, ...]) -> None:
    with pytest.raises(MalformedMessage, match="unknown field `sink_tokens`"):
        decode_format(altered("must", *path, sink_tokens=4))


def test_another_version_is_refused_by_number() -> None:
    with pytest.raises(MalformedMessage, match="KV format of version 3; this build reads 1, 2"):
        decode_format(altered(version=3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"page_tokens": 0}, r"kv_format\.group\.page_tokens: 0 is not from 1"),
        ({"layers": 1 << 62}, r"kv_format\.group\.layers: \d+ is not from 1"),
        ({"layers": "many"}, r"Expected `int`.*layers"),
        ({"dtype": "int3"}, r"kv_format\.group\.dtype: 'int3'"),
        ({"latent_dim": -1}, r"kv_format\.group\.latent_dim"),
    ],
)
def test_records_that_cannot_be_are_refused_by_field(change: dict[str, Any], message: str) -> None:
    with pytest.raises(MalformedMessage, match=message):
        decode_format(altered("must", "groups", 0, **change))


def test_long_records_are_refused_unread() -> None:
    with pytest.raises(MalformedMessage, match="a KV format of 70000 bytes"):
        decode_format(bytes(70000))


@given(st.binary(max_size=400))
def test_no_bytes_do_more_than_being_refused(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode_format(data)


@given(st.data())
def test_no_altered_byte_does_more_than_being_refused(data: st.DataObject) -> None:
    encoded = bytearray(encode_format(PANELS))
    for _ in range(data.draw(st.integers(1, 4))):
        encoded[data.draw(st.integers(0, len(encoded) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(MalformedMessage):
        found = decode_format(bytes(encoded))
        assert isinstance(plan(found, hnd(**GEOMETRY, page_tokens=64)), Copy | Refusal)


def test_announcements_come_back_and_skip_what_they_do_not_know() -> None:
    announcement = announce(PANELS, converts=True)
    assert set(announcement.formats) == set(VERSIONS)
    document = msgspec.msgpack.decode(encode_announcement(announcement))
    document["region"] = b"later"
    assert decode_announcement(msgspec.msgpack.encode(document)) == announcement
    with pytest.raises(MalformedMessage, match="announcement of a KV format"):
        decode_announcement(b"\x91\x01")
