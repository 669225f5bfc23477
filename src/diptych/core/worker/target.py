"""The decode half of a worker: sets pages aside, claims what the source offers, runs the sequences.

Pages are set aside before any prefill is asked for, so back-pressure is natural: a full target makes
requests wait in its line, and no source spends compute on a request that has no place to go.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable

from diptych.core.actions import Action, DropRequest, PauseStream, Send
from diptych.core.config import WorkerConfig
from diptych.core.errors import ImpossibleFact
from diptych.core.facts import (
    ContextNeeded,
    ContextReturned,
    Fact,
    OfferAnswered,
    PagesOffered,
    RecipeFixed,
    RequestFact,
    RequestReleased,
    SourceLost,
    StreamEnded,
    StreamPaused,
    StreamStarted,
    TargetRefused,
    TargetRequested,
    TargetReserved,
)
from diptych.core.ids import CONTROL, Incarnation, Pages
from diptych.core.pages.ledger import Ledger
from diptych.core.recipe import Recipe, join, run_at
from diptych.core.worker.fetch import Fetch
from diptych.core.worker.grants import Grants
from diptych.core.worker.loans import Loans
from diptych.core.worker.pulls import Pull
from diptych.core.worker.sequence import CLOSING, FETCHING, RESERVED, RUNNING, WAITING, Key, Target
from diptych.core.worker.stream import Streams

ABSENT = "absent"


class Targets:
    """All decode tasks of one worker, and its line for pages."""

    def __init__(self, config: WorkerConfig, ledger: Ledger, fetch: Fetch, grants: Grants) -> None:
        self.config = config
        self.ledger = ledger
        self.fetch = fetch
        self.tasks: dict[Key, Target] = {}
        self.line: list[Target] = []
        """Those that wait for pages, by priority and age."""
        self.streams = Streams(config, ledger)
        self.loans = Loans(config, ledger, grants)

    # ---- facts ------------------------------------------------------------------------------------

    def step(self, now_ns: int, fact: RequestFact) -> None:
        task = self.tasks.get((fact.request, fact.attempt))
        state = ABSENT if task is None else task.state
        row = ROWS[state].get(type(fact))
        if row is None:
            raise ImpossibleFact(f"{self.config.worker} target", state, fact)
        row(self, now_ns, task, fact)

    def begin(self, now_ns: int, _: None, fact: TargetRequested) -> None:
        task = Target(fact, self.ledger.next_serial(), now_ns)
        needed = task.pages_needed(self.config.page_tokens, fact.tokens_max)
        limit = self.ledger.granted - self.ledger.keep
        if needed > limit:
            self._tell(
                CONTROL,
                TargetRefused(
                    request=fact.request,
                    attempt=fact.attempt,
                    worker=self.config.worker,
                    reason="too_long",
                    needed_tokens=needed * self.config.page_tokens,
                    limit_tokens=limit * self.config.page_tokens,
                ),
            )
            return
        self.tasks[task.key] = task
        if self.line:
            insort(self.line, task, key=lambda waiting: (-waiting.ask.priority, waiting.serial))
        else:
            self.line.append(task)

    def admit(self, now_ns: int) -> None:
        """Sets pages aside for the head of the line, as long as there are any."""
        while self.line:
            task = self.line[0]
            if not self._reserve(task):
                return
            self.line.pop(0)
            task.state = RESERVED
            task.waited_ns = now_ns - task.asked_ns
            self._state_reserved(task)

    def _reserve(self, task: Target) -> bool:
        ask, tokens = task.ask, self.config.page_tokens
        reusable = len(ask.page_hashes) if ask.logits_from is None else ask.logits_from // tokens
        leaf, pages = self.ledger.tree.acquire(ask.page_hashes[:reusable], ask.recipe)
        ahead = ask.tokens_max if ask.full_need else min(ask.tokens_max, self.config.quantum_tokens)
        spare = self.ledger.take(task.pages_needed(tokens, ahead) - len(pages), self.ledger.keep)
        if spare is None:
            self.ledger.unpin(leaf)
            return False
        task.leaf, task.shared, task.spare = leaf, pages, spare
        task.sealed = len(pages)
        task.computed = len(pages) * tokens
        return True

    def _state_reserved(self, task: Target) -> None:
        request, attempt = task.key
        self._tell(
            CONTROL,
            TargetReserved(
                request=request,
                attempt=attempt,
                worker=self.config.worker,
                held_tokens=task.computed,
                held=self._held_recipe(task) if task.sealed else (),
            ),
        )

    def _held_recipe(self, task: Target) -> Recipe:
        """Which numerics computed the pages at hand, read off the path that holds them."""
        runs: list[tuple[str, int]] = []
        node, end = task.leaf, task.sealed * self.config.page_tokens
        while node is not None and node.parent is not None:
            runs.append((node.numerics, end))
            end -= len(node.pages) * self.config.page_tokens
            node = node.parent
        return join(*reversed(runs))

    def fix(self, now_ns: int, task: Target, fact: RecipeFixed) -> None:
        task.recipe = fact.recipe
        task.split = fact.split
        task.source = fact.source
        if fact.source is not None and task.computed < fact.split:
            task.state = FETCHING
            offers, task.early_offers = task.early_offers, []
            for sender, first_page, claim, pages in offers:
                self._take(now_ns, task, sender, first_page, pages, claim)
        elif task.early_offers:
            self._refuse_early(task)
        if task.computed >= fact.split or fact.source is None:
            self._start(task)

    def keep_early(self, now_ns: int, task: Target, fact: PagesOffered) -> None:
        """Control told the source first: what it offers must wait for the recipe."""
        task.early_offers.append((fact.sender, fact.first_page, fact.claim, fact.pages))

    def claim(self, now_ns: int, task: Target, fact: PagesOffered) -> None:
        if fact.sender in self.ledger.lost:
            return
        self._take(now_ns, task, fact.sender, fact.first_page, fact.pages, fact.claim)
        if task.computed >= task.split:
            self._start(task)

    def refuse(self, now_ns: int, task: Target | None, fact: PagesOffered) -> None:
        if fact.sender not in self.ledger.lost:
            self._refuse((fact.request, fact.attempt), fact.sender, fact.first_page, fact.claim)

    def _refuse(self, key: Key, sender: Incarnation, first_page: int, claim: int) -> None:
        if claim:
            self.fetch.pulls.refuse(sender, claim)
        else:
            self._answer(key, sender, first_page)

    def _take(
        self, now_ns: int, task: Target, sender: Incarnation, first_page: int, pages: Pages, claim: int
    ) -> None:
        if claim:
            self.fetch.offered(now_ns, task, sender, first_page, pages, claim)
        else:
            self._claim(task, sender, first_page, pages)

    def fetched(self, now_ns: int, pull: Pull) -> None:
        """A copy has come to its end, well or not."""
        task = self.tasks[pull.key]
        self.fetch.arrived(task, pull)
        if task.source is None:
            if not self.fetch.pulls.any_of(task.key):
                task.state = RESERVED
                self._state_reserved(task)
        elif task.computed >= task.split:
            self._start(task)

    def _claim(self, task: Target, sender: Incarnation, first_page: int, pages: Pages) -> None:
        """Reads the offered pages where they lie from now on. Each is paid for with a spare page, or with
        an older claim where pages are short."""
        if first_page != len(task.shared) or sender in self.ledger.lost:
            self._answer(task.key, sender, first_page)
            return
        tree, tokens = self.ledger.tree, self.config.page_tokens
        known = set() if tree.node_at.keys().isdisjoint(pages) else tree.node_at.keys() & pages
        whole = not known
        index = first_page
        while index < first_page + len(pages):
            run = run_at(task.recipe, index * tokens)
            end = min(first_page + len(pages), run.end // tokens)
            offered = list(pages[index - first_page : end - first_page])
            assert task.leaf is not None
            hashes = task.ask.page_hashes[index:end]
            task.leaf, standing = tree.extend(task.leaf, hashes, offered, run.numerics, sender)
            task.shared += standing
            whole = whole and standing is offered
            index = end
        task.sealed = len(task.shared)
        task.computed = task.sealed * tokens
        kept = pages
        if not whole:
            kept = tuple(page for page in pages if page not in known and page in tree.node_at)
        released = self.ledger.give_up_claims(sender, len(kept))
        paid = len(kept) - len(released)
        deposit, surplus = task.spare[:paid], task.spare[paid : len(pages)]
        del task.spare[: len(pages)]
        self._answer(task.key, sender, first_page, kept, tuple(deposit), released)
        if surplus:
            self.ledger.free_private(surplus)

    def _answer(
        self,
        key: Key,
        sender: Incarnation,
        first_page: int,
        kept: Pages = (),
        deposit: Pages = (),
        released: Pages = (),
    ) -> None:
        serial = self.ledger.give_private(sender, list(deposit))
        fact = OfferAnswered(
            request=key[0],
            attempt=key[1],
            sender=self.config.worker,
            first_page=first_page,
            kept=kept,
            deposit=deposit,
            serial=serial,
            taken=self.ledger.taken_from(sender),
            released=released,
        )
        self.ledger.send_ownership(Send(to=sender, fact=fact))

    def _refuse_early(self, task: Target) -> None:
        for sender, first_page, claim, _ in task.early_offers:
            if sender not in self.ledger.lost:
                self._refuse(task.key, sender, first_page, claim)
        task.early_offers = []

    def source_lost(self, now_ns: int, task: Target, fact: SourceLost) -> None:
        """Pages that its copies are still written to are waited for: the next source needs them."""
        task.source = None
        if self.fetch.cancel(task):
            task.state = RESERVED
            self._state_reserved(task)

    def lend_context(self, now_ns: int, task: Target, fact: ContextNeeded) -> None:
        self.loans.lend(now_ns, task, fact)

    def lend_nothing(self, now_ns: int, task: Target | None, fact: ContextNeeded) -> None:
        self.loans.refuse(fact)

    def end_loan(self, now_ns: int, task: Target | None, fact: ContextReturned) -> None:
        self.loans.end((fact.request, fact.attempt), fact.sender)

    def release(self, now_ns: int, task: Target, fact: Fact) -> None:
        if self.streams.busy(task):
            self.streams.release(task)
        else:
            self._drop(task)

    def ignore(self, now_ns: int, task: Target | None, fact: Fact) -> None:
        """Late, repeated or foreign: it changes nothing."""

    # ---- running ----------------------------------------------------------------------------------

    def _start(self, task: Target) -> None:
        task.state = RUNNING
        self.streams.begin(task)

    def preempt(self, task: Target) -> None:
        request, attempt = task.key
        self._act(PauseStream(request=request, attempt=attempt))
        self._drop(task)
        self._tell(CONTROL, StreamPaused(request=request, attempt=attempt, worker=self.config.worker))

    def started(self, task: Target) -> None:
        """The run that completes its prompt begins."""
        task.started = True
        request, attempt = task.key
        started = StreamStarted(
            request=request,
            attempt=attempt,
            worker=self.config.worker,
            waited_ns=task.waited_ns,
            bytes_moved=task.bytes_moved,
            pulled_pages=task.pulled_pages,
            pull_ns=task.pull_ns,
        )
        self.ledger.outbox.append(Send(to=CONTROL, fact=started))

    def ended(self, task: Target) -> None:
        """Its last sequence has finished."""
        if task.state is CLOSING:
            return
        request, attempt = task.key
        self._drop(task)
        self._tell(
            CONTROL,
            StreamEnded(
                request=request,
                attempt=attempt,
                worker=self.config.worker,
                outputs=tuple([(index, tokens) for index, tokens, _ in task.outcomes]),
                reasons=tuple([reason for _, _, reason in task.outcomes]),
            ),
        )

    def close(self) -> None:
        """No run uses the pages of released tasks any more."""
        closing, self.streams.closing = self.streams.closing, []
        for task in closing:
            self._drop(task)

    # ---- ends -------------------------------------------------------------------------------------

    def _drop(self, task: Target) -> None:
        del self.tasks[task.key]
        if self.fetch.pulls.open:
            self.fetch.pulls.abandon(task.key)
        if task.state is WAITING:
            self.line.remove(task)
        else:
            self.streams.end(task)
            private = task.private_pages()
            if private:
                self.ledger.free_private(private)
            for sequence in task.sequences:
                if sequence.leaf is not None:
                    self.ledger.unpin(sequence.leaf)
            assert task.leaf is not None
            self.ledger.unpin(task.leaf)
        if task.early_offers:
            self._refuse_early(task)
        self._act(DropRequest(request=task.ask.request, attempt=task.ask.attempt))

    def control_lost(self, now_ns: int) -> None:
        """Streams go on; what has not started will be asked for again."""
        for task in list(self.tasks.values()):
            if task.state not in (RUNNING, CLOSING):
                self._drop(task)

    def _tell(self, to: str, fact: Fact) -> None:
        self.ledger.tell(to, fact)

    def _act(self, action: Action) -> None:
        self.ledger.outbox.append(action)


Row = Callable[..., None]
"""Called with (desk, now_ns, the task or None, fact)."""
T = Targets
LATE: dict[type[Fact], Row] = {
    TargetRequested: T.ignore,
    RecipeFixed: T.ignore,
    SourceLost: T.ignore,
    PagesOffered: T.refuse,
    ContextNeeded: T.lend_nothing,
    ContextReturned: T.end_loan,
}
ROWS: dict[str, dict[type[Fact], Row]] = {
    ABSENT: {**LATE, TargetRequested: T.begin, RequestReleased: T.ignore},
    WAITING: {**LATE, RequestReleased: T.release},
    RESERVED: {
        **LATE,
        RecipeFixed: T.fix,
        PagesOffered: T.keep_early,
        ContextNeeded: T.lend_context,
        RequestReleased: T.release,
    },
    FETCHING: {
        **LATE,
        SourceLost: T.source_lost,
        PagesOffered: T.claim,
        ContextNeeded: T.lend_context,
        RequestReleased: T.release,
    },
    RUNNING: {**LATE, ContextNeeded: T.lend_context, RequestReleased: T.release},
    CLOSING: {**LATE, RequestReleased: T.ignore},
}
