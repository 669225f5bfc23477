"""What two workers say on a KV connection. Pure: bytes in, values out, nothing is believed unread.

    reader                                  owner
    greeting (nonce, format)      ->
                                  <-        greeting (nonce, format, proof)
    proof                         ->
    request (capability, pages)   ->
                                  <-        reply (status, checksums), then the pages as they lie

Each side proves that it has the fleet's key by an HMAC (RFC 2104, SHA-256) over both nonces and both
names; nothing is served before. Lengths are bounded before anything is read for them.
"""

from __future__ import annotations

import struct

import msgspec

from diptych.transport.claims import CAPABILITY_BYTES
from diptych.wire.errors import UNDECODABLE
from diptych.wire.proofs import keyed_proof

__all__ = [
    "GREETING_BYTES_MAX",
    "MAGIC",
    "NONCE_BYTES",
    "PAGES_MAX",
    "PROBE",
    "PROOF_BYTES",
    "REPLY",
    "REQUEST",
    "Greeting",
    "ProtocolError",
    "Reply",
    "Request",
    "decode_greeting",
    "decode_reply",
    "decode_request",
    "encode_greeting",
    "encode_reply",
    "encode_request",
    "proof",
]

MAGIC = b"DPKV"
VERSION = 1
GREETING_BYTES_MAX = 1 << 16
NONCE_BYTES = 32
PROOF_BYTES = 32
PAGES_MAX = 4096
"""Of one request."""
PROBE_BYTES_MAX = 1 << 26
REQUEST = struct.Struct(f"<4sBBH I {CAPABILITY_BYTES}s I")
"""magic, kind, flags, pages, serial, capability, bytes (of a probe)."""
REPLY = struct.Struct("<4sBBH I I")
"""magic, status, flags, pages, serial, length of the reason."""
PULL, PROBE = 1, 2
CHECKSUMS = 1
"""Flag: the owner says the checksum of each page before it."""
OK, REFUSED = 0, 1
REASON_BYTES_MAX = 1024


class ProtocolError(Exception):
    """The peer does not speak this protocol, or not as it should; the connection is of no more use."""


class Greeting(msgspec.Struct, frozen=True, array_like=True):
    version: int
    worker: str
    """Incarnation of who speaks."""
    peer: str
    """Incarnation of who is meant; empty in the owner's answer."""
    nonce: bytes
    announcement: bytes
    """Its KV format, encoded by `diptych.wire.kv`."""
    proof: bytes = b""


class Request(msgspec.Struct, frozen=True):
    serial: int
    capability: bytes
    pages: tuple[int, ...]
    checksums: bool
    probe_bytes: int = 0


class Reply(msgspec.Struct, frozen=True):
    serial: int
    pages: int
    checksums: bool
    reason_bytes: int
    """Not 0: refused, and so many bytes of text say why."""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Greeting)


def encode_greeting(greeting: Greeting) -> bytes:
    """Magic, length, body."""
    body = _encoder.encode(greeting)
    return MAGIC + len(body).to_bytes(4, "little") + body


def greeting_bytes(header: bytes) -> int:
    """Length of the body that follows the first 8 bytes. Raises `ProtocolError`."""
    if header[:4] != MAGIC:
        raise ProtocolError("not a KV connection")
    length = int.from_bytes(header[4:8], "little")
    if length > GREETING_BYTES_MAX:
        raise ProtocolError(f"a greeting of {length} bytes; at most {GREETING_BYTES_MAX} are read")
    return length


def decode_greeting(body: bytes) -> Greeting:
    try:
        greeting = _decoder.decode(body)
    except UNDECODABLE as error:
        raise ProtocolError(f"greeting: {error}") from error
    if greeting.version != VERSION:
        raise ProtocolError(f"version: {greeting.version} is not spoken here, {VERSION} is")
    if len(greeting.nonce) != NONCE_BYTES:
        raise ProtocolError(f"nonce: {len(greeting.nonce)} bytes instead of {NONCE_BYTES}")
    return greeting


def proof(key: bytes, side: bytes, reader: Greeting, owner_worker: str, owner_nonce: bytes) -> bytes:
    """What only who has the key can say of these two greetings."""
    return keyed_proof(key, side, reader.worker.encode(), owner_worker.encode(), reader.nonce, owner_nonce)


def encode_request(request: Request) -> bytes:
    kind = PROBE if request.probe_bytes else PULL
    flags = CHECKSUMS if request.checksums else 0
    head = REQUEST.pack(
        MAGIC, kind, flags, len(request.pages), request.serial, request.capability, request.probe_bytes
    )
    return head + struct.pack(f"<{len(request.pages)}I", *request.pages)


def decode_request(head: bytes) -> tuple[Request, int]:
    """The request without its pages, and how many follow, 4 bytes each."""
    magic, kind, flags, pages, serial, capability, probe_bytes = REQUEST.unpack(head)
    if magic != MAGIC or kind not in (PULL, PROBE) or flags > CHECKSUMS:
        raise ProtocolError("not a request")
    if pages > PAGES_MAX:
        raise ProtocolError(f"pages: {pages} in one request; at most {PAGES_MAX}")
    if kind == PULL and (not pages or probe_bytes):
        raise ProtocolError("pages: a request names at least one")
    if kind == PROBE and (pages or not 0 < probe_bytes <= PROBE_BYTES_MAX):
        raise ProtocolError(f"bytes: a probe of {probe_bytes}; at most {PROBE_BYTES_MAX}")
    return Request(serial, capability, (), bool(flags & CHECKSUMS), probe_bytes), pages


def decode_pages(body: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(body) // 4}I", body)


def encode_reply(reply: Reply) -> bytes:
    status = REFUSED if reply.reason_bytes else OK
    flags = CHECKSUMS if reply.checksums else 0
    return REPLY.pack(MAGIC, status, flags, reply.pages, reply.serial, reply.reason_bytes)


def decode_reply(head: bytes) -> Reply:
    magic, status, flags, pages, serial, reason_bytes = REPLY.unpack(head)
    if magic != MAGIC or status not in (OK, REFUSED) or flags > CHECKSUMS:
        raise ProtocolError("not a reply")
    if reason_bytes > REASON_BYTES_MAX or (status == OK) == bool(reason_bytes):
        raise ProtocolError(
            f"reason: {reason_bytes} bytes; at most {REASON_BYTES_MAX}, none where all is well"
        )
    return Reply(serial, pages, bool(flags & CHECKSUMS), reason_bytes)
