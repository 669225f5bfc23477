"""What is kept of a simulation: each request, each worker's time, the fleet at moments. Values only."""

from __future__ import annotations

import msgspec


class Served(msgspec.Struct, frozen=True, kw_only=True):
    """One request that has ended; times in ns from the start of the workload."""

    request: str
    arrived_ns: int
    first_ns: int | None
    """When the client had its first token."""
    end_ns: int
    failure: str | None
    prompt_tokens: int
    output_tokens: int
    gap_ns: float | None
    """Mean time between the tokens of its first sequence; None where it has one token."""
    cached_tokens: int
    prefill_tokens: int
    """Computed by a prefill worker."""
    split: int
    queue_ns: int
    handoff_pages: int
    handoff_ns: int
    attempts: tuple[str, ...]
    """How each ended: `finished`, `rerouted`, `preempted`, `target lost`, `source lost`, `released`."""
    prefill_worker: str | None
    decode_worker: str | None


class WorkerTime(msgspec.Struct):
    """What a worker did with its time, and how much of it; durations in ps."""

    prompt_ps: int = 0
    mixed_ps: int = 0
    decode_ps: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    runs: int = 0
    steps: int = 0
    ended_early: int = 0


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """The state of the fleet at one moment."""

    at_ns: int
    queued: int
    """At control, without a worker."""
    reserving: int
    """Waiting for pages of their target."""
    prefilling: int
    decoding: int
    pages: tuple[tuple[int, int], ...]
    """(held, cached) of each worker."""
