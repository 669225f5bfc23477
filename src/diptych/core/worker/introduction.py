"""What a worker says of itself when it meets a control plane."""

from __future__ import annotations

from diptych.core.config import WorkerConfig
from diptych.core.facts import WorkerJoined
from diptych.core.ids import Incarnation
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
