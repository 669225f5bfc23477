"""What the supervisor says to its children, and they to it, over the host link: one struct a packet.

Descriptors travel beside the struct that names them. Facts of the core travel as they are: from the
supervisor to control (`HostStated`, `WorkerSpawned`, `WorkerLost`, `ConnectionLost`).
"""

from __future__ import annotations

import msgspec

from diptych.core.config import ControlConfig
from diptych.core.facts import ConnectionLost, Fact, HostStated, WorkerLost, WorkerSpawned
from diptych.core.ids import Incarnation


class HostMessage(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Base of all messages on a host link."""


class ModelSource(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    """What clients call it."""
    path: str
    """GGUF file or safetensors folder; empty for an engine that needs no weights."""
    fingerprint: str
    context_max: int
    page_bytes: int
    kv_format: bytes
    """`diptych.wire.kv.encode_format` of its pages."""
    config: bytes
    """msgpack of `diptych.models.weights.ModelConfig`."""


class PackAsked(HostMessage, frozen=True):
    """First message to the packer, the short-lived child that loads the model."""

    model: str
    """What `diptych.models.resolve` takes."""
    engines: tuple[str, ...]
    formats: tuple[str, ...]
    """Weight formats that the native workers of this host compute; empty where there are none."""
    page_tokens: int


class Packed(HostMessage, frozen=True):
    """The packer's answer. Descriptors, all read-only memfds: the token table (`live.token_table`), then
    one for each name in `weights`."""

    model: ModelSource
    weights: tuple[str, ...]
    seconds: float


class ExchangeLaunch(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker exchanges pages with the workers of other hosts."""

    address: str
    """Where it serves its own; any free port."""
    key: bytes
    """The fleet's: who does not have it is served nothing."""
    checksums: bool = True
    streams: int = 2
    """Connections to each source."""
    certs: str | None = None
    """Folder with the fleet's certificates: pages go under TLS. None: the readers prove themselves, but
    whoever sees the network sees the pages."""
    certificate: str = ""
    """The name of this host's."""


class WorkerLaunch(HostMessage, frozen=True):
    """First message to a worker. Descriptors: the pool, the token table, one for each of `weights`."""

    worker: Incarnation
    host: str
    role: str
    """`prefill`, `decode` or `both`: a preference."""
    engine: str
    format: str
    """Preferred weight format."""
    formats: tuple[str, ...]
    """Every format the host has packed; a native worker can compute all of them."""
    options: dict[str, int | float | str]
    """Of the engine; the costs of a scripted one."""
    model: ModelSource
    weights: tuple[str, ...]
    pool_pages: int
    page_tokens: int
    lease_ns: int
    core: int | None
    """The CPU core it is pinned to."""
    threads: int = 1
    record_folder: str | None = None
    """Where its machine's steps are recorded, if anywhere."""
    exchange: ExchangeLaunch | None = None
    """None: with nobody outside its own pool."""


class ControlLaunch(HostMessage, frozen=True):
    """First message to a control process."""

    config: ControlConfig
    host: str
    record_folder: str | None = None


class DoorLaunch(HostMessage, frozen=True):
    """First message to a door."""

    door: str
    """Incarnation of the door."""
    address: str
    port: int
    model: ModelSource
    pool_pages: int
    page_tokens: int
    scripted: bool
    """The engines need no weights: the door uses the byte tokenizer."""
    records_path: str | None
    grace_ns: int
    """How long open requests may go on after `StopAsked`."""


class Connected(HostMessage, frozen=True):
    """The descriptor beside it is a stream socket to `peer`; it replaces an older one of that name."""

    peer: str
    """`control`, a door's incarnation or a worker's."""
    kind: str
    """`control`, `door` or `worker`."""
    epoch: int = 0
    """Of the control plane, where the peer is `control`."""


class ProcessStarted(HostMessage, frozen=True):
    """Supervisor to control: what `status` tells about a worker beyond what the machine knows."""

    worker: Incarnation
    pid: int
    role: str
    engine: str
    format: str


class Served(HostMessage, frozen=True):
    """Child to supervisor: it does its work from now on. A door says where it listens."""

    address: str = ""
    port: int = 0


class ConnectionCut(HostMessage, frozen=True):
    """Child to supervisor: the socket to `peer` ended. What lay in it is lost, if the peer still lives."""

    peer: str


class StartFailed(HostMessage, frozen=True):
    """Child to supervisor: starting again will not help (a port in use, an unreadable model)."""

    reason: str


class FenceAsked(HostMessage, frozen=True):
    """Control to supervisor: kill and reap this incarnation, then say `WorkerLost`."""

    worker: Incarnation
    why: str


class StopAsked(HostMessage, frozen=True):
    """Supervisor to child: end in order. A door takes no new requests and cuts the open ones when its
    grace is over; the others end at once."""


HostUnion = (
    PackAsked
    | Packed
    | WorkerLaunch
    | ControlLaunch
    | DoorLaunch
    | Connected
    | ProcessStarted
    | Served
    | ConnectionCut
    | StartFailed
    | FenceAsked
    | StopAsked
)


class _FactPacket(HostMessage, frozen=True):
    """A fact on the host link: facts are arrays, the other messages maps, so it gets an envelope."""

    fact: ConnectionLost | HostStated | WorkerSpawned | WorkerLost


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(HostUnion | _FactPacket)


def encode_host(message: HostMessage | Fact) -> bytes:
    """One packet for a host link; of the facts only the supervisor's own four can travel there."""
    if isinstance(message, Fact):
        if not isinstance(message, ConnectionLost | HostStated | WorkerSpawned | WorkerLost):
            raise TypeError(f"{type(message).__name__} does not travel on a host link")
        return _ENCODER.encode(_FactPacket(fact=message))
    return _ENCODER.encode(message)


def decode_host(packet: bytes) -> HostUnion | ConnectionLost | HostStated | WorkerSpawned | WorkerLost:
    """Raises `msgspec.DecodeError` on a packet that is none of ours."""
    message = _DECODER.decode(packet)
    return message.fact if isinstance(message, _FactPacket) else message
