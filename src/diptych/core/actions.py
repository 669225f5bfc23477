"""Everything a machine can ask of the world. Frozen, imperative; a port performs them in order."""

from __future__ import annotations

import msgspec

from diptych.core.facts import Fact
from diptych.core.ids import Attempt, Incarnation, Pages, RequestId


class Action(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """Base of all actions."""


class Send(Action, frozen=True):
    """Tell another machine a fact: a worker's incarnation, a door's name, or `control`."""

    to: str
    fact: Fact


class PromptSpan(msgspec.Struct, frozen=True, array_like=True):
    """Prompt (or replayed) positions to compute in one step; `sequence` is `SHARED` for the common part.

    Spans of a step are listed so that each depends on earlier ones only; engines take independent spans,
    so the step loop joins or serialises those that depend."""

    request: RequestId
    attempt: Attempt
    sequence: int
    first: int
    count: int
    numerics: str
    sample: bool
    """Its last row gives the sequence's next output token; from then on the sequence decodes."""
    logits_from: int | None = None
    """Score the rows from this position on (echo with log-probabilities)."""


class TablePart(msgspec.Struct, frozen=True, array_like=True):
    """From logical page `start` on, this sequence's pages are `pages`."""

    request: RequestId
    attempt: Attempt
    sequence: int
    start: int
    pages: Pages


class RunSteps(Action, frozen=True):
    """Run up to `steps_max` steps: the prompt spans in the first one, and every decoding sequence
    of this worker in each. Answered by exactly one `StepsRan`, at a finish, at `EndRun` or at the end.
    """

    run: int
    steps_max: int
    prompts: tuple[PromptSpan, ...]
    tables: tuple[TablePart, ...]
    """Page tables that are new or grew since the last run."""
    predicted_ns: int


class EndRun(Action, frozen=True):
    """End the run at the next step border; no-op where it ended already."""

    run: int


class DropRequest(Action, frozen=True):
    """The step loop forgets the attempt (samplers, tables, token log). Never during a run that has it."""

    request: RequestId
    attempt: Attempt


class PauseStream(Action, frozen=True):
    """Tell the request's door, behind the tokens already sent to it, that the attempt stops here."""

    request: RequestId
    attempt: Attempt


class OpenClaim(Action, frozen=True):
    """Serve these pages to `reader` under the claim, from before the next message to it is sent."""

    claim: int
    reader: Incarnation
    pages: Pages


class CloseClaim(Action, frozen=True):
    """Serve nothing more under the claim."""

    claim: int


class PullPages(Action, frozen=True):
    """Copy `pages` of `source`, claimed there, into `into` here. Answered by exactly one `PagesPulled`."""

    request: RequestId
    attempt: Attempt
    source: Incarnation
    claim: int
    first_page: int
    """Index of the first page in the prompt."""
    pages: Pages
    into: Pages


class CancelPull(Action, frozen=True):
    """Stop the copy where it is; its `PagesPulled` comes as soon as nothing is written any more."""

    source: Incarnation
    claim: int


class FenceWorker(Action, frozen=True):
    """Kill the incarnation's process and reap it; `WorkerLost` follows when both are done."""

    worker: Incarnation
    why: str


ACTIONS: tuple[type[Action], ...] = tuple(Action.__subclasses__())
