"""Frames of the two streaming formats: server-sent events and AWS event stream. Pure.

Sources: the WHATWG HTML standard (server-sent events) and the AWS event stream encoding
(`application/vnd.amazon.eventstream`): total length, header length, CRC-32 of those eight bytes,
headers, payload, CRC-32 of everything before it; big endian.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

import msgspec

__all__ = [
    "EVENT_STREAM_TYPE",
    "SSE_DONE",
    "SSE_TYPE",
    "encode_event",
    "encode_exception",
    "encode_message",
    "encode_sse",
]

SSE_TYPE = "text/event-stream; charset=utf-8"
SSE_DONE = b"data: [DONE]\n\n"
EVENT_STREAM_TYPE = "application/vnd.amazon.eventstream"

_JSON = msgspec.json.Encoder()
_STRING_HEADER = 7
_OVERHEAD_BYTES = 16


def encode_sse(document: dict[str, Any]) -> bytes:
    """One server-sent event. JSON escapes line ends, so the document is always one `data` line."""
    return b"data: " + _JSON.encode(document) + b"\n\n"


def encode_message(headers: list[tuple[str, str]], payload: bytes) -> bytes:
    """One event-stream message with string headers."""
    packed = bytearray()
    for name, value in headers:
        name_bytes, value_bytes = name.encode(), value.encode()
        packed += struct.pack("!B", len(name_bytes)) + name_bytes
        packed += struct.pack("!BH", _STRING_HEADER, len(value_bytes)) + value_bytes
    total = _OVERHEAD_BYTES + len(packed) + len(payload)
    prelude = struct.pack("!II", total, len(packed))
    message = prelude + struct.pack("!I", zlib.crc32(prelude)) + packed + payload
    return message + struct.pack("!I", zlib.crc32(message))


def encode_event(event_type: str, document: dict[str, Any]) -> bytes:
    headers = [
        (":event-type", event_type),
        (":content-type", "application/json"),
        (":message-type", "event"),
    ]
    return encode_message(headers, _JSON.encode(document))


def encode_exception(exception_type: str, document: dict[str, Any]) -> bytes:
    """A modelled exception inside a stream, `exception_type` as its union member is named."""
    headers = [
        (":exception-type", exception_type),
        (":content-type", "application/json"),
        (":message-type", "exception"),
    ]
    return encode_message(headers, _JSON.encode(document))
