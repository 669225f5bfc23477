"""What the machines are built with: frozen values, read at the edge, checked once."""

from __future__ import annotations

import msgspec

from diptych.core.ids import Incarnation

SECOND_NS = 1_000_000_000
FOREVER_NS = 1 << 62
"""Later than anything: what has no end ends then."""


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True):
    worker: Incarnation
    host: str
    role: str
    """`prefill`, `decode` or `both`."""
    engine: str
    models: tuple[str, ...]
    numerics: tuple[str, ...]
    """What the engine can compute, the preferred one first."""
    formats: tuple[str, ...]
    context_tokens_max: int
    page_tokens: int = 16
    quantum_tokens: int = 32
    """Steps of one run, and output pages reserved ahead for them."""
    chunk_tokens: int = 512
    """Prompt tokens of one step while nothing decodes here."""
    mixed_chunk_tokens: int = 64
    """Prompt tokens of one step beside decoding sequences: bounds their inter-token latency."""
    running_max: int = 64
    """Sequences that decode together."""
    samples: bool = True
    invariant_rows: bool = True
    prefill_ns_per_token: int = 1_000_000
    """First guess; measured from then on."""
    decode_ns_per_step: int = 10_000_000
    beat_ns: int = SECOND_NS
    transports: tuple[str, ...] = ()
    """Ways to exchange pages with workers of other pools, the fastest first; none: only its own pool."""
    claim_lease_ns: int = 5 * SECOND_NS
    """How long a claim from another pool holds without word of its reader, who renews it at every beat."""
    overrun_factor: int = 4
    """A run is overdue when it has taken so many times what it was predicted: on a busy host a worker is slow
    and not dead."""


class ControlConfig(msgspec.Struct, frozen=True, kw_only=True):
    epoch: int = 1
    lease_ns: int = 3 * SECOND_NS
    """A worker that says nothing for so long is fenced."""
    overrun_ns: int = 3 * SECOND_NS
    """So is one whose run is overdue by so much."""
    queue_max: int = 256
    """Requests that may wait for a worker before new ones are rejected."""
    exact_wait_ns: int = 30 * SECOND_NS
    """How long a broken stream waits for its numerics before it goes on with others."""
    unavailable_wait_ns: int = 10 * SECOND_NS
    """How long a request waits for any worker that can serve it."""
    losses_max: int = 4
    """Worker deaths one request may meet before it is given up (it may be what kills them)."""
    handoff_ns: int = 200_000
    """Cost of a handoff between workers of one pool, first guess."""
    pull_page_ns: int = 500_000
    """Cost of a page between unlike pools, first guess; measured for each pair from then on."""
    fetch_failures_max: int = 3
    """A pair whose pulls failed so often, with none between that succeeded, is quarantined."""
    quarantine_ns: int = 60 * SECOND_NS
    records_max: int = 1024
