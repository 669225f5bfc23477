"""What control tells workers and doors."""

from __future__ import annotations

import msgspec

from diptych.core.facts.base import Fact, RequestFact, SequenceStart
from diptych.core.ids import Attempt, Extents, Incarnation, PageHash, RequestId
from diptych.core.recipe import Recipe


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
    shares_pool: bool = True
    """Whether the target reads this worker's pages where they lie; otherwise it pulls copies."""


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


class RouteReasons(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """What the choice of workers rests on: tokens, and nanoseconds as the workers measured them."""

    target: Incarnation
    held_tokens: int
    """Prompt tokens that the target holds."""
    own_tokens: int
    """Those that it computes itself."""
    target_rate_ns: int
    """For each of them."""
    target_queue_tokens: int
    """Prompt tokens of other requests that it computes before."""
    target_streams: int
    cost_ns: int
    """Predicted time until the target can go on, and what that costs its other streams."""
    other_ns: int | None
    """The same for the best choice of the other kind: without a source, or with one."""
    source: Incarnation | None = None
    source_tokens: int = 0
    source_cached_tokens: int = 0
    source_rate_ns: int = 0
    """Less than the measured rate, the longer nobody has measured it; more for a worker that decodes."""
    source_measured_ns: int = 0
    source_queue_tokens: int = 0
    handoff_ns: int = 0


class RequestRouted(RequestFact, frozen=True):
    target: Incarnation
    source: Incarnation | None
    split: int
    recipe: Recipe
    held_tokens: int
    reasons: RouteReasons | None
    exact: bool = True
    """False from when a stream had to go on with another recipe than it began with."""


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
    """`finished`, `target lost`, `source lost`, `fetch failed`, `preempted`, `released`, `refused` or
    `rerouted`."""


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
    """Copied between workers of unlike pools; claims within one pool copy nothing."""
    attempts: tuple[AttemptRecord, ...]
    exact: bool
    finish_reason: str
    reasons: RouteReasons | None
    """Of the last attempt; None where no worker ever had it."""


class RequestEnded(Fact, frozen=True):
    """Control is done with the request. `failure` names why when the stream did not end by itself."""

    request: RequestId
    record: RequestRecord
    failure: str | None = None
