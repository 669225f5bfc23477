"""What a worker says of itself: in full when it meets a control plane, in figures with each beat."""

from __future__ import annotations

from diptych.core.config import WorkerConfig
from diptych.core.facts import WorkerBeat, WorkerJoined
from diptych.core.ids import Incarnation
from diptych.core.pages.counts import PageCounts
from diptych.core.worker.batch import Rates
from diptych.core.worker.sequence import Key


def introduce(
    config: WorkerConfig, rates: Rates, room: int, peers: tuple[Incarnation, ...], streams: tuple[Key, ...]
) -> WorkerJoined:
    return WorkerJoined(
        worker=config.worker,
        host=config.host,
        role=config.role,
        engine=config.engine,
        models=config.models,
        numerics=config.numerics,
        formats=config.formats,
        page_tokens=config.page_tokens,
        context_tokens_max=config.context_tokens_max,
        samples=config.samples,
        invariant_rows=config.invariant_rows,
        prefill_ns_per_token=int(rates.prefill_ns_per_token),
        decode_ns_per_step=int(rates.decode_ns_per_step),
        room=room,
        peers=peers,
        streams=streams,
        transports=config.transports,
    )


def beat(
    worker: Incarnation,
    rates: Rates,
    pages: PageCounts,
    line: int,
    running: int,
    pending: int,
    overdue_ns: int,
) -> WorkerBeat:
    return WorkerBeat(
        worker=worker,
        pages_free=pages.free,
        pages_held=pages.held,
        pages_cached=pages.cached,
        waiting=line,
        running=running,
        prompt_tokens_pending=pending,
        prefill_ns_per_token=int(rates.prefill_ns_per_token),
        decode_ns_per_step=int(rates.decode_ns_per_step),
        run_overdue_ns=overdue_ns,
    )
