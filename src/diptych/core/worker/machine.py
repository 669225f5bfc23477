"""The `Worker` machine: everything about one worker's own pages, tasks and runs.

A worker is a prefill source, a decode target or both at once; its role is a preference that only the
router reads. This module joins the two desks (`source.py`, `target.py`), the ledger and the step loop:
facts go to the desk they concern, and whatever they change, the next run is planned from both.
"""

from __future__ import annotations

from collections.abc import Callable

from diptych.core.actions import Action, EndRun, RunSteps, Send, TablePart
from diptych.core.config import WorkerConfig
from diptych.core.errors import BrokenInvariant, ImpossibleFact
from diptych.core.facts import (
    ClaimReleased,
    ClaimsRenewed,
    ContextLent,
    ContextNeeded,
    ContextReturned,
    ControlJoined,
    ControlLost,
    DeadlinePassed,
    DriverStalled,
    EstateSettled,
    Fact,
    OfferAnswered,
    PagesGiven,
    PagesGranted,
    PagesOffered,
    PagesPulled,
    PeerLost,
    PrefillRequested,
    PullConfirmed,
    PullEnded,
    RecipeFixed,
    RequestFact,
    RequestReleased,
    SourceLost,
    StepsRan,
    TargetRequested,
)
from diptych.core.ids import CONTROL, Incarnation
from diptych.core.pages.counts import PageCounts
from diptych.core.pages.ledger import Ledger
from diptych.core.worker.batch import MEASURED_TOKENS, Rates, RunInHand, table_part
from diptych.core.worker.beats import Beats
from diptych.core.worker.exchange import Exchange
from diptych.core.worker.fetch import Fetch
from diptych.core.worker.grants import Grants
from diptych.core.worker.introduction import beat, introduce
from diptych.core.worker.pulls import Pulls
from diptych.core.worker.sequence import RUNNING, Source, Target
from diptych.core.worker.source import Sources
from diptych.core.worker.target import Targets


class Worker:
    """One incarnation of one worker. Knows counts, hashes and page numbers; no clock, text or tokens."""

    def __init__(self, config: WorkerConfig) -> None:
        self.config = config
        self.ledger = Ledger(config.worker, config.page_tokens, self._private_pages)
        pulls, grants = Pulls(config, self.ledger), Grants(config, self.ledger)
        fetch = Fetch(config, self.ledger, pulls)
        self.sources = Sources(config, self.ledger, fetch, grants)
        self.targets = Targets(config, self.ledger, fetch, grants)
        self.exchange = Exchange(pulls, grants, self.sources, self.targets)
        self.rates = Rates(config.prefill_ns_per_token, config.decode_ns_per_step)
        self.run: RunInHand | None = None
        self._postponed: list[PeerLost] = []
        self._runs = 0
        self._beats = Beats(config.beat_ns, self.ledger)

    # ---- the machine ------------------------------------------------------------------------------

    def step(self, now_ns: int, fact: Fact) -> tuple[Action, ...]:
        row = _ROWS.get(type(fact))
        if row is None:
            raise ImpossibleFact(self.config.worker, "any", fact)
        row(self, now_ns, fact)
        if (self.targets.line or self.sources.line) and self.ledger.granted:
            self._admit(now_ns)
        run = self.run
        if run is None:
            if self.ledger.granted:
                self._start_run(now_ns)
        elif run.steps_max > 1 and not run.ending and self._prompts_wait(run):
            self._end_run()
        outbox = self.ledger.outbox
        if not outbox:
            return ()
        actions = tuple(outbox)
        outbox.clear()
        return actions

    def next_deadline_ns(self) -> int | None:
        exchange = self.exchange
        if not (exchange.grants.open or exchange.pulls.open or self.sources.line):
            return self._beats.at_ns
        wait_ns, beat_at_ns = exchange.next_deadline_ns(), self._beats.at_ns
        if wait_ns is None or (beat_at_ns is not None and beat_at_ns < wait_ns):
            return beat_at_ns
        return wait_ns

    def pages(self) -> PageCounts:
        return self.ledger.counts()

    def check(self) -> None:
        """Raises `BrokenInvariant` unless the books of pages, tasks and runs agree."""
        self.ledger.check()
        if self.run is None and (self.sources.in_run or self.targets.streams.in_run):
            raise BrokenInvariant(self.config.worker, "a task is booked in a run that is over")
        for key, task in self.targets.streams.running.items():
            if self.targets.tasks.get(key) is not task:
                raise BrokenInvariant(self.config.worker, "a stream runs without a task")

    def _private_pages(self) -> list[int]:
        pages: list[int] = []
        for target in self.targets.tasks.values():
            pages += target.private_pages()
        for source in self.sources.tasks.values():
            pages += source.private_pages()
        pages += self.exchange.pulls.private_pages()
        return pages

    # ---- work -------------------------------------------------------------------------------------

    def _admit(self, now_ns: int) -> None:
        """Those who wait for pages, as long as there are any."""
        if self.targets.line:
            self.targets.admit(now_ns)
        if self.sources.line:
            self.sources.admit(now_ns)

    def _prompts_wait(self, run: RunInHand) -> bool:
        """Whether there is prompt work beside the run in hand, of sources or for a free seat."""
        if self.sources.tasks and self.sources.jobs():
            return True
        return bool(self.targets.streams.prompting) and run.seated() < self.config.running_max

    def _end_run(self) -> None:
        assert self.run is not None
        self.run.ending = True
        self.ledger.outbox.append(EndRun(run=self.run.run))

    def _start_run(self, now_ns: int) -> None:
        streams = self.targets.streams
        members = streams.batch.members
        if members:
            streams.batch.make_room(self._preempt_last)
        jobs: list[Source | Target] = [*streams.prompting.values()]
        if self.sources.tasks:
            jobs += self.sources.jobs()
        if not (jobs or members):
            return
        run = RunInHand(self._runs + 1, now_ns, len(members))
        if jobs:
            self._plan_prompts(now_ns, run, jobs)
            if not (run.prompts or run.decoding):
                return
        if not run.single:
            run.steps_max = streams.steps_max(run)
        run.predicted_ns = self.rates.predict(run)
        self.run = run
        self._runs = run.run
        streams.in_hand = True
        for task in run.starting:
            self.targets.started(task)
        self.ledger.outbox.append(
            RunSteps(
                run=run.run,
                steps_max=run.steps_max,
                prompts=tuple(run.prompts),
                tables=self._tables(run),
                predicted_ns=run.predicted_ns,
            )
        )

    def _preempt_last(self) -> None:
        self.targets.preempt(self.targets.streams.last_admitted())

    def _plan_prompts(self, now_ns: int, run: RunInHand, jobs: list[Source | Target]) -> None:
        """Fills the run with prompt spans by priority and age, and says whether it must be one step: more
        prompt work waits for the next one, others can use what it computes, or it is measured."""
        config, streams = self.config, self.targets.streams
        if len(jobs) > 1:
            jobs.sort(key=lambda job: (-job.ask.priority, job.serial))
        budget = config.mixed_chunk_tokens if run.decoding else config.chunk_tokens
        seats = config.running_max - run.decoding
        for job in jobs:
            if budget <= 0:
                break
            if isinstance(job, Source):
                run.single = True
                budget -= self.sources.plan(now_ns, job, run, budget)
            else:
                sampled = len(run.sampled)
                budget -= streams.plan(job, run, budget, seats)
                seats -= len(run.sampled) - sampled
        if (streams.prompting and seats > 0) or (run.tokens >= MEASURED_TOKENS and not run.decoding):
            run.single = True

    def _tables(self, run: RunInHand) -> tuple[TablePart, ...]:
        grown = self.targets.streams.batch.grown
        if not (grown or run.spans):
            return ()
        parts: list[TablePart] = []
        for task, sequence in run.spans:
            part = table_part(task, sequence)
            if part is not None:
                parts.append(part)
        for member, target in grown.items():
            part = table_part(target, member)
            if part is not None:
                parts.append(part)
        grown.clear()
        return tuple(parts)

    # ---- rows -------------------------------------------------------------------------------------

    def _steps_ran(self, now_ns: int, fact: StepsRan) -> None:
        run = self.run
        if run is None or fact.run != run.run:
            return
        self.run = None
        if self.rates.learn(run, fact.steps, fact.duration_ns):
            self._beats.soon(now_ns)
        targets, streams = self.targets, self.targets.streams
        streams.in_hand = False
        if run.prompts:
            self._advance(now_ns, run)
        streams.batch.clock += fact.steps
        ended: list[Target] = []
        for finish in fact.finished:
            target = targets.tasks[finish.request, finish.attempt]
            streams.finish(target, finish)
            if not target.open:
                ended.append(target)
        for target, member in run.sampled:
            if target.state is RUNNING and not member.done:
                streams.sampled(target, member, fact.steps)
        if self.sources.in_run:
            self.sources.run_ended(now_ns)
        for target in ended:
            targets.ended(target)
        if streams.closing:
            targets.close()
        if self._postponed:
            postponed, self._postponed = self._postponed, []
            for lost in postponed:
                self._peer_lost(now_ns, lost)

    def _advance(self, now_ns: int, run: RunInHand) -> None:
        """Its prompt spans are computed."""
        streams = self.targets.streams
        for span, (task, sequence) in zip(run.prompts, run.spans, strict=True):
            if isinstance(task, Source):
                self.sources.advance(now_ns, task, span)
            else:
                streams.advance(task, sequence, span)
        streams.in_run.clear()

    def _source_fact(self, now_ns: int, fact: RequestFact) -> None:
        self.sources.step(now_ns, fact)

    def _target_fact(self, now_ns: int, fact: RequestFact) -> None:
        self.targets.step(now_ns, fact)

    def _pages_offered(self, now_ns: int, fact: PagesOffered) -> None:
        if fact.taken:
            self.ledger.receipt(fact.sender, fact.taken)
        self.targets.step(now_ns, fact)

    def _offer_answered(self, now_ns: int, fact: OfferAnswered) -> None:
        if fact.taken:
            self.ledger.receipt(fact.sender, fact.taken)
        self.sources.step(now_ns, fact)

    def _released(self, now_ns: int, fact: RequestReleased) -> None:
        self.sources.step(now_ns, fact)
        self.targets.step(now_ns, fact)
        run = self.run
        used = self.targets.streams.closing or (fact.request, fact.attempt) in self.sources.in_run
        if used and run is not None and not run.ending and run.steps_max > 1:
            self._end_run()

    def _claim_released(self, now_ns: int, fact: ClaimReleased) -> None:
        self.ledger.receipt(fact.sender, fact.taken)
        if fact.sender not in self.ledger.lost:
            self.ledger.claim_ended(fact.sender, fact.pages)

    def _pages_given(self, now_ns: int, fact: PagesGiven) -> None:
        self.ledger.receipt(fact.sender, fact.taken)
        if fact.sender not in self.ledger.lost:
            self.ledger.paid_back(fact.sender, fact.pages, fact.serial)

    def _exchange_fact(self, now_ns: int, fact: Fact) -> None:
        self.exchange.step(now_ns, fact)

    def _pages_granted(self, now_ns: int, fact: PagesGranted) -> None:
        self.ledger.grant(fact.pages, fact.room)
        chunk = -(-self.config.chunk_tokens // self.config.page_tokens)
        self.ledger.keep = max(1, min(chunk, self.ledger.granted // 8))
        self._beats.at_once(now_ns)

    def _peer_lost(self, now_ns: int, fact: PeerLost) -> None:
        """While the run in hand still reads pages that the dead lent, their statement waits: nobody may
        be given those pages before."""
        if self.sources.reads_from(fact.worker):
            self._postponed.append(fact)
            return
        if fact.worker:
            self.sources.peer_lost(now_ns, fact.worker)
            self.targets.loans.peer_lost(fact.worker)
        self._tell_control(self.ledger.freeze(fact.worker))

    def _estate_settled(self, now_ns: int, fact: EstateSettled) -> None:
        self.ledger.thaw(fact)

    def _control_joined(self, now_ns: int, fact: ControlJoined) -> None:
        self.rates.told()
        self._beats.at_ns = now_ns + self.config.beat_ns
        running = self.targets.streams.running
        streams = tuple(key for key, task in running.items() if task.state is RUNNING)
        self._tell_control(introduce(self.config, self.rates, self.ledger.granted, self._peers(), streams))

    def _peers(self) -> tuple[Incarnation, ...]:
        """Everybody whose death this worker must hear of."""
        readers = (reader for _, reader in self.targets.loans.open)
        targets = (target for target, _ in self.sources.offers.values())
        return tuple(dict.fromkeys((*self.ledger.peers(), *readers, *targets)))

    def _control_lost(self, now_ns: int, fact: ControlLost) -> None:
        self._beats.at_ns = None
        self._postponed = []
        self.ledger.control_lost()
        self.sources.control_lost(now_ns)
        self.targets.control_lost(now_ns)

    def _deadline_passed(self, now_ns: int, fact: DeadlinePassed) -> None:
        self.exchange.time_passed(now_ns)
        if not self._beats.due(now_ns):
            return
        self.exchange.pulls.renew()
        run, overdue_ns = self.run, 0
        if run is not None:
            overdue_ns = max(0, now_ns - run.started_ns - self.config.overrun_factor * run.predicted_ns)
        busy = self.targets.tasks or self.sources.tasks
        if self._beats.heard_of() and busy and not overdue_ns and not self.rates.news():
            return
        self.rates.told()
        pending = sum([task.ask.split - task.computed for task in self.sources.jobs()])
        for task in self.targets.streams.prompting.values():
            pending += max(0, task.ask.prompt_tokens - task.computed)
        line, running = len(self.targets.line), len(self.targets.streams.running)
        pages = self.ledger.counts()
        self._tell_control(beat(self.config.worker, self.rates, pages, line, running, pending, overdue_ns))

    def _driver_stalled(self, now_ns: int, fact: DriverStalled) -> None:
        """A worker judges nobody but readers of other pools by time; control hears of it by the beat
        that follows."""
        self.exchange.grants.excuse(fact.duration_ns)
        self._beats.at_once(now_ns)

    def _tell_control(self, fact: Fact) -> None:
        self.ledger.outbox.append(Send(to=CONTROL, fact=fact))


W = Worker
_ROWS: dict[type[Fact], Callable[..., None]] = {
    StepsRan: W._steps_ran,
    PrefillRequested: W._source_fact,
    OfferAnswered: W._offer_answered,
    ContextLent: W._source_fact,
    PagesPulled: W._exchange_fact,
    PullEnded: W._exchange_fact,
    PullConfirmed: W._exchange_fact,
    ClaimsRenewed: W._exchange_fact,
    TargetRequested: W._target_fact,
    RecipeFixed: W._target_fact,
    SourceLost: W._target_fact,
    PagesOffered: W._pages_offered,
    ContextNeeded: W._target_fact,
    ContextReturned: W._target_fact,
    RequestReleased: W._released,
    ClaimReleased: W._claim_released,
    PagesGiven: W._pages_given,
    PagesGranted: W._pages_granted,
    PeerLost: W._peer_lost,
    EstateSettled: W._estate_settled,
    ControlJoined: W._control_joined,
    ControlLost: W._control_lost,
    DeadlinePassed: W._deadline_passed,
    DriverStalled: W._driver_stalled,
}
