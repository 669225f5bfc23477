"""What a finished request leaves behind: the documents of `diptych trace`, the newest ones kept.

No prompt text and no token ids are in them. Durations are in milliseconds, as people read them.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from diptych.core.control.reasons import in_words
from diptych.core.facts import RequestRecord
from diptych.core.ids import worker_name
from diptych.live.door.stream import Stream, percentiles_ms

log = logging.getLogger(__name__)

RECORDS_MAX = 1000
_NS_PER_MS = 1e6


def trace_document(stream: Stream, record: RequestRecord | None, failure: str | None) -> dict[str, Any]:
    """The door's timings merged with control's record; without one (the request runs, or control was
    restarted meanwhile) what the door knows by itself."""
    gaps = percentiles_ms(stream.token_gaps_ns())
    ttft_ns = None if stream.first_token_ns is None else stream.first_token_ns - stream.arrived_ns
    document: dict[str, Any] = {
        "id": stream.request.request_id,
        "model": stream.request.model,
        "sequences": stream.request.sequences,
        "prompt_tokens": len(stream.request.prompt),
        "output_tokens": stream.output_tokens,
        "ttft_ms": None if ttft_ns is None else ttft_ns / _NS_PER_MS,
        "itl_ms": {"p50": gaps.p50, "p99": gaps.p99},
        "finish_reasons": [log.finish for log in stream.logs],
        "failure": failure,
        "trace_context": stream.request.trace_context,
    }
    return document | (_of_door(stream) if record is None else _of_control(record))


def _of_control(record: RequestRecord) -> dict[str, Any]:
    return {
        "prefill_worker": record.prefill_worker,
        "decode_worker": record.decode_worker,
        "split": record.split,
        "cached_tokens": record.cached_tokens,
        "recipe": [msgspec.to_builtins(run) for run in record.recipe],
        "queue_ms": record.queue_ns / _NS_PER_MS,
        "prefill": {"tokens": record.prefill_tokens, "duration_ms": record.prefill_ns / _NS_PER_MS},
        "handoff": {
            "pages": record.handoff_pages,
            "bytes_moved": record.bytes_moved,
            "duration_ms": record.handoff_ns / _NS_PER_MS,
        },
        "attempts": [msgspec.to_builtins(attempt) for attempt in record.attempts],
        "exact": record.exact,
        "finish_reason": record.finish_reason,
        "reasons": list(in_words(record.reasons)),
    }


def _of_door(stream: Stream) -> dict[str, Any]:
    routed = stream.routed
    reasons = [log.finish for log in stream.logs if log.finish is not None]
    return {
        "prefill_worker": worker_name(routed.source) if routed and routed.source else None,
        "decode_worker": worker_name(routed.target) if routed else None,
        "split": routed.split if routed else None,
        "cached_tokens": routed.held_tokens if routed else None,
        "recipe": [msgspec.to_builtins(run) for run in stream.recipe],
        "queue_ms": None,
        "prefill": None,
        "handoff": {"pages": None, "bytes_moved": None, "duration_ms": None},
        "attempts": [],
        "exact": None,
        "finish_reason": reasons[0] if stream.finished and reasons else None,
        "reasons": list(in_words(routed.reasons)) if routed else [],
    }


class Records:
    """The newest documents by request id; each is also appended to a file as one JSON line if asked."""

    def __init__(self, path: str | None, records_max: int = RECORDS_MAX) -> None:
        """Raises `OSError` where the file cannot be opened."""
        self._records_max = records_max
        self._documents: OrderedDict[str, dict[str, Any]] = OrderedDict()
        self._file: BinaryIO | None = None if path is None else Path(path).open("ab", buffering=0)  # noqa: SIM115

    def add(self, document: dict[str, Any]) -> None:
        self._documents[document["id"]] = document
        self._documents.move_to_end(document["id"])
        while len(self._documents) > self._records_max:
            self._documents.popitem(last=False)
        if self._file is None:
            return
        try:
            self._file.write(msgspec.json.encode(document) + b"\n")
        except OSError as error:
            log.error("records are no longer written to %s: %s", self._file.name, error)
            self._file.close()
            self._file = None

    def get(self, request: str) -> dict[str, Any] | None:
        return self._documents.get(request)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
