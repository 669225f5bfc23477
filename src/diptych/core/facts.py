"""Everything that can happen, as a machine of the core is told it. Frozen, past tense, self-contained.

A fact that one machine sends to another is the same value on a Unix socket, on a simulated link and in
a log. Facts about a request carry its attempt: one with an old attempt is a late one.
"""

from __future__ import annotations

import msgspec

from diptych.core.ids import Attempt, Extents, Incarnation, PageHash, Pages, RequestId
from diptych.core.recipe import Recipe


class Fact(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """Base of all facts; its tag (the class's name) makes them one union on the wire."""


class RequestFact(Fact, frozen=True):
    """A fact about one attempt at one request."""

    request: RequestId
    attempt: Attempt


# ---- a door tells control -------------------------------------------------------------------------


class RequestArrived(Fact, frozen=True):
    request: RequestId
    door: str
    model: str
    prompt_tokens: int
    page_hashes: tuple[PageHash, ...]
    """One per full page of the prompt's tokens [0, prompt_tokens - 1)."""
    tokens_max: int
    sequences: int = 1
    adapter: str = ""
    tenant: str = ""
    priority: int = 0
    """Higher goes first."""
    logits_from: int | None = None
    """Logits of positions from here on are needed: neither split nor prefix reuse passes it."""
    seeded: bool = False
    deadline_ns: int | None = None
    """A duration, counted from the arrival at control."""
    trace: str = ""


class SequenceStart(msgspec.Struct, frozen=True, array_like=True):
    """Where one sequence stands when an attempt begins."""

    index: int
    emitted: int
    page_hashes: tuple[PageHash, ...] = ()
    """Of the full pages after the shared prompt pages, over prompt tail and emitted tokens."""


Outputs = tuple[tuple[int, int], ...]
"""(sequence index, output tokens) of finished sequences."""


class ClientGone(Fact, frozen=True):
    request: RequestId


class StreamDrained(RequestFact, frozen=True):
    """The door has read all that the attempt's worker ever sent; this is what the client has."""

    starts: tuple[SequenceStart, ...]
    """The sequences that have not finished."""
    finished: Outputs = ()
    """Those that have, over all attempts."""


class OpenRequest(msgspec.Struct, frozen=True, array_like=True):
    """A request as a door knows it, told to a control plane that may have forgotten it."""

    arrived: RequestArrived
    attempt: Attempt | None
    """The attempt that is streaming, if the door knows of one."""
    recipe: Recipe
    starts: tuple[SequenceStart, ...]
    finished: Outputs = ()


class DoorJoined(Fact, frozen=True):
    door: str
    open: tuple[OpenRequest, ...] = ()


class DoorLost(Fact, frozen=True):
    door: str


# ---- the supervisor tells control -----------------------------------------------------------------


class WorkerSpawned(Fact, frozen=True):
    """A process was started; it must join within `limit_ns` (loading, compiling)."""

    worker: Incarnation
    host: str
    limit_ns: int


class WorkerLost(Fact, frozen=True):
    """The process is killed and reaped: nothing of this incarnation can happen any more."""

    worker: Incarnation


class HostStated(Fact, frozen=True):
    """What one host's agent runs: the pool it made and the workers alive in it."""

    host: str
    pool_pages: int
    workers: tuple[Incarnation, ...]
    shares: tuple[tuple[str, int], ...]
    """Pages meant for each worker name."""


# ---- a worker tells control -----------------------------------------------------------------------


class WorkerJoined(Fact, frozen=True):
    worker: Incarnation
    host: str
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


class WorkerBeat(Fact, frozen=True):
    """Alive, and how far: sent after a change of load and at a third of the lease when idle."""

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


class ConnectionLost(Fact, frozen=True):
    """The socket of a peer closed; whether its process is gone is not known yet."""

    peer: str


class DeadlinePassed(Fact, frozen=True):
    """The moment that `next_deadline_ns()` named has come. Drivers say it without a request; inside
    control it becomes a fact about the request whose own deadline it was."""

    request: RequestId | None = None


class DriverStalled(Fact, frozen=True):
    """The driver of this machine itself stood still for so long: leases move by that."""

    duration_ns: int


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
    """The prompt is done and every sequence has its first token: they decode from here on."""

    worker: Incarnation
    waited_ns: int
    """From the request for pages to their being set aside."""


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


# ---- control tells a worker -----------------------------------------------------------------------


class PagesGranted(Fact, frozen=True):
    """Pages that nobody owns become the worker's."""

    pages: Extents
    room: int
    """By how many its room grows; the rest makes up for deposits that a dead worker owed it."""


class TargetRequested(RequestFact, frozen=True):
    door: str
    model: str
    prompt_tokens: int
    page_hashes: tuple[PageHash, ...]
    starts: tuple[SequenceStart, ...]
    tokens_max: int
    adapter: str = ""
    priority: int = 0
    logits_from: int | None = None
    recipe: Recipe = ()
    """Fixed already (a seed, or a resumed stream): only pages that fit it count as held."""
    full_need: bool = False
    """Admit only with pages for the longest possible answer (it was preempted twice)."""


class RecipeFixed(RequestFact, frozen=True):
    recipe: Recipe
    split: int
    """Prompt tokens [held, split) come from `source`; the rest is computed here."""
    source: Incarnation | None = None


class SourceLost(RequestFact, frozen=True):
    """The prefill worker died: say again what is held, the rest will come from elsewhere."""


class PrefillRequested(RequestFact, frozen=True):
    model: str
    page_hashes: tuple[PageHash, ...]
    """Of the pages up to the split."""
    held_tokens: int
    """Prompt tokens that the target holds already; it offers them where the source lacks them."""
    split: int
    recipe: Recipe
    target: Incarnation
    priority: int = 0


class RequestReleased(RequestFact, frozen=True):
    """Let go of whatever this attempt holds here; said in any state, more than once if need be."""


class PeerLost(Fact, frozen=True):
    """A worker of this host is killed and reaped. State what you own; an empty name asks only that."""

    worker: Incarnation


class EstateSettled(Fact, frozen=True):
    """Who owns what the lost worker left: the first claimant inherits, the others now claim from it."""

    lost: Incarnation
    inherited: Extents
    lent: tuple[tuple[Incarnation, Extents], ...] = ()
    """Inherited pages that others claim as well."""
    moved: tuple[tuple[Incarnation, Extents], ...] = ()
    """Pages this worker claims and the claimant that owns them now."""
    deposits: Extents = ()
    """What the other claimants had paid the lost one: the heir's now, with their claims."""


class ControlJoined(Fact, frozen=True):
    """A control plane (perhaps a new one) is there: introduce yourself again."""

    epoch: int


class ControlLost(Fact, frozen=True):
    pass


# ---- workers tell each other ----------------------------------------------------------------------


class PagesOffered(RequestFact, frozen=True):
    """These sealed pages are yours to claim; I keep them until you answer or are known dead."""

    sender: Incarnation
    first_page: int
    """Index of the first one in the prompt."""
    pages: Pages


class ContextNeeded(RequestFact, frozen=True):
    """Source to target: lend me your pages [first_page, end_page) of the prompt to read, I lack them."""

    sender: Incarnation
    first_page: int
    end_page: int


class ContextLent(RequestFact, frozen=True):
    """The target keeps these pages as they are until `ContextReturned`, or until the source is dead."""

    sender: Incarnation
    first_page: int
    pages: Pages


class ContextReturned(RequestFact, frozen=True):
    sender: Incarnation


class OfferAnswered(RequestFact, frozen=True):
    """The one answer to an offer: which pages are claimed, paid for with as many free ones."""

    sender: Incarnation
    first_page: int
    kept: Pages
    deposit: Pages
    serial: int


class ClaimReleased(Fact, frozen=True):
    """The sender reads these pages no more; the owner pays the deposit back."""

    sender: Incarnation
    pages: Pages


class PagesGiven(Fact, frozen=True):
    """A deposit comes back: the receiver owns these pages now."""

    sender: Incarnation
    pages: Pages
    serial: int


class PagesTaken(Fact, frozen=True):
    """Receipt for pages that changed owner by `OfferAnswered` or `PagesGiven`."""

    sender: Incarnation
    serial: int


# ---- the step loop tells its worker ---------------------------------------------------------------


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


# ---- control tells a door -------------------------------------------------------------------------


class RequestRouted(RequestFact, frozen=True):
    target: Incarnation
    source: Incarnation | None
    split: int
    recipe: Recipe
    held_tokens: int
    reasons: tuple[str, ...]


class RequestRejected(Fact, frozen=True):
    request: RequestId
    kind: str
    """`overloaded`, `too_long`, `unknown_model`, `deadline`, `unavailable`, `failed`."""
    message: str
    retry_after_ns: int | None = None
    field: str | None = None
    limit: int | None = None


class StreamInterrupted(RequestFact, frozen=True):
    """The attempt's worker is gone or let the stream go: drain what it sent, then state it."""


class AttemptRecord(msgspec.Struct, frozen=True):
    attempt: Attempt
    target: Incarnation
    source: Incarnation | None
    split: int
    held_tokens: int
    outcome: str
    """`finished`, `target lost`, `source lost`, `preempted`, `released` or `rerouted`."""


class RequestRecord(msgspec.Struct, frozen=True):
    """What one request left behind; durations in nanoseconds, no text and no token ids."""

    request: RequestId
    prefill_worker: str | None
    decode_worker: str | None
    split: int
    prompt_tokens: int
    cached_tokens: int
    output_tokens: int
    recipe: Recipe
    queue_ns: int
    prefill_ns: int
    prefill_tokens: int
    handoff_pages: int
    handoff_ns: int
    bytes_moved: int
    attempts: tuple[AttemptRecord, ...]
    exact: bool
    finish_reason: str
    reasons: tuple[str, ...]


class RequestEnded(Fact, frozen=True):
    """Control is done with the request. `failure` names why when the stream did not end by itself."""

    request: RequestId
    record: RequestRecord
    failure: str | None = None


WIRE_FACTS: tuple[type[Fact], ...] = (
    *(fact for fact in Fact.__subclasses__() if fact is not RequestFact),
    *RequestFact.__subclasses__(),
)
