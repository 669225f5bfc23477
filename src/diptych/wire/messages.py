"""What the bodies of frames mean: one tagged union of messages, msgpack by msgspec. Pure.

    between            carries
    worker, control    Told both ways
    door, control      Told both ways, with attachments from the door; Asked (status, trace) / Answered
    worker, worker     Told both ways
    worker, door       Streamed; the door sends nothing

One connection for every two processes keeps what one tells the other in order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Union

import msgspec

from diptych.core.facts import WIRE_FACTS, Fact
from diptych.wire.errors import UNDECODABLE, FrameTooLong, MalformedMessage
from diptych.wire.frames import FRAME_BYTES_MAX, HEADER_BYTES, StreamFrame

__all__ = [
    "Answered",
    "AnyFact",
    "Asked",
    "Message",
    "Streamed",
    "Told",
    "decode",
    "encode",
]

if TYPE_CHECKING:
    AnyFact = Fact
else:
    AnyFact = Union[WIRE_FACTS]  # noqa: UP007 (a union made of a tuple)


class Told(msgspec.Struct, frozen=True, tag="told", array_like=True):
    """A fact for the receiver's machine; the attachment is for its port, never for the machine."""

    fact: AnyFact
    attachment: bytes = b""
    """An encoded `diptych.wire.payload.PromptPayload`, or empty."""
    number: int = 0
    """Its place among all that the sender told this receiver, from 1: by it their logs are matched."""


class Streamed(msgspec.Struct, frozen=True, tag="streamed", array_like=True):
    """All that one step (or one pause) has for one door."""

    frames: tuple[StreamFrame, ...]


class Asked(msgspec.Struct, frozen=True, tag="asked", array_like=True):
    serial: int
    subject: str
    """`status` or `trace`."""
    argument: str = ""


class Answered(msgspec.Struct, frozen=True, tag="answered", array_like=True):
    serial: int
    document: bytes
    """JSON; `null` where there is nothing of that name."""


Message = Told | Streamed | Asked | Answered

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """The message as a whole frame, length included. Raises `FrameTooLong`."""
    buffer = bytearray(HEADER_BYTES)
    _encoder.encode_into(message, buffer, HEADER_BYTES)
    length = len(buffer) - HEADER_BYTES
    if length > FRAME_BYTES_MAX:
        raise FrameTooLong(length, FRAME_BYTES_MAX)
    buffer[:HEADER_BYTES] = length.to_bytes(HEADER_BYTES, "little")
    return bytes(buffer)


def decode(body: bytes) -> Message:
    """The message of one frame's body. Raises `MalformedMessage` naming the field."""
    try:
        return _decoder.decode(body)
    except UNDECODABLE as error:
        raise MalformedMessage(str(error)) from error
