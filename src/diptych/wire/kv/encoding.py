"""A KV format as bytes, in versions; and its hash. Pure.

Version 2 is the msgpack map {version, must, may}. What stands in `must`, at any depth, decides what
bytes mean: a reader that does not know a name there refuses and names it. What stands in `may` only
informs: a reader skips what it does not know. Fields at their defaults are left out, so a format that
uses nothing new reads the same to old and new builds and has the same hash.

Version 1 was a flat map of one group with two orders of (token, dim) inside [layer][K, V][head] blocks.
It is still read, and written for formats that it can say.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import msgspec

from diptych.wire.errors import UNDECODABLE, MalformedMessage
from diptych.wire.kv.record import Factor, Group, HeadRange, KvFormat, Layout

__all__ = ["HASH_BYTES", "VERSIONS", "decode_format", "encode_format", "format_hash"]

VERSIONS = (1, 2)
"""Format versions that this build reads and, where the format allows it, writes."""
HASH_BYTES = 16
FORMAT_BYTES_MAX = 1 << 16
_ONE_DTYPES = ("float32", "bfloat16", "float16")


class _Must(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    model: str
    groups: tuple[Group, ...]
    rope_applied: bool = True


class _May(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    numerics: str = ""


class _Two(msgspec.Struct, frozen=True, kw_only=True):
    version: int
    must: _Must
    may: _May = _May()


class _OneFactor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every field is written: readers of version 1 have no defaults here."""

    axis: str
    extent: int
    stride: int


class _One(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    model: str
    layers: int
    kv_heads: int
    head_dim: int
    dtype: str
    page_tokens: int
    key_block: tuple[_OneFactor, ...]
    value_block: tuple[_OneFactor, ...]
    rope_applied: bool = True
    version: int = 1


class _Peek(msgspec.Struct):
    version: int


_ENCODER = msgspec.msgpack.Encoder(order="sorted")
_PEEK = msgspec.msgpack.Decoder(_Peek)
_DECODE_ONE = msgspec.msgpack.Decoder(_One)
_DECODE_TWO = msgspec.msgpack.Decoder(_Two)


def encode_format(kv_format: KvFormat, version: int = VERSIONS[-1]) -> bytes:
    """Raises `ValueError` naming the field that `version` cannot say."""
    if version == 1:
        return msgspec.msgpack.encode(_as_one(kv_format))
    if version != 2:
        raise ValueError(f"version: {version} is none of {', '.join(map(str, VERSIONS))}")
    must, may = _must(kv_format), _May(numerics=kv_format.numerics)
    return _ENCODER.encode(_Two(version=2, must=must, may=may))


def decode_format(data: bytes) -> KvFormat:
    """A checked format. Raises `MalformedMessage` naming the field that is wrong or that this build does
    not know."""
    if len(data) > FORMAT_BYTES_MAX:
        raise MalformedMessage(f"a KV format of {len(data)} bytes, at most {FORMAT_BYTES_MAX} can be")
    try:
        version = _PEEK.decode(data).version
        if version not in VERSIONS:
            known = ", ".join(map(str, VERSIONS))
            raise MalformedMessage(f"KV format of version {version}; this build reads {known}")
        found = _from_one(_DECODE_ONE.decode(data)) if version == 1 else _from_two(_DECODE_TWO.decode(data))
        found.check()
    except (*UNDECODABLE, ValueError) as error:
        raise MalformedMessage(f"KV format: {error}") from error
    return found


def format_hash(kv_format: KvFormat) -> bytes:
    """128 bits of what decides the meaning of pages (BLAKE2b, RFC 7693): equal in every build and of
    every version of the encoding for formats without a `difference`."""
    return blake2b(_ENCODER.encode(_must(kv_format)), digest_size=HASH_BYTES).digest()


def _must(kv_format: KvFormat) -> _Must:
    return _Must(
        model=kv_format.model,
        groups=tuple(_canonical(kv_format.groups)),
        rope_applied=kv_format.rope_applied,
    )


def _canonical(groups: Iterable[Group]) -> Iterable[Group]:
    """A range of all heads is the same as none."""
    for group in groups:
        whole = group.heads == HeadRange(0, group.kv_heads)
        yield msgspec.structs.replace(group, heads=None) if whole else group


def _from_two(read: _Two) -> KvFormat:
    return KvFormat(
        model=read.must.model,
        groups=read.must.groups,
        rope_applied=read.must.rope_applied,
        numerics=read.may.numerics,
    )


def _factors(block: tuple[_OneFactor, ...]) -> tuple[Factor, ...]:
    return tuple(Factor(one.axis, one.extent, one.stride) for one in block)


def _block(factors: tuple[Factor, ...]) -> tuple[_OneFactor, ...]:
    return tuple(_OneFactor(factor.axis, factor.extent, factor.stride) for factor in factors)


def _outer(layers: int, heads: int) -> tuple[Factor, ...]:
    return (Factor("layer", layers), Factor("kv", 2), Factor("head", heads))


def _from_one(read: _One) -> KvFormat:
    outer = _outer(read.layers, read.kv_heads)
    group = Group(
        layers=read.layers,
        kv_heads=read.kv_heads,
        head_dim=read.head_dim,
        dtype=read.dtype,
        page_tokens=read.page_tokens,
        layout=Layout(key=outer + _factors(read.key_block), value=outer + _factors(read.value_block)),
    )
    return KvFormat(model=read.model, groups=(group,), rope_applied=read.rope_applied)


def _as_one(kv_format: KvFormat) -> _One:
    group = kv_format.group
    layout = group.layout
    outer = _outer(group.layers, group.kv_heads)
    said = {
        "group.dtype": group.dtype in _ONE_DTYPES,
        "group.scales": group.scales is None,
        "group.heads": group.head_range == HeadRange(0, group.kv_heads),
        "group.latent_dim": group.latent_dim == 0,
        "group.retention": group.retention == "full",
        "group.layout.region_factors": layout.region_factors == 0,
        "group.layout.key": layout.key[:3] == outer,
        "group.layout.value": layout.value[:3] == outer,
    }
    for field, says in said.items():
        if not says:
            raise ValueError(f"kv_format.{field}: version 1 of the record cannot say it")
    return _One(
        model=kv_format.model,
        layers=group.layers,
        kv_heads=group.kv_heads,
        head_dim=group.head_dim,
        dtype=group.dtype,
        page_tokens=group.page_tokens,
        key_block=_block(layout.key[3:]),
        value_block=_block(layout.value[3:]),
        rope_applied=kv_format.rope_applied,
    )
