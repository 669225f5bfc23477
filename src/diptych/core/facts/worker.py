"""What a worker tells control, and what its step loop tells it."""

from __future__ import annotations

import msgspec

from diptych.core.facts.base import Fact, Outputs, RequestFact
from diptych.core.ids import Attempt, Extents, Incarnation, PageHash, RequestId
from diptych.core.recipe import Recipe


class WorkerJoined(Fact, frozen=True):
    worker: Incarnation
    host: str
    """Whose pool it has pages of: workers of one host read each other's pages where they lie."""
    role: str
    """`prefill`, `decode` or `both`: a preference, never a limit."""
    engine: str
    models: tuple[str, ...]
    numerics: tuple[str, ...]
    """What it can compute, the preferred one first."""
    formats: tuple[str, ...]
    page_tokens: int
    context_tokens_max: int
    samples: bool = True
    invariant_rows: bool = True
    prefill_ns_per_token: int = 0
    decode_ns_per_step: int = 0
    room: int = 0
    """Pages it was granted so far; 0 for a fresh one, which owns nothing."""
    peers: tuple[Incarnation, ...] = ()
    """Workers it has claims, loans or debts with."""
    streams: tuple[tuple[RequestId, Attempt], ...] = ()
    """Streams that run on while control was away."""
    transports: tuple[str, ...] = ()
    """Ways by which it exchanges pages with workers of other pools; two workers need one in common."""


class WorkerBeat(Fact, frozen=True):
    """Alive, and how far: sent every now and then (`core/worker/beats.py` says when it need not be)."""

    worker: Incarnation
    pages_free: int
    pages_held: int
    pages_cached: int
    waiting: int
    running: int
    prompt_tokens_pending: int
    prefill_ns_per_token: int
    decode_ns_per_step: int
    run_overdue_ns: int = 0
    """How long the run in hand has passed its own prediction."""


class TargetReserved(RequestFact, frozen=True):
    worker: Incarnation
    held_tokens: int
    """Prompt tokens whose pages it already holds."""
    held: Recipe
    """Which numerics computed them."""


class TargetRefused(RequestFact, frozen=True):
    worker: Incarnation
    reason: str
    needed_tokens: int
    limit_tokens: int


class PrefillFinished(RequestFact, frozen=True):
    worker: Incarnation
    computed_tokens: int
    cached_tokens: int
    duration_ns: int
    waited_ns: int
    handoff_pages: int
    """Pages the target claimed."""
    handoff_ns: int
    """From the last offer to its answer: the pages are the target's to read."""


class StreamStarted(RequestFact, frozen=True):
    """The run that completes the prompt and gives every sequence its first token has begun."""

    worker: Incarnation
    waited_ns: int
    """From the request for pages to their being set aside."""
    bytes_moved: int = 0
    """What its pages from another pool came to."""
    pulled_pages: int = 0
    pull_ns: int = 0
    """What their copies took, one after another."""


class FetchFailed(RequestFact, frozen=True):
    """A target could not get the source's pages, or could not believe them: route the request anew."""

    worker: Incarnation
    source: Incarnation
    why: str


class StreamPaused(RequestFact, frozen=True):
    """Preempted: its pages were let go. The door will state where to resume."""

    worker: Incarnation


class StreamEnded(RequestFact, frozen=True):
    worker: Incarnation
    outputs: Outputs
    reasons: tuple[str, ...]


class OwnershipStated(Fact, frozen=True):
    """Answer to `PeerLost`. Until `EstateSettled` no page changes hands at this worker."""

    worker: Incarnation
    lost: Incarnation
    owned: Extents
    claimed: Extents
    """What it had claimed of the lost one's pages, and paid for."""
    short: int
    """Deposits that the lost one had still to pay back."""
    given: tuple[tuple[Incarnation, int, Extents], ...] = ()
    """(receiver, serial, pages) of gifts whose receipt has not come: its own only where they are still
    on their way, which the receiver's `received` says."""
    received: tuple[tuple[Incarnation, int], ...] = ()
    """Serial of the last gift from each other worker; gifts of one worker come in order."""


class SequenceFinish(msgspec.Struct, frozen=True, array_like=True):
    request: RequestId
    attempt: Attempt
    sequence: int
    reason: str
    emitted: int
    """Output tokens of the sequence, over all attempts."""
    page_hashes: tuple[PageHash, ...]
    """Of its full pages after the shared prompt pages."""


class StepsRan(Fact, frozen=True):
    run: int
    steps: int
    duration_ns: int
    finished: tuple[SequenceFinish, ...] = ()
