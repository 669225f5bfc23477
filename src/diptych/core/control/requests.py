"""What happens to one request at control: a table of (state, fact), and the line in front of it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from heapq import heappop, heappush

from diptych.core.actions import Action, Send
from diptych.core.config import FOREVER_NS, ControlConfig
from diptych.core.control.dispatch import Dispatch
from diptych.core.control.fleet import Fleet
from diptych.core.control.request import ADOPTING, DRAINING, PREFILLING, QUEUED, RESERVING, STREAMING, Request
from diptych.core.errors import BrokenInvariant, ImpossibleFact
from diptych.core.facts import (
    ClientGone,
    DeadlinePassed,
    Fact,
    FetchFailed,
    PrefillFinished,
    RequestArrived,
    RequestFact,
    RequestRecord,
    SourceLost,
    StreamDrained,
    StreamEnded,
    StreamInterrupted,
    StreamPaused,
    StreamStarted,
    TargetRefused,
    TargetReserved,
)
from diptych.core.ids import Incarnation, RequestId

ABSENT = "absent"


class Requests:
    """All requests that control knows, by id."""

    def __init__(self, config: ControlConfig, fleet: Fleet, outbox: list[Action]) -> None:
        self.config = config
        self.fleet = fleet
        self.outbox = outbox
        self.open: dict[RequestId, Request] = {}
        self.records: OrderedDict[RequestId, RequestRecord] = OrderedDict()
        self.dispatch = Dispatch(config, fleet, outbox)
        self._deadlines: list[tuple[int, RequestId]] = []

    def step(self, now_ns: int, name: RequestId, fact: Fact) -> None:
        request = self.open.get(name)
        if isinstance(fact, RequestFact) and (request is None or fact.attempt != request.attempt):
            return
        state = ABSENT if request is None else request.state
        row = ROWS[state].get(type(fact))
        if row is None:
            raise ImpossibleFact("control", state, fact)
        row(self, now_ns, request, fact)

    def _arrive(self, now_ns: int, _: None, fact: RequestArrived) -> None:
        refusal = self.dispatch.refusal(fact, len(self.open))
        if refusal is not None:
            self.outbox.append(Send(to=fact.door, fact=refusal))
            return
        request = Request(fact, now_ns)
        self.open[fact.request] = request
        if request.deadline_ns is not None:
            self.watch(request)
        self.dispatch.enqueue(now_ns, request)

    def _reserved(self, now_ns: int, request: Request, fact: TargetReserved) -> None:
        self.dispatch.fix(now_ns, request, fact)

    def _refused(self, now_ns: int, request: Request, fact: TargetRefused) -> None:
        """Too long for the target for good, unless pages of a dead worker are still to come to it, or
        the stream did fit before."""
        view = self.fleet.workers.get(fact.worker)
        if request.streamed or (view is not None and view.short):
            self.dispatch.put_off(now_ns, request, "refused", release=False)
            return
        needed, limit = fact.needed_tokens, fact.limit_tokens
        self._end(request, "failed", f"needs KV for {needed} tokens, the pool has room for {limit}", limit)

    def _prefilled(self, now_ns: int, request: Request, fact: PrefillFinished) -> None:
        request.note_prefill(fact)
        view = self.fleet.workers.get(fact.worker)
        if view is not None and fact.computed_tokens:
            view.measured_ns = now_ns
        self.dispatch.unbook(request, fact.worker)

    def _fetch_failed(self, now_ns: int, request: Request, fact: FetchFailed) -> None:
        """Pages of another pool did not come over, or could not be believed: elsewhere, or computed by
        the target itself. What did come over is in its cache."""
        assert request.target is not None
        self.fleet.pairs.failed(now_ns, fact.source, request.target, fact.why)
        request.avoid = (*request.avoid, fact.source)
        self.dispatch.withdraw(request, "fetch failed", release=True)
        self.dispatch.enqueue(now_ns, request)

    def _started(self, now_ns: int, request: Request, fact: StreamStarted) -> None:
        request.bytes_moved += fact.bytes_moved
        if fact.pulled_pages and request.source is not None:
            self.fleet.pairs.pulled(request.source, fact.worker, fact.pulled_pages, fact.pull_ns)
        self.dispatch.unbook(request, fact.worker)
        self.dispatch.stream(request)

    def _paused(self, now_ns: int, request: Request, fact: StreamPaused) -> None:
        self.dispatch.withdraw(request, "preempted", release=False)
        request.preemptions += 1
        request.paused_on = fact.worker
        request.state = DRAINING

    def _drained(self, now_ns: int, request: Request, fact: StreamDrained) -> None:
        """Also before the worker's own word of it: a pause frame reached the door first."""
        if request.state is not DRAINING:
            self.dispatch.withdraw(request, "preempted", release=True)
            request.preemptions += 1
        request.paused_on = None
        request.starts = fact.starts
        request.outputs.update(fact.finished)
        request.resumed = True
        request.streamed |= bool(fact.finished) or any(start.emitted for start in fact.starts)
        if not fact.starts:
            self._end(request, "stop", None)
            return
        self.dispatch.enqueue(now_ns, request)

    def _finish(self, now_ns: int, request: Request, fact: StreamEnded) -> None:
        self.dispatch.withdraw(request, "finished", release=False)
        request.outputs.update(fact.outputs)
        self._close(request, fact.reasons[0] if fact.reasons else "stop", None)

    def _client_gone(self, now_ns: int, request: Request, fact: ClientGone) -> None:
        self._end(request, "client_gone", "client_gone")

    def _deadline(self, now_ns: int, request: Request, fact: DeadlinePassed) -> None:
        self._end(request, "deadline", "deadline")

    def _ignore(self, now_ns: int, request: Request | None, fact: Fact) -> None:
        """Late, repeated or foreign: it changes nothing."""

    def _end(self, request: Request, reason: str, failure: str | None, limit: int | None = None) -> None:
        """Ends a request that did not end by itself: whatever it holds anywhere is let go."""
        self.dispatch.withdraw(request, "released", release=True)
        if reason == "failed" and not request.streamed and limit is not None:
            self.dispatch.reject_too_long(request, failure or "", limit)
            self._forget(request)
            return
        self._close(request, reason, failure)

    def _close(self, request: Request, reason: str, failure: str | None) -> None:
        record = request.record(reason)
        self.records[record.request] = record
        while len(self.records) > self.config.records_max:
            self.records.popitem(last=False)
        self.dispatch.tell_ended(request, record, failure)
        self._forget(request)

    def _forget(self, request: Request) -> None:
        self.dispatch.dequeue(request)
        self.open.pop(request.arrived.request, None)

    # ---- deaths -----------------------------------------------------------------------------------

    def worker_lost(self, now_ns: int, worker: Incarnation) -> None:
        for request in list(self.open.values()):
            if request.target == worker and request.state in (RESERVING, PREFILLING, STREAMING):
                self.target_lost(now_ns, request)
            elif request.source == worker and request.state is PREFILLING:
                self.source_lost(request)
            elif request.paused_on == worker and request.state is DRAINING:
                # The word of it to the door may be lost with its host. A door that has it ignores this.
                self.drain(request)

    def target_lost(self, now_ns: int, request: Request) -> None:
        self.dispatch.withdraw(request, "target lost", release=True)
        request.losses += 1
        if request.losses >= self.config.losses_max:
            self._close(request, "failed", f"{request.losses} workers died under this request")
            return
        self.drain(request)

    def drain(self, request: Request) -> None:
        request.state = DRAINING
        fact = StreamInterrupted(request=request.arrived.request, attempt=request.attempt)
        self.outbox.append(Send(to=request.arrived.door, fact=fact))

    def source_lost(self, request: Request) -> None:
        assert request.target is not None
        request.close_attempt("source lost")
        self.dispatch.unbook(request)
        request.source = None
        request.state = RESERVING
        self.fleet.workers[request.target].waiting += 1
        fact = SourceLost(request=request.arrived.request, attempt=request.attempt)
        self.outbox.append(Send(to=request.target, fact=fact))

    def door_lost(self, door: str) -> None:
        for request in list(self.open.values()):
            if request.arrived.door == door:
                self._end(request, "door_lost", "door_lost")

    # ---- time -------------------------------------------------------------------------------------

    def watch(self, request: Request) -> None:
        if request.deadline_ns is not None:
            heappush(self._deadlines, (request.deadline_ns, request.arrived.request))

    def awaited(self) -> bool:
        """Whether some request has a deadline of its own, or is in line."""
        return bool(self._deadlines or self.dispatch.queue)

    def next_deadline_ns(self) -> int:
        deadline_ns = self.dispatch.next_expiry_ns() if self.dispatch.queue else FOREVER_NS
        return min(deadline_ns, self._deadlines[0][0]) if self._deadlines else deadline_ns

    def time_passed(self, now_ns: int) -> None:
        while self._deadlines and self._deadlines[0][0] <= now_ns:
            _, name = heappop(self._deadlines)
            self.step(now_ns, name, DeadlinePassed(request=name))
        for request in self.dispatch.expired(now_ns):
            self.dispatch.reject_unavailable(request)
            self._forget(request)

    # ---- books ------------------------------------------------------------------------------------

    def counts(self) -> dict[str, int]:
        counts = dict.fromkeys((QUEUED, RESERVING, PREFILLING, STREAMING, DRAINING, ADOPTING), 0)
        for request in self.open.values():
            counts[request.state] += 1
        return counts

    def check(self) -> None:
        queued = sum(request.state is QUEUED for request in self.open.values())
        if queued != len(self.dispatch.queue):
            raise BrokenInvariant("control", f"{queued} are queued, {len(self.dispatch.queue)} in line")
        placed = [r for r in self.open.values() if r.state in (RESERVING, PREFILLING, STREAMING)]
        for request in placed:
            if request.target not in self.fleet.workers:
                raise BrokenInvariant("control", f"{request.arrived.request} is on a worker that is gone")
        for view in self.fleet.workers.values():
            streams = sum(r.target == view.name and r.state is STREAMING for r in placed)
            waiting = sum(r.target == view.name and r.state is RESERVING for r in placed)
            pending = sum(
                tokens for r in self.open.values() for name, tokens in r.pending if name == view.name
            )
            if (streams, waiting, pending) != (view.streams, view.waiting, view.pending_tokens):
                raise BrokenInvariant("control", f"the books of {view.name} differ from its requests")


R = Requests
LATE: dict[type[Fact], Callable[..., None]] = {
    RequestArrived: R._ignore,
    TargetReserved: R._ignore,
    TargetRefused: R._ignore,
    FetchFailed: R._ignore,
    PrefillFinished: R._ignore,
    StreamStarted: R._ignore,
    StreamPaused: R._ignore,
    StreamDrained: R._ignore,
    StreamEnded: R._ignore,
    ClientGone: R._client_gone,
    DeadlinePassed: R._deadline,
}
ROWS: dict[str, dict[type[Fact], Callable[..., None]]] = {
    ABSENT: {**LATE, RequestArrived: R._arrive, ClientGone: R._ignore, DeadlinePassed: R._ignore},
    QUEUED: LATE,
    RESERVING: {
        **LATE,
        TargetReserved: R._reserved,
        TargetRefused: R._refused,
        PrefillFinished: R._prefilled,
        StreamStarted: R._started,
        StreamPaused: R._paused,
        StreamDrained: R._drained,
        StreamEnded: R._finish,
    },
    PREFILLING: {
        **LATE,
        FetchFailed: R._fetch_failed,
        PrefillFinished: R._prefilled,
        StreamStarted: R._started,
        StreamPaused: R._paused,
        StreamDrained: R._drained,
        StreamEnded: R._finish,
    },
    STREAMING: {
        **LATE,
        PrefillFinished: R._prefilled,
        StreamPaused: R._paused,
        StreamDrained: R._drained,
        StreamEnded: R._finish,
    },
    DRAINING: {**LATE, StreamDrained: R._drained},
    ADOPTING: {**LATE, StreamDrained: R._drained, StreamPaused: R._paused, StreamEnded: R._finish},
}
