"""What a reader makes of a source's pages: nothing, a conversion on the way in, or a refusal by field."""

from __future__ import annotations

from collections.abc import Callable

from diptych.conversion import Conversion
from diptych.transport.interface import Pairing
from diptych.wire.errors import MalformedMessage
from diptych.wire.kv import (
    Copy,
    KvFormat,
    Refusal,
    announce,
    decode_announcement,
    encode_announcement,
    pair,
)

__all__ = ["announcement_of", "pairing_with"]


def announcement_of(kv_format: KvFormat) -> bytes:
    """What a source says of its pages when it is met."""
    return encode_announcement(announce(kv_format, converts=True))


def pairing_with(kv_format: KvFormat) -> Callable[[bytes], Pairing]:
    """For a reader whose own pages are of `kv_format`: from a source's announcement to what is to be done.

    The reader converts: it reads each page once and owns what it writes.
    """

    def meet(announcement: bytes) -> Pairing:
        try:
            chosen = pair(kv_format, decode_announcement(announcement), converts=True, networked=True)
        except MalformedMessage as error:
            return Pairing(refusal=str(error))
        if isinstance(chosen, Refusal):
            return Pairing(refusal=str(chosen))
        if not isinstance(chosen, Copy):
            return Pairing()
        if chosen.side != "target":
            return Pairing(refusal=f"conversion: the {chosen.side} would have to convert, and does not")
        source, border = chosen.source, chosen.border_tokens
        return Pairing(
            converter=Conversion(chosen),
            source_page_bytes=source.region_page_bytes,
            source_batch=border // source.page_tokens,
            target_batch=border // chosen.target.page_tokens,
            conversion=f"{source.dtype} to {chosen.target.dtype}, by the reader",
        )

    return meet
