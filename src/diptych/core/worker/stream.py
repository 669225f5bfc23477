"""What a target does once its pages are at hand: the rest of the prompt, then tokens, run by run.

Works on targets in state RUNNING only; says nothing to anybody (the target desk does that) and knows
tokens only by their number.
"""

from __future__ import annotations

from diptych.core.actions import PromptSpan
from diptych.core.config import WorkerConfig
from diptych.core.facts import SequenceFinish
from diptych.core.pages.ledger import Ledger
from diptych.core.recipe import run_at
from diptych.core.worker.batch import RunInHand, add_spans
from diptych.core.worker.decode import DecodeBatch
from diptych.core.worker.sequence import CLOSING, RUNNING, Key, Sequence, Target


class Streams:
    """The running targets of one worker, in order of admission."""

    def __init__(self, config: WorkerConfig, ledger: Ledger) -> None:
        self.config = config
        self.ledger = ledger
        self.running: dict[Key, Target] = {}
        """In order of admission: the last one is the first to be preempted."""
        self.prompting: dict[Key, Target] = {}
        """Those with prompt work that is not in the run in hand."""
        self.batch = DecodeBatch(config.page_tokens, self._room_for)
        self.in_run: dict[Key, None] = {}
        """Those with prompt spans in the run in hand; members of the batch are in every run."""
        self.in_hand = False
        """Whether the step loop has a run."""
        self.closing: list[Target] = []
        """Released while the run in hand uses their pages."""

    def begin(self, task: Target) -> None:
        self.running[task.key] = self.prompting[task.key] = task
        if task.computed >= task.border * self.config.page_tokens:
            self._begin_sequences(task)

    def end(self, task: Target) -> None:
        self.running.pop(task.key, None)
        self.prompting.pop(task.key, None)
        for sequence in task.sequences:
            if sequence.decoding:
                self.batch.leave(sequence)

    def busy(self, task: Target) -> bool:
        """Whether the run in hand uses its pages."""
        return (self.in_hand and task.open > task.prompting) or task.key in self.in_run

    def release(self, task: Target) -> None:
        """Its pages are let go when the run in hand has ended."""
        task.state = CLOSING
        self.prompting.pop(task.key, None)
        self.closing.append(task)

    def _begin_sequences(self, task: Target) -> None:
        """The shared part is complete: each sequence hangs its own path below it."""
        assert task.leaf is not None
        for sequence in task.sequences:
            if sequence.leaf is not None or sequence.done:
                continue
            if sequence.pages or not sequence.hashes:
                self.ledger.tree.pin(task.leaf)
                sequence.leaf = task.leaf
                continue
            sequence.leaf, sequence.pages = self.ledger.tree.acquire(
                sequence.hashes, task.recipe, above=task.leaf, first_page=task.border
            )
            sequence.sealed = len(sequence.pages)
            sequence.computed = (task.border + sequence.sealed) * self.config.page_tokens

    # ---- before a run -----------------------------------------------------------------------------

    def last_admitted(self) -> Target:
        return next(task for task in reversed(self.running.values()) if task.state is RUNNING)

    def plan(self, task: Target, run: RunInHand, budget: int, seats: int) -> int:
        """Adds prompt work of the task: the shared part first, then each sequence's tail, whose last
        span samples and takes one of `seats`. Returns the tokens added."""
        border = task.border * self.config.page_tokens
        added, sampled = self._plan_shared(task, run, budget), 0
        if task.computed + added < border:
            return added
        for sequence in task.sequences:
            if sequence.decoding or sequence.done or added >= budget or seats <= 0:
                continue
            first = max(sequence.computed, border)
            end = min(sequence.known, first + budget - added)
            if not self._room_for(task, sequence, end):
                break
            last = end == sequence.known
            scored = task.ask.logits_from if sequence is task.sequences[0] else None
            add_spans(run, task, sequence, first=first, end=end, sample=last, logits_from=scored)
            added += end - first
            self.in_run[task.key] = None
            if last:
                seats -= 1
                sampled += 1
                run.sampled.append((task, sequence))
        if sampled == task.prompting:
            del self.prompting[task.key]
            if not task.started:
                run.starting.append(task)
        return added

    def _plan_shared(self, task: Target, run: RunInHand, budget: int) -> int:
        tokens = self.config.page_tokens
        end = min(task.computed + budget, task.border * tokens)
        if end <= task.computed:
            return 0
        fresh = max(0, -(-end // tokens) - len(task.shared))
        task.shared += task.spare[:fresh]
        del task.spare[:fresh]
        add_spans(
            run, task, None, first=task.computed, end=end, sample=False, logits_from=task.ask.logits_from
        )
        self.in_run[task.key] = None
        run.single = True
        return end - task.computed

    def steps_max(self, run: RunInHand) -> int:
        """A quantum of steps where pages for so many are to be had without preempting, else one."""
        quantum = self.config.quantum_tokens
        for task, sequence in run.sampled:
            limit = task.ask.prompt_tokens + task.ask.tokens_max
            if not self._room_for(task, sequence, min(sequence.known + quantum - 1, limit)):
                return 1
        return self.batch.steps_max(quantum)

    def _room_for(self, task: Target, sequence: Sequence, positions: int) -> bool:
        """Pages for KV of positions below `positions`: from what was set aside, then from the ledger."""
        missing = -(-positions // self.config.page_tokens) - task.border - len(sequence.pages)
        if missing <= 0:
            return True
        if len(task.spare) < missing:
            more = self.ledger.take(missing - len(task.spare), self.ledger.keep)
            if more is None:
                return False
            task.spare += more
        sequence.pages += task.spare[:missing]
        del task.spare[:missing]
        return True

    # ---- after a run ------------------------------------------------------------------------------

    def advance(self, task: Target, sequence: Sequence | None, span: PromptSpan) -> None:
        if task.state is CLOSING:
            return
        if sequence is not None:
            sequence.computed = span.first + span.count
            return
        task.computed = span.first + span.count
        self._seal_shared(task)
        if task.computed >= task.border * self.config.page_tokens:
            self._begin_sequences(task)

    def _seal_shared(self, task: Target) -> None:
        tokens = self.config.page_tokens
        full = task.computed // tokens
        while task.sealed < full:
            run = run_at(task.recipe, task.sealed * tokens)
            end = min(full, run.end // tokens)
            hashes, pages = task.ask.page_hashes[task.sealed : end], task.shared[task.sealed : end]
            assert task.leaf is not None
            task.leaf, standing = self.ledger.seal(task.leaf, hashes, pages, run.numerics)
            if standing is not pages:
                task.shared[task.sealed : end] = standing
                task.tabled = min(task.tabled, task.sealed)
                for sequence in task.sequences:
                    sequence.tabled = min(sequence.tabled, task.sealed)
            task.sealed = end

    def sampled(self, task: Target, sequence: Sequence, steps: int) -> None:
        """A sequence got its first tokens of this attempt and did not finish: it decodes from here on."""
        sequence.known += steps
        task.prompting -= 1
        self.batch.join(task, sequence)

    def finish(self, task: Target, finish: SequenceFinish) -> None:
        """One sequence ended: its full pages stay as a prefix for the next turn, the rest is free."""
        sequence = task.sequence(finish.sequence)
        if sequence.decoding:
            self.batch.leave(sequence)
        else:
            task.prompting -= 1
        sequence.done = True
        task.open -= 1
        task.outcomes.append((finish.sequence, finish.emitted, finish.reason))
        if task.state is CLOSING:
            return
        if finish.page_hashes:
            self._seal_sequence(task, sequence, finish)
        if len(sequence.pages) > sequence.sealed:
            self.ledger.free_private(sequence.pages[sequence.sealed :])
        assert sequence.leaf is not None
        self.ledger.unpin(sequence.leaf)
        sequence.leaf, sequence.pages, sequence.sealed = None, [], 0

    def _seal_sequence(self, task: Target, sequence: Sequence, finish: SequenceFinish) -> None:
        tokens = self.config.page_tokens
        while sequence.sealed < len(finish.page_hashes):
            run = run_at(task.recipe, (task.border + sequence.sealed) * tokens)
            end = min(len(finish.page_hashes), run.end // tokens - task.border)
            pages = sequence.pages[sequence.sealed : end]
            hashes = finish.page_hashes[sequence.sealed : end]
            assert sequence.leaf is not None
            sequence.leaf, standing = self.ledger.seal(sequence.leaf, hashes, pages, run.numerics)
            sequence.pages[sequence.sealed : end] = standing
            sequence.sealed = end
