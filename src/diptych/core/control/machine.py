"""The `ControlPlane` machine: requests, routes, attempts, deadlines, and the life and death of workers.

    arrived -> QUEUED -> RESERVING -> PREFILLING -> STREAMING -> ended
                 ^           |  source lost  |          |
                 |           +<--------------+          | target lost, preempted
                 +------------- DRAINING <--------------+   (the door says what the client has)

It holds no tokens and no text, and moves no bytes. What it knows of pages is advice; workers decide
about their own. Facts about a request carry the attempt; one with an old attempt changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable

from diptych.core.actions import Action, FenceWorker, Send
from diptych.core.config import FOREVER_NS, ControlConfig
from diptych.core.control.estate import Estate
from diptych.core.control.fleet import Fleet
from diptych.core.control.request import ADOPTING, DRAINING, PREFILLING, QUEUED, RESERVING, STREAMING, Request
from diptych.core.control.requests import Requests
from diptych.core.control.status import ControlStatus, worker_status
from diptych.core.errors import ImpossibleFact
from diptych.core.facts import (
    WIRE_FACTS,
    ClientGone,
    ConnectionLost,
    DeadlinePassed,
    DoorJoined,
    DoorLost,
    DriverStalled,
    Fact,
    HostStated,
    OwnershipStated,
    PagesGiven,
    RequestArrived,
    RequestFact,
    RequestRecord,
    RequestReleased,
    StreamEnded,
    StreamPaused,
    WorkerBeat,
    WorkerJoined,
    WorkerLost,
    WorkerSpawned,
)
from diptych.core.ids import Incarnation, RequestId, worker_name

ABSENT = "absent"
ADOPT_NS = 2_000_000_000
"""How long a new control waits for workers that may still stream what doors have open."""


class ControlPlane:
    """One epoch of the control plane."""

    def __init__(self, config: ControlConfig) -> None:
        self.config = config
        self.fleet = Fleet(config)
        self.estates: dict[str, Estate] = {}
        self.outbox: list[Action] = []
        self.requests = Requests(config, self.fleet, self.outbox)
        self.loading: dict[Incarnation, int] = {}
        """Spawned workers that have not joined, and until when they must."""
        self.unclaimed: dict[tuple[RequestId, int], Incarnation] = {}
        """Streams that workers reported and no door has asked for (yet)."""
        self.early: dict[tuple[RequestId, int], StreamEnded | StreamPaused] = {}
        """How some of those ended before a door could ask."""
        self._adopt_until_ns: int | None = None

    # ---- the machine ------------------------------------------------------------------------------

    def step(self, now_ns: int, fact: Fact) -> tuple[Action, ...]:
        kind = type(fact)
        if kind in _OF_WORKERS:
            view = self.fleet.workers.get(fact.worker)  # type: ignore[attr-defined]
            if view is not None:
                view.heard_ns = now_ns
        row = _ROWS.get(kind)
        if row is not None:
            row(self, now_ns, fact)
        elif self.unclaimed and isinstance(fact, StreamEnded | StreamPaused) and self._is_unclaimed(fact):
            self.early[fact.request, fact.attempt] = fact
        elif kind in _OF_REQUESTS:
            self.requests.step(now_ns, fact.request, fact)  # type: ignore[attr-defined]
        else:
            raise ImpossibleFact("control", "any", fact)
        if self.requests.dispatch.queue:
            self.requests.dispatch.pump(now_ns)
        if not self.outbox:
            return ()
        actions = tuple(self.outbox)
        self.outbox.clear()
        return actions

    def next_deadline_ns(self) -> int | None:
        """No deadline lies before; it may turn out to have moved on when it has come."""
        deadline_ns = self.fleet.lease_end_ns
        if self.requests.awaited():
            deadline_ns = min(deadline_ns, self.requests.next_deadline_ns())
        if self._adopt_until_ns is not None:
            deadline_ns = min(deadline_ns, self._adopt_until_ns)
        if self.loading:
            deadline_ns = min(deadline_ns, *self.loading.values())
        return deadline_ns if deadline_ns < FOREVER_NS else None

    def status(self) -> ControlStatus:
        counts = self.requests.counts()
        handed = sum(r.state is PREFILLING and r.handoff_pages > 0 for r in self.requests.open.values())
        return ControlStatus(
            workers=tuple(worker_status(view) for view in self.fleet.workers.values()),
            loading=tuple(self.loading),
            models=tuple(self.fleet.models),
            queued=counts[QUEUED] + counts[RESERVING] + counts[DRAINING] + counts[ADOPTING],
            prefilling=counts[PREFILLING] - handed,
            transferring=handed,
            decoding=counts[STREAMING],
        )

    def record(self, request: RequestId) -> RequestRecord | None:
        return self.requests.records.get(request)

    def check(self) -> None:
        """Raises `BrokenInvariant` unless every request stands where its state says."""
        self.requests.check()

    # ---- workers ----------------------------------------------------------------------------------

    def _estate(self, host: str) -> Estate:
        return self.estates.setdefault(host, Estate())

    def _flush(self, estate: Estate) -> None:
        for send in estate.outbox:
            self.outbox.append(send)
            view = self.fleet.workers.get(send.to)
            if view is not None and not view.granted and estate.rooms.get(send.to):
                self.fleet.grant(view)
        estate.outbox.clear()
        for worker, room in estate.rooms.items():
            view = self.fleet.workers.get(worker)
            if view is not None:
                view.short = room < estate.shares.get(worker_name(worker), 0)

    def _host_stated(self, now_ns: int, fact: HostStated) -> None:
        estate = self._estate(fact.host)
        estate.state(fact)
        self._flush(estate)
        self.fleet.expect(name for name, _ in fact.shares)
        # One that hangs would never join, and its host's estate would never clear: it has a lease too.
        for worker in fact.workers:
            if worker not in self.fleet.workers:
                self.loading.setdefault(worker, now_ns + self.config.lease_ns)

    def _spawned(self, now_ns: int, fact: WorkerSpawned) -> None:
        if fact.worker not in self.fleet.workers:
            self.loading[fact.worker] = now_ns + fact.limit_ns

    def _joined(self, now_ns: int, fact: WorkerJoined) -> None:
        self.loading.pop(fact.worker, None)
        self.fleet.join(fact, now_ns)
        for request_id, attempt in fact.streams:
            self.unclaimed[request_id, attempt] = fact.worker
            request = self.requests.open.get(request_id)
            if request is not None and request.state is ADOPTING and request.attempt == attempt:
                self._adopt(now_ns, request)
        if fact.streams and self._adopt_until_ns is None:
            self._adopt_until_ns = now_ns + ADOPT_NS
        estate = self._estate(fact.host)
        estate.join(fact.worker, fact.room, fact.peers)
        self._flush(estate)

    def _beat(self, now_ns: int, fact: WorkerBeat) -> None:
        view = self.fleet.workers.get(fact.worker)
        if view is None:
            return
        view.beat(fact)
        if fact.run_overdue_ns > self.config.overrun_ns:
            self._fence(view.name, f"its run is {fact.run_overdue_ns / 1e9:.1f} s overdue")

    def _connection_lost(self, now_ns: int, fact: ConnectionLost) -> None:
        if fact.peer in self.fleet.workers or fact.peer in self.loading:
            self._fence(fact.peer, "its connection closed")

    def _fence(self, worker: Incarnation, why: str) -> None:
        view = self.fleet.workers.get(worker)
        if view is not None:
            if view.fenced:
                return
            self.fleet.fence(view)
        self.loading.pop(worker, None)
        self.outbox.append(FenceWorker(worker=worker, why=why))

    def _worker_lost(self, now_ns: int, fact: WorkerLost) -> None:
        self.loading.pop(fact.worker, None)
        view = self.fleet.lose(fact.worker)
        for key in [key for key, worker in self.unclaimed.items() if worker == fact.worker]:
            del self.unclaimed[key]
            self.early.pop(key, None)
        estates = [self._estate(view.joined.host)] if view is not None else list(self.estates.values())
        for estate in estates:
            estate.lose(fact.worker)
            self._flush(estate)
        self.requests.worker_lost(now_ns, fact.worker)

    def _owns(self, now_ns: int, fact: OwnershipStated) -> None:
        view = self.fleet.workers.get(fact.worker)
        if view is not None:
            estate = self._estate(view.joined.host)
            estate.stated(fact)
            self._flush(estate)

    def _given(self, now_ns: int, fact: PagesGiven) -> None:
        view = self.fleet.workers.get(fact.sender)
        if view is not None:
            view.heard_ns = now_ns
            estate = self._estate(view.joined.host)
            estate.give(fact)
            self._flush(estate)

    # ---- doors ------------------------------------------------------------------------------------

    def _door_joined(self, now_ns: int, fact: DoorJoined) -> None:
        for open_request in fact.open:
            arrived = open_request.arrived
            if arrived.request in self.requests.open:
                continue
            request = Request(arrived, now_ns)
            request.starts = open_request.starts
            request.recipe = open_request.recipe
            request.exact = open_request.exact
            request.outputs = dict(open_request.finished)
            request.attempt = open_request.attempt or 0
            request.state = ADOPTING
            request.resumed = any(start.emitted for start in open_request.starts) or bool(request.outputs)
            request.streamed = request.resumed
            self.requests.open[arrived.request] = request
            self.requests.watch(request)
            if (arrived.request, request.attempt) in self.unclaimed:
                self._adopt(now_ns, request)
            elif self._adopt_until_ns is None:
                self._adopt_until_ns = now_ns + ADOPT_NS

    def _adopt(self, now_ns: int, request: Request) -> None:
        key = request.arrived.request, request.attempt
        worker = self.unclaimed.pop(key)
        request.target = worker
        self.requests.dispatch.stream(request)
        early = self.early.pop(key, None)
        if early is not None:
            self.requests.step(now_ns, early.request, early)

    def _is_unclaimed(self, fact: StreamEnded | StreamPaused) -> bool:
        return (fact.request, fact.attempt) in self.unclaimed

    def _stop_adopting(self) -> None:
        """Who has not been claimed by now runs for nobody; what no worker streams starts again."""
        self._adopt_until_ns = None
        for (request_id, attempt), worker in self.unclaimed.items():
            self.outbox.append(Send(to=worker, fact=RequestReleased(request=request_id, attempt=attempt)))
        self.unclaimed = {}
        self.early = {}
        for request in self.requests.open.values():
            if request.state is ADOPTING:
                self.requests.drain(request)

    def _door_lost(self, now_ns: int, fact: DoorLost) -> None:
        self.requests.door_lost(fact.door)

    # ---- time -------------------------------------------------------------------------------------

    def _time_passed(self, now_ns: int, fact: DeadlinePassed) -> None:
        for view in self.fleet.silent(now_ns):
            self._fence(view.name, f"it was silent for {self.config.lease_ns / 1e9:g} s")
        for worker in [worker for worker, limit_ns in self.loading.items() if limit_ns <= now_ns]:
            self._fence(worker, "it did not become ready in time")
        if self._adopt_until_ns is not None and self._adopt_until_ns <= now_ns:
            self._stop_adopting()
        self.requests.time_passed(now_ns)

    def _stalled(self, now_ns: int, fact: DriverStalled) -> None:
        self.fleet.excuse(fact.duration_ns)
        self.loading = {worker: limit + fact.duration_ns for worker, limit in self.loading.items()}


C = ControlPlane
_ROWS: dict[type[Fact], Callable[..., None]] = {
    HostStated: C._host_stated,
    WorkerSpawned: C._spawned,
    WorkerJoined: C._joined,
    WorkerBeat: C._beat,
    ConnectionLost: C._connection_lost,
    WorkerLost: C._worker_lost,
    OwnershipStated: C._owns,
    PagesGiven: C._given,
    DoorJoined: C._door_joined,
    DoorLost: C._door_lost,
    DeadlinePassed: C._time_passed,
    DriverStalled: C._stalled,
}
_OF_WORKERS = frozenset(fact for fact in WIRE_FACTS if "worker" in fact.__struct_fields__)
"""Whose lease they renew."""
_OF_REQUESTS = frozenset((*RequestFact.__subclasses__(), RequestArrived, ClientGone))
