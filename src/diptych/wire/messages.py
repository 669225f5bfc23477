"""What the bodies of frames mean: one tagged union of messages, msgpack by msgspec. Pure.

    connection                 opened by    carries
    supervisor <-> control     supervisor   Hello; Told(HostStated, WorkerSpawned, WorkerLost) / Fence
    worker <-> control         worker       Hello; Told both ways; control's first is ControlJoined(epoch)
    door <-> control           door         Hello; Told both ways, with attachments from the door;
                                            Asked (status, trace) / Answered
    worker -> worker           the sender   Hello, then Told; the receiver sends nothing
    worker -> door             worker       Hello, then Streamed; the door sends nothing

Whoever opens a connection says `Hello` first. One connection per (sender, receiver) keeps what one
tells the other in order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Union

import msgspec

from diptych.core.facts import WIRE_FACTS, Fact
from diptych.core.ids import Incarnation
from diptych.wire.errors import FrameTooLong, MalformedMessage
from diptych.wire.frames import FRAME_BYTES_MAX, HEADER_BYTES, StreamFrame

__all__ = [
    "PROTOCOL",
    "Answered",
    "AnyFact",
    "Asked",
    "Fence",
    "Hello",
    "Message",
    "Streamed",
    "Told",
    "decode",
    "encode",
]

PROTOCOL = 1
"""Raised with every change of facts, frames or messages: unlike processes refuse each other by it."""

if TYPE_CHECKING:
    AnyFact = Fact
else:
    AnyFact = Union[WIRE_FACTS]  # noqa: UP007 (a union made of a tuple)


class Hello(msgspec.Struct, frozen=True, tag="hello", array_like=True):
    """First message of whoever opened the connection."""

    name: str
    """A worker's incarnation, a door's name, a host's name (supervisor) or `control`."""
    kind: str
    """`worker`, `door`, `supervisor` or `control`."""
    protocol: int = PROTOCOL


class Told(msgspec.Struct, frozen=True, tag="told", array_like=True):
    """A fact for the receiver's machine; the attachment is for its port, never for the machine."""

    fact: AnyFact
    attachment: bytes = b""
    """An encoded `diptych.wire.payload.PromptPayload`, or empty."""


class Fence(msgspec.Struct, frozen=True, tag="fence", array_like=True):
    """Control to supervisor: kill this incarnation, reap it, answer with `WorkerLost`."""

    worker: Incarnation
    why: str


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


Message = Hello | Told | Fence | Streamed | Asked | Answered

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
    except (msgspec.DecodeError, RecursionError) as error:
        raise MalformedMessage(str(error)) from error
