"""A simulated run as a value: the fleet, the requests with the answers they are meant to get, the faults."""

from __future__ import annotations

import msgspec

from diptych.core.config import SECOND_NS, ControlConfig

MILLISECOND_NS = 1_000_000


class WorkerPlan(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    role: str = "both"
    numerics: tuple[str, ...] = ("int8", "int4")
    models: tuple[str, ...] = ("model",)
    host: str = "host-0"
    pages: int = 64
    """Its share of the host's pool."""
    load_ns: int = 5 * MILLISECOND_NS
    prefill_ns_per_token: int = 100_000
    decode_ns_per_step: int = 2 * MILLISECOND_NS
    decode_ns_per_sequence: int = 100_000
    quantum_tokens: int = 8
    chunk_tokens: int = 16
    mixed_chunk_tokens: int = 8
    running_max: int = 64
    context_tokens_max: int = 4096
    samples: bool = True
    transports: tuple[str, ...] = ()
    """How it exchanges pages with workers of other hosts."""


class RequestPlan(msgspec.Struct, frozen=True, kw_only=True):
    request: str
    at_ns: int
    """Of arrival; for a follow-up turn the pause after the turn before it."""
    prompt: tuple[tuple[str, int], ...]
    """Pieces of named texts; prompts that begin with the same pieces share pages."""
    lengths: tuple[int, ...]
    """Output tokens of each sequence, had it no limit."""
    tokens_max: int = 64
    door: str = "door-0"
    model: str = "model"
    tenant: str = ""
    priority: int = 0
    seeded: bool = False
    logits_from: int | None = None
    deadline_ns: int | None = None
    follow: RequestPlan | None = None
    """The next turn: its prompt is the whole conversation so far and then its own pieces."""


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """`kind` and whom it strikes:

    kill     a worker or control       unplug   a worker's socket to control
    pause    a worker or control       stall    a worker's driver; its step loop goes on
    freeze   a host, all at once       lose     a door
    leave    the client of a request   dawdle   the same: it reads its tokens slowly
    flood    a model: requests at once that fill the pools
    slow, delay, loss, double, reorder, cut     a link (`network.weather`)
    """

    at_ns: int
    kind: str
    target: str
    duration_ns: int = 0
    """Of standing still, of absence, of what befalls a link."""
    chance: float = 1.0
    """For each packet."""
    delay_ns: int = 0
    """Of a packet, at most or always; of a slow client for each token."""
    count: int = 0
    """Of requests."""


class TransferPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How pages cross between hosts, and how often (of a thousand pages) what goes wrong."""

    page_ns: int = 200_000
    one_sided: bool = False
    """Reads need nothing of their source, and take whatever stands there."""
    fail_permille: int = 0
    corrupt_permille: int = 0
    hang_permille: int = 0
    hang_ns: int = 500 * MILLISECOND_NS
    """Longer than a claim's lease: a pull that outlives its claim."""


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    seed: int = 0
    workers: tuple[WorkerPlan, ...]
    requests: tuple[RequestPlan, ...]
    faults: tuple[Fault, ...] = ()
    doors: tuple[str, ...] = ("door-0",)
    control: ControlConfig = ControlConfig()
    page_tokens: int = 4
    latency_ns: int = 100_000
    jitter_ns: int = 0
    between_workers_ns: int = 0
    """More jitter for what workers tell each other: news of a death may overtake the last words."""
    backoff_ns: int = 50 * MILLISECOND_NS
    """Between the death of a worker and the start of its next incarnation."""
    reap_ns: int = MILLISECOND_NS
    beat_ns: int = SECOND_NS
    claim_lease_ns: int = 400 * MILLISECOND_NS
    transfers: TransferPlan = TransferPlan()
    control_host: str = "host-0"
    """The machine of control and of the doors; agents are on their workers' hosts."""
    clocks_apart_ns: int = 1 << 60
    """Every machine's clock is ahead of the world's by so much at most."""
    stall_ns: int = 200 * MILLISECOND_NS
    """As `live.driver.STALL_NS`: a deadline missed by more was missed by a driver that stood still."""
    horizon_ns: int = 600 * SECOND_NS
    """A request that is open so long after everything else happened is stuck."""
