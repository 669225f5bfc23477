"""How two workers find out whether pages can go from one to the other. Pure.

Each sends an `Announcement`. The hash settles the common case, equal formats, without reading anything
else. Where it differs, the record is read in the newest version that both know, and `plan` decides by
what the formats are and what each side can do; the version of anybody's software is not asked for.
"""

from __future__ import annotations

import msgspec

from diptych.wire.errors import UNDECODABLE, MalformedMessage
from diptych.wire.kv.encoding import VERSIONS, decode_format, encode_format, format_hash
from diptych.wire.kv.plan import Copy, Refusal, Same, plan
from diptych.wire.kv.rates import RATES, Rates
from diptych.wire.kv.record import KvFormat

__all__ = ["Announcement", "announce", "decode_announcement", "encode_announcement", "pair"]


class Announcement(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a worker says of its pool. Later builds may add fields; readers skip what they do not know."""

    format_hash: bytes
    formats: dict[int, bytes]
    """The record in every version that can say it."""
    converts: bool = False
    """Whether this side can execute conversions."""


_DECODER = msgspec.msgpack.Decoder(Announcement)


def announce(kv_format: KvFormat, *, converts: bool) -> Announcement:
    formats = {}
    for version in VERSIONS:
        try:
            formats[version] = encode_format(kv_format, version)
        except ValueError:
            continue  # too old to say it
    return Announcement(format_hash=format_hash(kv_format), formats=formats, converts=converts)


def encode_announcement(announcement: Announcement) -> bytes:
    return msgspec.msgpack.encode(announcement)


def decode_announcement(data: bytes) -> Announcement:
    """Raises `MalformedMessage`."""
    try:
        return _DECODER.decode(data)
    except UNDECODABLE as error:
        raise MalformedMessage(f"announcement of a KV format: {error}") from error


def pair(
    target: KvFormat,
    source: Announcement,
    *,
    converts: bool = True,
    networked: bool = False,
    rates: Rates = RATES,
) -> Same | Copy | Refusal:
    """What the worker of `target` does with pages of `source`. Raises `MalformedMessage` where the source
    announced what cannot be."""
    if source.format_hash == format_hash(target):
        return Same()
    common = [version for version in VERSIONS if version in source.formats]
    if not common:
        theirs = ", ".join(map(str, sorted(source.formats))) or "none"
        ours = ", ".join(map(str, VERSIONS))
        return Refusal("version", f"source writes the record in {theirs}, target reads {ours}")
    found = decode_format(source.formats[common[-1]])
    if format_hash(found) != source.format_hash:
        raise MalformedMessage("announcement of a KV format: its hash is not of its record")
    return plan(
        found,
        target,
        source_converts=source.converts,
        target_converts=converts,
        networked=networked,
        rates=rates,
    )
