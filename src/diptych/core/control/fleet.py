"""What control knows of the workers: advice, good enough to choose by, never believed to be exact."""

from __future__ import annotations

from collections.abc import Iterable

from diptych.core.config import FOREVER_NS, ControlConfig
from diptych.core.control.pairs import Pairs
from diptych.core.facts import WorkerBeat, WorkerJoined
from diptych.core.ids import Incarnation, PageHash, worker_name

PREFILL = "prefill"
DECODE = "decode"
BOTH = "both"
DOUBT_NS = 60_000_000_000
"""After so long without a new measurement a worker's prefill rate is doubted in full."""
DOUBT_MAX = 0.75
DECODE_DUTY = 2.0
"""Prompt work on a worker that prefers decoding costs so much more than its time."""
NEVER_NS = -FOREVER_NS

Quote = tuple[int, float, float]
"""(prompt tokens probably cached; nanoseconds that each token of its queue is taken to need, and each token
of this request)"""
Pool = tuple[str, int]
"""Host and tokens of a page: workers of one pool read each other's pages where they lie."""


class WorkerView:
    """One live incarnation, as last heard."""

    # fmt: off
    __slots__ = (
        "cached", "decode_ns_per_step", "duty", "fenced", "free", "granted", "heard_ns", "held", "host",
        "joined", "measured_ns", "name", "numerics", "older", "page_tokens", "pending_tokens", "pool",
        "prefill_ns_per_token", "recent", "role", "short", "streams", "waiting",
    )
    # fmt: on

    def __init__(self, joined: WorkerJoined, now_ns: int) -> None:
        self.joined = joined
        self.name: Incarnation = joined.worker
        self.host = joined.host
        self.role = joined.role
        self.duty = DECODE_DUTY if joined.role == DECODE else 1.0
        self.numerics = joined.numerics
        self.page_tokens = joined.page_tokens
        self.pool: Pool = (joined.host, joined.page_tokens)
        self.heard_ns = now_ns
        self.fenced = False
        self.granted = joined.room > 0
        self.short = False
        """It has fewer pages than its share: those of a dead worker are still to come."""
        self.prefill_ns_per_token = joined.prefill_ns_per_token
        self.decode_ns_per_step = joined.decode_ns_per_step
        self.measured_ns = NEVER_NS
        """When it last finished a prefill that it had to compute; never, while its rate is a first guess."""
        self.free = self.held = self.cached = 0
        self.pending_tokens = 0
        """Prompt tokens that control has given it to compute and not heard done."""
        self.streams = 0
        """Requests that stream from it."""
        self.waiting = 0
        """Requests that wait for its pages."""
        self.recent: set[PageHash] = set()
        """Pages it probably caches, those of late and those before them."""
        self.older: set[PageHash] = set()

    def quote(self, hashes: tuple[PageHash, ...], held_max: int, now_ns: int) -> Quote:
        """What it is taken to have of a prompt, and to need as a source of the rest.

        A rate that no run has confirmed for a while counts for less: a worker that was slow once (or
        looked so when it started on a busy host) is given work again, and measured again.
        """
        held = self.held_pages(hashes) * self.page_tokens
        if held > held_max:
            held = held_max
        doubt = (now_ns - self.measured_ns) / DOUBT_NS
        if doubt > DOUBT_MAX:
            doubt = DOUBT_MAX
        hope = self.prefill_ns_per_token * (1.0 - doubt)
        return held, hope, hope * self.duty

    def beat(self, fact: WorkerBeat) -> None:
        self.free, self.held, self.cached = fact.pages_free, fact.pages_held, fact.pages_cached
        self.prefill_ns_per_token = fact.prefill_ns_per_token
        self.decode_ns_per_step = fact.decode_ns_per_step

    def held_pages(self, hashes: tuple[PageHash, ...]) -> int:
        """How many leading pages it probably has. Prefixes are closed, so halving finds the end: from
        the front, for most workers have little more than what all prompts begin with."""
        recent, older = self.recent, self.older
        if not hashes or (hashes[0] not in recent and hashes[0] not in older):
            return 0
        if hashes[-1] in recent or hashes[-1] in older:
            return len(hashes)
        low, high = 1, len(hashes) - 1
        while low < high:
            middle = 2 * low - 1 if 3 * low < high else (low + high) // 2
            if hashes[middle] in recent or hashes[middle] in older:
                low = middle + 1
            else:
                high = middle
        return low

    def remember(self, hashes: tuple[PageHash, ...], pages_max: int) -> None:
        """It used these pages. Two generations stand for the order of use: cheap, and good for advice."""
        self.recent.update(hashes)
        if len(self.recent) > pages_max // 2:
            self.recent, self.older = set(), self.recent

    def forget(self, hashes: tuple[PageHash, ...]) -> None:
        """It turned out not to have these pages."""
        self.recent.difference_update(hashes)
        self.older.difference_update(hashes)


class Serving:
    """The workers that can take requests for one model."""

    __slots__ = ("pools", "targets", "views")

    def __init__(self, views: list[WorkerView]) -> None:
        self.views = views
        able = [view for view in views if view.joined.samples]
        self.targets = [view for view in able if view.role != PREFILL] or able
        """Those that requests are given to: who prefers prefill only where nobody else is there."""
        self.pools: dict[Pool, list[WorkerView]] = {}
        for view in views:
            self.pools.setdefault(view.pool, []).append(view)


class Fleet:
    """All workers that have joined, by incarnation, in order of joining."""

    def __init__(self, config: ControlConfig) -> None:
        self.config = config
        self.workers: dict[Incarnation, WorkerView] = {}
        self.models: dict[str, None] = {}
        """Every model that any worker ever announced."""
        self.unseen: dict[str, None] = {}
        """Names of workers that hosts run and that never joined: the fleet's numerics are not all known."""
        self._seen: dict[str, None] = {}
        self._numerics: dict[tuple[str, str], str] = {}
        self.pairs = Pairs(config)
        self._serving: dict[str, Serving] = {}
        """By model, until some worker comes, goes or is fenced."""
        self.lease_end_ns = FOREVER_NS
        """No lease ends before; brought up to date when that moment comes."""

    def expect(self, names: Iterable[str]) -> None:
        """A host says which workers it runs."""
        self.unseen.update((name, None) for name in names if name not in self._seen)

    def join(self, fact: WorkerJoined, now_ns: int) -> WorkerView:
        view = self.workers.get(fact.worker)
        if view is not None:
            return view
        view = WorkerView(fact, now_ns)
        self.workers[fact.worker] = view
        self._seen[worker_name(fact.worker)] = None
        self.unseen.pop(worker_name(fact.worker), None)
        self._serving.clear()
        self.lease_end_ns = min(self.lease_end_ns, now_ns + self.config.lease_ns)
        for model in fact.models:
            self.models[model] = None
            self._numerics.setdefault((model, fact.role), fact.numerics[0])
        return view

    def lose(self, worker: Incarnation) -> WorkerView | None:
        self._serving.clear()
        self.pairs.lose(worker)
        return self.workers.pop(worker, None)

    def grant(self, view: WorkerView) -> None:
        """It has pages: requests may go there from now on."""
        self._serving.clear()
        view.granted = True

    def fence(self, view: WorkerView) -> None:
        """It is to be killed: nothing new goes there."""
        self._serving.clear()
        view.fenced = True

    def serving(self, model: str) -> Serving:
        """Workers that can take requests for the model now."""
        found = self._serving.get(model)
        if found is None:
            views = self.workers.values()
            able = [v for v in views if v.granted and not v.fenced and model in v.joined.models]
            found = self._serving[model] = Serving(able)
        return found

    def canonical(self, model: str) -> tuple[str, str] | None:
        """The numerics of (prefill, decode) that this fleet stands for, whoever is alive now."""
        decode = self._numerics.get((model, DECODE)) or self._numerics.get((model, BOTH))
        prefill = self._numerics.get((model, PREFILL)) or self._numerics.get((model, BOTH)) or decode
        decode = decode or prefill
        return None if prefill is None or decode is None else (prefill, decode)

    def silent(self, now_ns: int) -> list[WorkerView]:
        """Whose leases have ended."""
        limit = now_ns - self.config.lease_ns
        heard = [view.heard_ns for view in self.workers.values() if not view.fenced and view.heard_ns > limit]
        self.lease_end_ns = min(heard) + self.config.lease_ns if heard else FOREVER_NS
        return [view for view in self.workers.values() if not view.fenced and view.heard_ns <= limit]

    def excuse(self, duration_ns: int) -> None:
        """Control itself stood still: nobody's silence in that time counts."""
        for view in self.workers.values():
            view.heard_ns += duration_ns
