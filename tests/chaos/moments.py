"""The moments in a request's life at which faults are aimed, told from the machines' logs."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from fleet_harness import Stream
from logs import Logs, Record

LIMIT_S = 30.0
"""A moment that has not come by then is missed."""


class Moment(msgspec.Struct, frozen=True):
    name: str
    begins: Callable[[Record, str], bool]
    over: Callable[[Record, str], bool]
    pieces: int = 0
    """And then so many more pieces have come to the client."""


def _control(kind: str) -> Callable[[Record, str], bool]:
    return lambda record, request: record.machine.startswith("control") and record.is_of(kind, request)


def _worker(kind: str) -> Callable[[Record, str], bool]:
    return lambda record, request: not record.machine.startswith("control") and record.is_of(kind, request)


ARRIVAL = Moment("on arrival", _control("RequestArrived"), _control("TargetReserved"))
RESERVED = Moment("reserved, not claimed", _control("TargetReserved"), _worker("PagesOffered"))
PREFILL = Moment(
    "in prefill", lambda record, request: record.asks_to_compute(request), _control("PrefillFinished")
)
HANDOFF = Moment("in handoff", _worker("PagesOffered"), _control("StreamStarted"))
DECODE = Moment("in decode", _control("StreamStarted"), _control("StreamEnded"), pieces=6)

EVERY = (RESERVED, PREFILL, HANDOFF, DECODE)


def await_moment(moment: Moment, logs: Logs, stream: Stream, start: int) -> None:
    """Returns when it has come, or when it will not any more (`was_hit` says which)."""
    request = stream.request_id
    come = logs.wait(
        lambda record: moment.begins(record, request) or moment.over(record, request), start, LIMIT_S
    )
    if come and moment.pieces:
        stream.wait_for_chunks(moment.pieces)


def was_hit(moment: Moment, logs: Logs, request: str, start: int) -> bool:
    """Whether, by what the logs hold now, the moment has begun and is not over."""
    logs.read()
    return logs.holds(lambda record: moment.begins(record, request), start) and not logs.holds(
        lambda record: moment.over(record, request), start
    )
