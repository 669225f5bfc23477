"""What two hosts' agents say to each other. All of it goes over one session, so what one host tells the
other arrives once and in order, whichever of their processes it is between.

    agent ── Hello ──> hub      who I am, a nonce
    agent <── Challenge ── hub  a nonce, and proof that it has the token
    agent ── Proof ──> hub      the same of the agent
    agent <── Welcome ── hub    (or Refused) what to serve, and the session's number; then packets
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Union

import msgspec

from diptych.core.facts import WIRE_FACTS, Fact
from diptych.wire.errors import UNDECODABLE, MalformedMessage
from diptych.wire.proofs import keyed_proof
from diptych.wire.session import Packet

__all__ = [
    "Challenge",
    "ControlUp",
    "Data",
    "Fence",
    "Greeting",
    "Hello",
    "HostWord",
    "Opened",
    "Proof",
    "Refused",
    "Shut",
    "Started",
    "Stated",
    "Welcome",
    "WorkerUp",
    "decode_greeting",
    "decode_packet",
    "encode_greeting",
    "encode_packet",
    "proof",
]

VERSION = 1
NONCE_BYTES = 32

if TYPE_CHECKING:
    AnyFact = Fact
else:
    AnyFact = Union[WIRE_FACTS]  # noqa: UP007 (a union made of a tuple)


class Hello(msgspec.Struct, frozen=True, tag="hello", array_like=True):
    version: int
    host: str
    nonce: bytes
    session: int = 0
    """Not 0: this goes on with a session whose connection broke."""


class Challenge(msgspec.Struct, frozen=True, tag="challenge", array_like=True):
    nonce: bytes
    proof: bytes


class Proof(msgspec.Struct, frozen=True, tag="proof", array_like=True):
    proof: bytes


class Welcome(msgspec.Struct, frozen=True, tag="welcome", array_like=True):
    session: int
    model: str
    """What the fleet serves, as its clients call it."""
    fingerprint: str
    """Of its weights: a host with others is no use, and says so itself."""
    page_tokens: int
    lease_ns: int
    kv_key: bytes
    """What the workers of this fleet prove themselves with when they exchange pages."""


class Refused(msgspec.Struct, frozen=True, tag="refused", array_like=True):
    reason: str
    over: bool = False
    """The session has ended here: reap every worker, then join anew."""


class Stated(msgspec.Struct, frozen=True, tag="stated", array_like=True):
    """For control, from the agent: what it says of its host and of its workers' lives."""

    fact: AnyFact


class Started(msgspec.Struct, frozen=True, tag="started", array_like=True):
    """A worker process of the agent's, for `status`."""

    worker: str
    pid: int
    role: str
    engine: str
    format: str


class WorkerUp(msgspec.Struct, frozen=True, tag="up", array_like=True):
    """A worker runs and takes connections."""

    worker: str


class ControlUp(msgspec.Struct, frozen=True, tag="control", array_like=True):
    """A control plane began: it knows nothing of the agent's host yet."""

    epoch: int


class Fence(msgspec.Struct, frozen=True, tag="fence", array_like=True):
    worker: str
    why: str


class Opened(msgspec.Struct, frozen=True, tag="open", array_like=True):
    """A channel between a worker of the agent's and a process elsewhere."""

    channel: int
    worker: str
    peer: str
    kind: str
    """`control`, `door` or `worker`."""
    epoch: int


class Data(msgspec.Struct, frozen=True, tag="data", array_like=True):
    channel: int
    data: bytes


class Shut(msgspec.Struct, frozen=True, tag="shut", array_like=True):
    """One end of a channel is closed; nothing of it follows."""

    channel: int


HostWord = Stated | Started | WorkerUp | ControlUp | Fence | Opened | Data | Shut
Greeting = Hello | Challenge | Proof | Welcome | Refused

_encoder = msgspec.msgpack.Encoder()
_greetings: msgspec.msgpack.Decoder[Greeting] = msgspec.msgpack.Decoder(Greeting)
_packets: msgspec.msgpack.Decoder[Packet[HostWord]] = msgspec.msgpack.Decoder(Packet[HostWord])


def encode_greeting(greeting: Greeting) -> bytes:
    return _encoder.encode(greeting)


def decode_greeting(body: bytes) -> Greeting:
    """Raises `MalformedMessage`."""
    try:
        return _greetings.decode(body)
    except UNDECODABLE as error:
        raise MalformedMessage(f"greeting between hosts: {error}") from error


def encode_packet(packet: Packet[HostWord]) -> bytes:
    return _encoder.encode(packet)


def decode_packet(body: bytes) -> Packet[HostWord]:
    """Raises `MalformedMessage`."""
    try:
        return _packets.decode(body)
    except UNDECODABLE as error:
        raise MalformedMessage(f"packet between hosts: {error}") from error


def proof(token: bytes, side: str, hello: Hello, hub_nonce: bytes) -> bytes:
    """What only who has the token can say of these two nonces."""
    return keyed_proof(
        token, side.encode(), hello.host.encode(), str(hello.session).encode(), hello.nonce, hub_nonce
    )
