"""What the step loop runs next: prompt spans by priority and age, beside every decoding sequence.

A run is one step while prompt work is pending and up to a quantum of steps otherwise; it can be ended
at any step border, so long runs cost newcomers one step at most. Tails, whose last row samples, may
begin such a run: what they compute is nobody else's, and their sequences decode in the steps after.
"""

from __future__ import annotations

from diptych.core.actions import PromptSpan, TablePart
from diptych.core.ids import SHARED
from diptych.core.recipe import run_at
from diptych.core.worker.sequence import Sequence, Source, Target

MEASURED_TOKENS = 16
"""So many prompt tokens and nothing else in a run tell what a prompt token costs."""
NEWS = 0.25
"""A prefill rate that has moved by this share is worth telling before the next beat is due."""


class RunInHand:
    """The run that the step loop has and has not answered."""

    # fmt: off
    __slots__ = (
        "decoding", "ending", "predicted_ns", "prompts", "run", "sampled", "single", "spans", "started_ns",
        "starting", "steps_max", "tokens",
    )
    # fmt: on

    def __init__(self, run: int, now_ns: int, decoding: int) -> None:
        self.run = run
        self.started_ns = now_ns
        self.steps_max = 1
        self.single = False
        """It must be one step."""
        self.predicted_ns = 0
        self.ending = False
        self.prompts: list[PromptSpan] = []
        self.spans: list[tuple[Source | Target, Sequence | None]] = []
        """(task, sequence or None for its shared part) of each prompt span, in order."""
        self.decoding = decoding
        """Sequences that decode in it from its first step on."""
        self.sampled: list[tuple[Target, Sequence]] = []
        """Sequences whose first token of this attempt comes from this run's first step."""
        self.starting: list[Target] = []
        """Targets whose prompt this run completes."""
        self.tokens = 0

    def seated(self) -> int:
        """Sequences that decode in it, or will from its second step on."""
        return self.decoding + len(self.sampled)


class Rates:
    """Measured speeds of this worker: exponential averages of what its runs took."""

    __slots__ = ("decode_ns_per_step", "guessed", "prefill_ns_per_token", "told_ns_per_token")

    def __init__(self, prefill_ns_per_token: float, decode_ns_per_step: float) -> None:
        self.prefill_ns_per_token = prefill_ns_per_token
        self.decode_ns_per_step = decode_ns_per_step
        self.guessed = True
        """The prefill rate is a first guess: the first real run replaces it."""
        self.told_ns_per_token = prefill_ns_per_token
        """The prefill rate that control knows."""

    def learn(self, run: RunInHand, steps: int, duration_ns: int) -> bool:
        """Whether control chooses sources by a rate that is not true any more."""
        if not run.tokens:
            self.decode_ns_per_step += 0.25 * (duration_ns / max(1, steps) - self.decode_ns_per_step)
            return False
        if run.decoding or run.tokens < MEASURED_TOKENS:
            return False
        weight = 1.0 if self.guessed else 0.25
        self.prefill_ns_per_token += weight * (duration_ns / run.tokens - self.prefill_ns_per_token)
        self.guessed = False
        return self.news()

    def news(self) -> bool:
        told = self.told_ns_per_token
        return abs(self.prefill_ns_per_token - told) > NEWS * told

    def told(self) -> None:
        self.told_ns_per_token = self.prefill_ns_per_token

    def predict(self, run: RunInHand) -> int:
        decode = self.decode_ns_per_step * run.steps_max if run.decoding or run.sampled else 0.0
        return int(run.tokens * self.prefill_ns_per_token + decode)


def add_spans(
    run: RunInHand,
    task: Source | Target,
    sequence: Sequence | None,
    *,
    first: int,
    end: int,
    sample: bool,
    logits_from: int | None = None,
) -> None:
    """Adds the positions [first, end) of one sequence (or the shared part), cut where numerics change."""
    request, attempt = task.key
    recipe = task.ask.recipe if isinstance(task, Source) else task.recipe
    position = first
    while position < end:
        run_here = run_at(recipe, position)
        stop = min(end, run_here.end)
        scored = None if logits_from is None or stop <= logits_from else max(position, logits_from)
        run.prompts.append(
            PromptSpan(
                request=request,
                attempt=attempt,
                sequence=SHARED if sequence is None else sequence.index,
                first=position,
                count=stop - position,
                numerics=run_here.numerics,
                sample=sample and stop == end,
                logits_from=scored,
            )
        )
        run.spans.append((task, sequence))
        position = stop
    run.tokens += end - first


def table_part(task: Source | Target, sequence: Sequence | None) -> TablePart | None:
    """The part of a page table that the step loop does not know yet, or None."""
    request, attempt = task.key
    if isinstance(task, Source):
        pages, tabled, index = task.pages, task.tabled, SHARED
        task.tabled = len(pages)
    elif sequence is None:
        pages, tabled, index = task.shared, task.tabled, SHARED
        task.tabled = len(pages)
    else:
        return _own_part(task, sequence)
    if tabled >= len(pages):
        return None
    return TablePart(
        request=request, attempt=attempt, sequence=index, start=tabled, pages=tuple(pages[tabled:])
    )


def _own_part(task: Target, sequence: Sequence) -> TablePart | None:
    """The same for a sequence, whose table is the shared pages and then its own."""
    shared, tabled = len(task.shared), sequence.tabled
    total = shared + len(sequence.pages)
    if tabled >= total:
        return None
    sequence.tabled = total
    fresh = sequence.pages[tabled - shared :] if tabled >= shared else task.shared[tabled:] + sequence.pages
    request, attempt = task.key
    return TablePart(
        request=request, attempt=attempt, sequence=sequence.index, start=tabled, pages=tuple(fresh)
    )
