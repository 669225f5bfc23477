"""Control's line of requests, and what it tells workers and doors about each attempt.

Holds the queue and books work on the fleet's views; the state machine in `control.py` decides when.
"""

from __future__ import annotations

from bisect import insort

from diptych.core.actions import Action, Send
from diptych.core.config import FOREVER_NS, SECOND_NS, ControlConfig
from diptych.core.control.fleet import Fleet, WorkerView
from diptych.core.control.need import Need
from diptych.core.control.request import PREFILLING, QUEUED, RESERVING, STREAMING, Request
from diptych.core.control.router import Route, Router
from diptych.core.facts import (
    Fact,
    PrefillRequested,
    RecipeFixed,
    RequestArrived,
    RequestEnded,
    RequestRecord,
    RequestRejected,
    RequestReleased,
    RequestRouted,
    TargetRequested,
    TargetReserved,
)
from diptych.core.ids import ATTEMPTS_PER_EPOCH, Incarnation
from diptych.core.recipe import OPEN_END, Recipe, extend, join

REROUTE_FACTOR = 2
"""A target that holds less than it was chosen for is given up for one that costs so many times less, once."""
RETRY_NS = SECOND_NS // 20
"""Pause before what no worker could carry out is tried again."""


class Dispatch:
    def __init__(
        self,
        config: ControlConfig,
        fleet: Fleet,
        outbox: list[Action],
    ) -> None:
        self.config = config
        self.fleet = fleet
        self.router = Router(config, fleet)
        self.outbox = outbox
        self.queue: list[Request] = []
        """Requests without a worker, by priority and age."""
        self._attempts = config.epoch * ATTEMPTS_PER_EPOCH

    # ---- the line ---------------------------------------------------------------------------------

    def refusal(self, arrived: RequestArrived, requests_open: int) -> RequestRejected | None:
        """Why a new request is not even put in line, or None."""
        known = self.fleet.models
        # While some worker has never joined, its model is unknown, but not unserved.
        if known and arrived.model not in known and not self.fleet.unseen:
            message = f"model {arrived.model!r} is not served here; models: {', '.join(self.fleet.models)}"
            return RequestRejected(
                request=arrived.request, kind="unknown_model", message=message, field="model"
            )
        # No more can wait than are open.
        if requests_open < self.config.queue_max:
            return None
        waiting = len(self.queue) + sum(view.waiting for view in self.fleet.workers.values())
        if waiting >= self.config.queue_max:
            return RequestRejected(
                request=arrived.request,
                kind="overloaded",
                message=f"{waiting} requests are waiting, the limit is {self.config.queue_max}",
                retry_after_ns=self._retry_after_ns(waiting),
                field="queue_max",
                limit=self.config.queue_max,
            )
        return None

    def _retry_after_ns(self, waiting: int) -> int:
        """When half of the line should be gone, by what the workers measure; 1 to 30 s."""
        workers = list(self.fleet.workers.values())
        speed = max((view.decode_ns_per_step for view in workers), default=SECOND_NS // 100)
        return max(SECOND_NS, min(30 * SECOND_NS, waiting * speed * 16 // max(1, len(workers))))

    def enqueue(self, now_ns: int, request: Request) -> None:
        request.state = QUEUED
        request.target = request.source = None
        request.waiting_since_ns = now_ns
        request.not_before_ns = 0
        waits_long = request.streamed or request.recipe or request.arrived.exact
        wait_ns = self.config.exact_wait_ns if waits_long else self.config.unavailable_wait_ns
        request.expires_ns = now_ns + wait_ns
        insort(self.queue, request, key=lambda waiting: (-waiting.arrived.priority, waiting.arrived_ns))

    def put_off(self, now_ns: int, request: Request, outcome: str, *, release: bool) -> None:
        """Back in line for a while; the time it may wait runs on from the first time this happens."""
        expires_ns = request.expires_ns if request.put_off else None
        self.withdraw(request, outcome, release=release)
        self.enqueue(now_ns, request)
        request.put_off = True
        request.not_before_ns = now_ns + RETRY_NS
        if expires_ns is not None:
            request.expires_ns = expires_ns

    def dequeue(self, request: Request) -> None:
        if request.state is QUEUED and request in self.queue:
            self.queue.remove(request)

    def next_expiry_ns(self) -> int:
        soonest_ns = FOREVER_NS
        for request in self.queue:
            soonest_ns = min(soonest_ns, request.expires_ns, request.not_before_ns or FOREVER_NS)
        return soonest_ns

    def expired(self, now_ns: int) -> list[Request]:
        """Requests that waited too long for any worker. Those that waited for numerics only go on
        with another recipe: gap-free, but no more equal to the undisturbed stream. Unless their clients
        want no other."""
        late = [request for request in self.queue if request.expires_ns <= now_ns]
        for request in late:
            if (request.recipe or self._awaits_canonical(request)) and not request.arrived.exact:
                request.recipe = ()
                request.exact = False
                request.expires_ns = now_ns + self.config.unavailable_wait_ns
        return [request for request in late if request.expires_ns <= now_ns]

    def pump(self, now_ns: int) -> None:
        """Gives every request in line that can be given to workers away."""
        if not self.queue:
            return
        for request in list(self.queue):
            if request.not_before_ns > now_ns:
                continue
            # Also where nobody is left: a moment that has come is named as a deadline no more.
            request.not_before_ns = 0
            if not self.fleet.workers:
                continue
            if request.arrived.seeded:
                self._fix_canonical(request)
                if self._awaits_canonical(request):
                    continue
            request.need = self._need(request)
            route = self.router.route(request.need, now_ns)
            if route is not None:
                self.queue.remove(request)
                self._reserve(now_ns, request, route)
            elif request.avoid:
                # Nobody else can do it: rather the same source again, until the pair is quarantined.
                request.avoid = ()
                request.not_before_ns = now_ns + RETRY_NS

    # ---- one attempt ------------------------------------------------------------------------------

    def _fix_canonical(self, request: Request) -> None:
        """A seed asks for the recipe that neither load nor cache may change."""
        arrived = request.arrived
        if self.fleet.unseen or not self._awaits_canonical(request):
            return
        canonical = self.fleet.canonical(arrived.model)
        views = self.fleet.serving(arrived.model).views
        if canonical is None or not views:
            return
        border = len(arrived.page_hashes) * views[0].page_tokens
        request.recipe = join((canonical[0], border), (canonical[1], OPEN_END))

    def _awaits_canonical(self, request: Request) -> bool:
        """A restarted control must not take what happens to be alive for the fleet's own numerics."""
        return request.arrived.seeded and request.exact and not request.recipe

    def _need(self, request: Request) -> Need:
        arrived = request.arrived
        views = self.fleet.serving(arrived.model).views
        page_tokens = views[0].page_tokens if views else 1
        border = len(arrived.page_hashes) * page_tokens
        split_max = border
        if arrived.logits_from is not None:
            split_max = min(border, arrived.logits_from // page_tokens * page_tokens)
        request.border = border
        return Need(
            arrived.model,
            arrived.prompt_tokens,
            border,
            split_max,
            request.known_tokens,
            request.recipe,
            arrived,
            request.avoid,
        )

    def _reserve(self, now_ns: int, request: Request, route: Route) -> None:
        arrived = request.arrived
        self._attempts += 1
        request.attempt = self._attempts
        request.state = RESERVING
        request.target = route.target.name
        request.source = None
        request.queue_ns += now_ns - request.waiting_since_ns
        route.target.waiting += 1
        request.expected_tokens, request.supply = route.held, route.supply
        self._tell(
            route.target.name,
            TargetRequested(
                request=arrived.request,
                attempt=request.attempt,
                door=arrived.door,
                model=arrived.model,
                prompt_tokens=arrived.prompt_tokens,
                page_hashes=arrived.page_hashes,
                starts=request.starts,
                tokens_max=arrived.tokens_max,
                adapter=arrived.adapter,
                priority=arrived.priority,
                logits_from=arrived.logits_from,
                recipe=request.recipe,
                full_need=request.preemptions >= 2,
            ),
        )

    def fix(self, now_ns: int, request: Request, fact: TargetReserved) -> None:
        """Plans once more with what the target really holds, and starts both halves."""
        target = self.fleet.workers[fact.worker]
        target.waiting -= 1
        need = request.need
        if need is None or need.recipe != request.recipe or need.avoid != request.avoid:
            need = request.need = self._need(request)
        route = self.router.replan(target, fact.held_tokens, need, now_ns, request.supply)
        request.supply = None
        if route is None or self._better_elsewhere(now_ns, request, route, need):
            target.waiting += 1
            if route is None:
                self.put_off(now_ns, request, "rerouted", release=True)
            else:
                request.rerouted = True
                self.withdraw(request, "rerouted", release=True)
                self.enqueue(now_ns, request)
            return
        request.put_off = False
        request.held_tokens = fact.held_tokens
        if request.cached_tokens is None:
            request.cached_tokens = fact.held_tokens
        if not request.recipe:
            request.recipe = self._recipe(route, fact.held)
        request.split = route.split
        request.reasons = self.router.reasons(route, need)
        request.source = route.source.name if route.source is not None else None
        request.state = PREFILLING
        self._start(request, route)

    def _better_elsewhere(self, now_ns: int, request: Request, route: Route, need: Need) -> bool:
        """Whether the target holds less than it was chosen for, and another is far cheaper. (A queue that
        has grown since has grown for all.)"""
        if route.held >= request.expected_tokens or request.rerouted:
            return False
        route.target.forget(request.arrived.page_hashes[route.held // route.target.page_tokens :])
        other = self.router.route(need, now_ns)
        if other is None or other.target is route.target:
            return False
        return other.cost_ns * REROUTE_FACTOR <= route.cost_ns

    def _recipe(self, route: Route, held: Recipe) -> Recipe:
        own = route.target.joined.numerics[0]
        if route.source is None:
            return extend(held, (own, OPEN_END))
        return extend(held, (route.source.joined.numerics[0], route.split), (own, OPEN_END))

    def _start(self, request: Request, route: Route) -> None:
        """Tells both workers and the door, and books the work on them."""
        arrived, attempt, hashes = request.arrived, request.attempt, request.arrived.page_hashes
        target, source = route.target, route.source
        own = request.known_tokens - max(route.split, route.held)
        request.pending = [(target.name, own)]
        self.router.bookings += 1
        target.pending_tokens += own
        target.remember(hashes, self._cache_size(target))
        fixed = RecipeFixed(
            request=arrived.request,
            attempt=attempt,
            recipe=request.recipe,
            split=route.split,
            source=request.source,
        )
        self._tell(target.name, fixed)
        if source is not None:
            shared = hashes[: route.split // source.page_tokens]
            request.pending.append((source.name, route.source_tokens))
            source.pending_tokens += route.source_tokens
            source.remember(shared, self._cache_size(source))
            self._tell(
                source.name,
                PrefillRequested(
                    request=arrived.request,
                    attempt=attempt,
                    model=arrived.model,
                    page_hashes=shared,
                    held_tokens=route.held,
                    split=route.split,
                    recipe=request.recipe,
                    target=target.name,
                    priority=arrived.priority,
                    shares_pool=source.host == target.host,
                ),
            )
        self._tell(
            arrived.door,
            RequestRouted(
                request=arrived.request,
                attempt=attempt,
                target=target.name,
                source=request.source,
                split=route.split,
                recipe=request.recipe,
                held_tokens=route.held,
                reasons=request.reasons,
                exact=request.exact,
            ),
        )

    def _cache_size(self, view: WorkerView) -> int:
        return max(64, view.free + view.held + view.cached)

    def unbook(self, request: Request, worker: Incarnation | None = None) -> None:
        """Takes the prompt work of one worker (or of all) off the books."""
        if not request.pending:
            return
        self.router.bookings += 1
        kept: list[tuple[Incarnation, int]] = []
        for name, tokens in request.pending:
            if worker is not None and name != worker:
                kept.append((name, tokens))
            elif name in self.fleet.workers:
                self.fleet.workers[name].pending_tokens -= tokens
        request.pending = kept

    def stream(self, request: Request) -> None:
        assert request.target is not None
        if request.state is RESERVING:
            self.fleet.workers[request.target].waiting -= 1
        self.fleet.workers[request.target].streams += 1
        request.state = STREAMING
        request.streamed = True

    def withdraw(self, request: Request, outcome: str, *, release: bool) -> None:
        """Closes the attempt's books; with `release`, tells its workers to let go."""
        self.unbook(request)
        if request.state not in (RESERVING, PREFILLING, STREAMING):
            return
        target = self.fleet.workers.get(request.target or "")
        if target is not None:
            target.waiting -= request.state is RESERVING
            target.streams -= request.state is STREAMING
        request.close_attempt(outcome)
        if release:
            fact = RequestReleased(request=request.arrived.request, attempt=request.attempt)
            for name in (request.target, request.source):
                if name is not None and name in self.fleet.workers:
                    self._tell(name, fact)
        request.target = request.source = None

    # ---- words to doors ---------------------------------------------------------------------------

    def reject_too_long(self, request: Request, message: str, limit: int) -> None:
        self._reject(request, "too_long", message, field="tokens_max", limit=limit)

    def reject_unavailable(self, request: Request) -> None:
        message = "no worker could take the request in time"
        if request.arrived.exact and self.fleet.serving(request.arrived.model):
            message = "no worker computes the numerics of its recipe, and it wants no others"
        if request.streamed:
            self.tell_ended(request, request.record("failed"), message)
        else:
            self._reject(request, "unavailable", message, retry_after_ns=SECOND_NS)

    def _reject(
        self,
        request: Request,
        kind: str,
        message: str,
        *,
        field: str | None = None,
        limit: int | None = None,
        retry_after_ns: int | None = None,
    ) -> None:
        self._tell(
            request.arrived.door,
            RequestRejected(
                request=request.arrived.request,
                kind=kind,
                message=message,
                retry_after_ns=retry_after_ns,
                field=field,
                limit=limit,
            ),
        )

    def tell_ended(self, request: Request, record: RequestRecord, failure: str | None) -> None:
        fact = RequestEnded(request=request.arrived.request, record=record, failure=failure)
        self._tell(request.arrived.door, fact)

    def _tell(self, to: str, fact: Fact) -> None:
        self.outbox.append(Send(to=to, fact=fact))
