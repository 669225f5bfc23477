"""The prefill half of a worker: computes [held, split) of a prompt for a target and offers its pages.

An offer pins its pages for the target until the one answer comes (or the target is known dead); after
that they are the target's claim, and this task has no part in them. A source takes pages chunk by
chunk: what the target claims it pays for, so a few pages are enough to prefill any prompt. Beside
decoding sequences chunks are small; they are offered together, unless pages are short.

For a target in another pool, which pulls copies and pays nothing, pages for the whole prefix are set aside
beforehand, in line: two sources could else wait for each other's half-way.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable

from diptych.core.actions import Action, DropRequest, PromptSpan
from diptych.core.config import WorkerConfig
from diptych.core.errors import ImpossibleFact
from diptych.core.facts import (
    ContextLent,
    ContextNeeded,
    ContextReturned,
    Fact,
    OfferAnswered,
    PagesOffered,
    PrefillFinished,
    PrefillRequested,
    RequestFact,
    RequestReleased,
)
from diptych.core.ids import CONTROL, Incarnation
from diptych.core.pages.ledger import Ledger
from diptych.core.pages.node import Node
from diptych.core.recipe import run_at
from diptych.core.worker.batch import RunInHand, add_spans
from diptych.core.worker.fetch import Fetch
from diptych.core.worker.grants import Grant, Grants
from diptych.core.worker.pulls import Pull
from diptych.core.worker.sequence import ASKING, CLOSING, COMPUTING, OFFERING, WAITING, Key, Source

ABSENT = "absent"


class Sources:
    """All prefill tasks of one worker. Knows nothing of sampling or of what a target does next."""

    def __init__(self, config: WorkerConfig, ledger: Ledger, fetch: Fetch, grants: Grants) -> None:
        self.config = config
        self.ledger = ledger
        self.fetch = fetch
        self.grants = grants
        self.tasks: dict[Key, Source] = {}
        self.line: list[Source] = []
        """Those that wait for pages, by priority and age."""
        self.offers: dict[tuple[Key, int], tuple[Incarnation, Node]] = {}
        """Unanswered offers by (task, first page): whose they are and the pinned path."""
        self.in_run: dict[Key, None] = {}

    # ---- facts ------------------------------------------------------------------------------------

    def step(self, now_ns: int, fact: RequestFact) -> None:
        task = self.tasks.get((fact.request, fact.attempt))
        state = ABSENT if task is None else task.state
        row = ROWS[state].get(type(fact))
        if row is None:
            raise ImpossibleFact(f"{self.config.worker} source", state, fact)
        row(self, now_ns, task, fact)

    def begin(self, now_ns: int, _: None, fact: PrefillRequested) -> None:
        task = Source(fact, self.ledger.next_serial(), now_ns)
        self.tasks[task.key] = task
        if not fact.shares_pool:
            insort(self.line, task, key=lambda waiting: (-waiting.ask.priority, waiting.serial))
            return
        tree, tokens = self.ledger.tree, self.config.page_tokens
        task.leaf, task.pages = tree.acquire(fact.page_hashes, fact.recipe)
        task.cached = task.sealed = len(task.pages)
        task.computed = task.cached * tokens
        task.offered = held = fact.held_tokens // tokens
        self._begin(now_ns, task, held)

    def _begin(self, now_ns: int, task: Source, held: int) -> None:
        """Asks for the context that only the target has, or computes at once."""
        ask = task.ask
        if task.cached < held:
            task.state = ASKING
            task.context = ask.shares_pool
            self._tell(
                ask.target,
                ContextNeeded(
                    request=ask.request,
                    attempt=ask.attempt,
                    sender=self.config.worker,
                    first_page=task.cached,
                    end_page=held,
                    pull=not ask.shares_pool,
                ),
            )
        else:
            task.state = COMPUTING
            self._offer(now_ns, task)
            self._settle(now_ns, task)

    def admit(self, now_ns: int) -> None:
        """Sets pages aside for the head of the line, as long as there are any."""
        while self.line:
            task = self.line[0]
            ask, tokens = task.ask, self.config.page_tokens
            leaf, pages = self.ledger.tree.acquire(ask.page_hashes, ask.recipe)
            spare = self.ledger.take(ask.split // tokens - len(pages), self.ledger.keep)
            if spare is None:
                self.ledger.unpin(leaf)
                if ask.split // tokens <= self.ledger.granted - self.ledger.keep:
                    return
                self._give_up(task, f"a prefix of {ask.split} tokens does not fit its pool")
                continue
            self.line.pop(0)
            task.leaf, task.pages, task.spare = leaf, pages, spare
            task.cached = task.sealed = len(pages)
            task.computed = task.cached * tokens
            task.offered = ask.held_tokens // tokens
            self._begin(now_ns, task, task.offered)

    def expire(self, now_ns: int) -> None:
        """Two workers may each be full of targets that wait for the other as their source: who waits
        for pages as long as a lease sends the request back."""
        while self.line and self._oldest().asked_ns + self.config.claim_lease_ns <= now_ns:
            self._give_up(self._oldest(), "no pages came free for it")

    def next_expiry_ns(self) -> int | None:
        return self._oldest().asked_ns + self.config.claim_lease_ns if self.line else None

    def _oldest(self) -> Source:
        return min(self.line, key=lambda task: task.asked_ns)

    def _give_up(self, task: Source, why: str) -> None:
        self._drop(task)
        self.fetch.fail(task.key, self.config.worker, why)

    def read_context(self, now_ns: int, task: Source, fact: ContextLent) -> None:
        if fact.claim:
            self.fetch.context(now_ns, task, fact.sender, fact.pages, fact.claim)
            return
        task.state = COMPUTING
        task.detached = bool(fact.pages)
        task.pages += fact.pages
        task.sealed = len(task.pages)
        task.computed = task.sealed * self.config.page_tokens
        self._settle(now_ns, task)

    def answer(self, now_ns: int, task: Source | None, fact: OfferAnswered) -> None:
        if fact.sender in self.ledger.lost:
            return
        key = (fact.request, fact.attempt)
        offer = self.offers.pop((key, fact.first_page), None)
        if offer is None:
            return
        _, leaf = offer
        if fact.kept:
            self.ledger.tree.lend(fact.sender, fact.kept)
        if fact.released:
            self.ledger.end_claim(fact.sender, fact.released)
        self.ledger.receive(fact.sender, fact.deposit, fact.serial)
        self.ledger.unpin(leaf)
        if self.ledger.debts:
            self.ledger.settle()
        if task is not None:
            task.open_offers -= 1
            task.claimed += len(fact.kept)
            task.answered_ns = now_ns
            self._settle(now_ns, task)

    def context_fetched(self, now_ns: int, pull: Pull) -> None:
        """The copy of the context has come to its end, well or not."""
        task = self.tasks[pull.key]
        self.fetch.context_arrived(task, pull)
        task.state = COMPUTING
        self._offer(now_ns, task)
        self._settle(now_ns, task)

    def grant_ended(self, now_ns: int, grant: Grant, *, held: bool) -> None:
        """The target has pulled an offer, or was silent for too long."""
        task = self.tasks.get(grant.key)
        if task is None:
            return
        task.open_offers -= 1
        task.answered_ns = now_ns
        if held:
            task.claimed += len(grant.pages)
            self._settle(now_ns, task)
        else:
            why = f"{grant.reader} was silent for the lease of its claim"
            self.fetch.fail(task.key, self.config.worker, why)

    def release(self, now_ns: int, task: Source, fact: Fact | None = None) -> None:
        if task.key in self.in_run:
            task.state = CLOSING
        else:
            self._drop(task)

    def late_context(self, now_ns: int, task: Source | None, fact: ContextLent) -> None:
        if fact.claim:
            self.fetch.pulls.refuse(fact.sender, fact.claim)

    def ignore(self, now_ns: int, task: Source | None, fact: Fact) -> None:
        """Late, repeated or foreign: it changes nothing."""

    # ---- computing --------------------------------------------------------------------------------

    def jobs(self) -> list[Source]:
        return [task for task in self.tasks.values() if task.state is COMPUTING]

    def plan(self, now_ns: int, task: Source, run: RunInHand, budget: int) -> int:
        """Adds up to `budget` tokens of the task to the run; returns how many."""
        first, split, tokens = task.computed, task.ask.split, self.config.page_tokens
        end = min(first + budget, split)
        fresh = -(-end // tokens) - len(task.pages)
        if fresh > len(task.spare):
            task.spare += self.ledger.take_some(fresh - len(task.spare))
        if fresh > 0:
            task.pages += task.spare[:fresh]
            del task.spare[:fresh]
            end = min(end, len(task.pages) * tokens)
        if end <= first:
            self._offer(now_ns, task)
            return 0
        if task.started_ns is None:
            task.started_ns = now_ns
        add_spans(run, task, None, first=first, end=end, sample=False)
        self.in_run[task.key] = None
        return end - first

    def advance(self, now_ns: int, task: Source, span: PromptSpan) -> None:
        """The run computed this span: seal full pages, and offer them by the chunk."""
        if task.state is CLOSING:
            return
        task.computed = span.first + span.count
        self._seal(task)
        waiting = (task.sealed - task.offered) * self.config.page_tokens
        if waiting >= self.config.chunk_tokens or task.computed >= task.ask.split:
            self._offer(now_ns, task)

    def run_ended(self, now_ns: int) -> None:
        """All tasks of the run may move on."""
        in_run, self.in_run = self.in_run, {}
        for key in in_run:
            task = self.tasks[key]
            if task.state is CLOSING:
                self._drop(task)
            else:
                self._settle(now_ns, task)

    def _seal(self, task: Source) -> None:
        tokens = self.config.page_tokens
        full = task.computed // tokens
        while task.sealed < full:
            run = run_at(task.ask.recipe, task.sealed * tokens)
            end = min(full, run.end // tokens)
            hashes, pages = task.ask.page_hashes[task.sealed : end], task.pages[task.sealed : end]
            assert task.leaf is not None
            if task.detached:
                task.leaf = self.ledger.seal_detached(task.leaf, hashes, pages, run.numerics)
            else:
                task.leaf, standing = self.ledger.seal(task.leaf, hashes, pages, run.numerics)
                if standing is not pages:
                    task.pages[task.sealed : end] = standing
                    task.tabled = min(task.tabled, task.sealed)
            task.sealed = end

    def _offer(self, now_ns: int, task: Source) -> None:
        """Offers what is sealed beyond what the target held or was offered."""
        if task.sealed <= task.offered:
            return
        assert task.leaf is not None
        pages, claim = tuple(task.pages[task.offered : task.sealed]), 0
        if task.ask.shares_pool:
            self.ledger.tree.pin(task.leaf)
            self.offers[task.key, task.offered] = (task.ask.target, task.leaf)
        else:
            claim = self.grants.grant(now_ns, task.ask.target, task.key, task.leaf, pages)
        task.open_offers += 1
        task.offered_ns = now_ns
        self._tell(
            task.ask.target,
            PagesOffered(
                request=task.ask.request,
                attempt=task.ask.attempt,
                sender=self.config.worker,
                first_page=task.offered,
                pages=pages,
                taken=self.ledger.taken_from(task.ask.target) if not claim else 0,
                claim=claim,
            ),
        )
        task.offered = task.sealed

    # ---- ends -------------------------------------------------------------------------------------

    def _settle(self, now_ns: int, task: Source) -> None:
        """Moves on when all is computed, and ends when all is answered."""
        if task.computed < task.ask.split:
            return
        task.state = OFFERING
        if task.open_offers:
            return
        started = task.started_ns if task.started_ns is not None else now_ns
        first = max(task.cached * self.config.page_tokens, task.ask.held_tokens if task.context else 0)
        self._tell(
            CONTROL,
            PrefillFinished(
                request=task.ask.request,
                attempt=task.ask.attempt,
                worker=self.config.worker,
                computed_tokens=task.ask.split - min(first, task.ask.split),
                cached_tokens=min(first, task.ask.split),
                duration_ns=max(0, (task.offered_ns or now_ns) - started),
                waited_ns=started - task.asked_ns,
                handoff_pages=task.claimed,
                handoff_ns=max(0, task.answered_ns - task.offered_ns),
            ),
        )
        self._drop(task)

    def _drop(self, task: Source) -> None:
        del self.tasks[task.key]
        if task.state is WAITING:
            self.line.remove(task)
            self._act(DropRequest(request=task.ask.request, attempt=task.ask.attempt))
            return
        if not task.ask.shares_pool:
            self.grants.release(task.key)
            self.fetch.pulls.abandon(task.key)
        private = task.private_pages()
        if private:
            self.ledger.free_private(private)
        assert task.leaf is not None
        self.ledger.unpin(task.leaf)
        request, attempt = task.key
        if task.context:
            self._tell(
                task.ask.target,
                ContextReturned(request=request, attempt=attempt, sender=self.config.worker),
            )
        self._act(DropRequest(request=request, attempt=attempt))

    def reads_from(self, lender: Incarnation) -> bool:
        """Whether the run in hand reads context that this worker lent."""
        tasks = (self.tasks[key] for key in self.in_run)
        return any(task.context and task.ask.target == lender for task in tasks)

    def peer_lost(self, now_ns: int, lost: Incarnation) -> None:
        """A dead target needs nothing; what its source reads of its pages must not be believed."""
        for key, (target, leaf) in list(self.offers.items()):
            if target == lost:
                del self.offers[key]
                self.ledger.unpin(leaf)
        for task in list(self.tasks.values()):
            if task.ask.target == lost and task.state is not CLOSING:
                task.context = False
                self.release(now_ns, task)

    def control_lost(self, now_ns: int) -> None:
        for task in list(self.tasks.values()):
            if task.state is not CLOSING:
                self.release(now_ns, task)

    def _tell(self, to: str, fact: Fact) -> None:
        self.ledger.tell(to, fact)

    def _act(self, action: Action) -> None:
        self.ledger.outbox.append(action)


Row = Callable[..., None]
"""Called with (desk, now_ns, the task or None, fact)."""
S = Sources
LATE: dict[type[Fact], Row] = {
    PrefillRequested: S.ignore,
    ContextLent: S.late_context,
    OfferAnswered: S.answer,
    RequestReleased: S.release,
}
ROWS: dict[str, dict[type[Fact], Row]] = {
    ABSENT: {**LATE, PrefillRequested: S.begin, RequestReleased: S.ignore},
    WAITING: LATE,
    ASKING: {**LATE, ContextLent: S.read_context},
    COMPUTING: LATE,
    OFFERING: LATE,
    CLOSING: {**LATE, RequestReleased: S.ignore},
}
