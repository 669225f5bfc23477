"""What `diptych status` shows of the fleet, as values."""

from __future__ import annotations

import msgspec

from diptych.core.control.fleet import WorkerView
from diptych.core.ids import worker_epoch, worker_name


class WorkerStatus(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    host: str
    role: str
    engine: str
    format: str
    """Weight format of its preferred numerics."""
    state: str
    """`ready` when it serves, `waiting for pages`, or `fenced`."""
    epoch: int
    pages_free: int
    pages_held: int
    pages_cached: int
    prefill_ns_per_token: int
    decode_ns_per_step: int
    streams: int
    pending_tokens: int


class ControlStatus(msgspec.Struct, frozen=True, kw_only=True):
    workers: tuple[WorkerStatus, ...]
    loading: tuple[str, ...]
    """Incarnations that were spawned and have not joined."""
    models: tuple[str, ...]
    queued: int
    prefilling: int
    transferring: int
    decoding: int


def worker_status(view: WorkerView) -> WorkerStatus:
    joined = view.joined
    state = "fenced" if view.fenced else "ready" if view.granted else "waiting for pages"
    return WorkerStatus(
        name=worker_name(joined.worker),
        host=joined.host,
        role=joined.role,
        engine=joined.engine,
        format=joined.formats[0] if joined.formats else "",
        state=state,
        epoch=worker_epoch(joined.worker),
        pages_free=view.free,
        pages_held=view.held,
        pages_cached=view.cached,
        prefill_ns_per_token=view.prefill_ns_per_token,
        decode_ns_per_step=view.decode_ns_per_step,
        streams=view.streams,
        pending_tokens=view.pending_tokens,
    )
