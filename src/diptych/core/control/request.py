"""What control keeps of one request, and the record it leaves."""

from __future__ import annotations

from diptych.core.control.need import Need
from diptych.core.control.supply import Supply
from diptych.core.facts import (
    AttemptRecord,
    PrefillFinished,
    RequestArrived,
    RequestRecord,
    RouteReasons,
    SequenceStart,
)
from diptych.core.ids import Attempt, Incarnation, worker_name
from diptych.core.recipe import Recipe

QUEUED = "queued"
"""No worker has it."""
RESERVING = "reserving"
"""The target sets pages aside."""
PREFILLING = "prefilling"
"""The recipe is fixed; the pages below the split are being made."""
STREAMING = "streaming"
"""The target has all it needs."""
DRAINING = "draining"
"""The stream broke: the door will state what the client has."""
ADOPTING = "adopting"
"""A restarted control waits for the worker that may still be streaming it."""


def _starts(sequences: int) -> tuple[SequenceStart, ...]:
    return tuple(SequenceStart(index, 0) for index in range(sequences))


_ONE_START = _starts(1)


class Request:
    # fmt: off
    __slots__ = (
        "arrived", "arrived_ns", "attempt", "attempts", "avoid", "border", "bytes_moved", "cached_tokens",
        "deadline_ns", "exact", "expected_tokens", "expires_ns", "handoff_ns", "handoff_pages", "held_tokens",
        "losses", "need", "not_before_ns", "outputs", "paused_on", "pending", "preemptions", "prefill_ns",
        "prefill_tokens", "put_off", "queue_ns", "reasons", "recipe", "rerouted", "resumed", "source",
        "split", "starts", "state", "streamed", "supply", "target", "waiting_since_ns",
    )
    # fmt: on

    def __init__(self, arrived: RequestArrived, now_ns: int) -> None:
        self.arrived = arrived
        self.arrived_ns = now_ns
        self.state = QUEUED
        self.attempt: Attempt = 0
        self.target: Incarnation | None = None
        self.source: Incarnation | None = None
        self.border = 0
        self.expected_tokens = 0
        """Prompt tokens that the target was taken to hold when it was chosen, and what else was known."""
        self.supply: Supply | None = None
        self.split = 0
        self.held_tokens = 0
        self.recipe: Recipe = ()
        self.exact = True
        self.resumed = False
        self.outputs: dict[int, int] = {}
        """Output tokens of the sequences that have finished."""
        self.rerouted = False
        self.streamed = False
        """Some attempt has reached STREAMING: what happens now happens to a stream."""
        self.starts = _ONE_START if arrived.sequences == 1 else _starts(arrived.sequences)
        self.deadline_ns = None if arrived.deadline_ns is None else now_ns + arrived.deadline_ns
        self.expires_ns = 0
        """When waiting for a worker (or for its numerics) ends."""
        self.not_before_ns = 0
        self.put_off = False
        """It waits because no worker could carry it out as things stood."""
        self.waiting_since_ns = now_ns
        self.pending: list[tuple[Incarnation, int]] = []
        """Prompt tokens booked on workers for it, until they are heard done."""
        self.preemptions = 0
        self.paused_on: Incarnation | None = None
        """Who preempted it, until its door says what the client has."""
        self.losses = 0
        self.avoid: tuple[Incarnation, ...] = ()
        """Sources whose pages did not come over."""
        self.need: Need | None = None
        """What it asks of workers, as of its last routing."""
        self.queue_ns = 0
        self.prefill_ns = 0
        self.prefill_tokens = 0
        self.handoff_pages = 0
        self.handoff_ns = 0
        self.bytes_moved = 0
        self.cached_tokens: int | None = None
        self.attempts: list[AttemptRecord] = []
        self.reasons: RouteReasons | None = None

    @property
    def known_tokens(self) -> int:
        longest = 0
        for start in self.starts:
            longest = max(longest, start.emitted)
        return self.arrived.prompt_tokens + longest

    def close_attempt(self, outcome: str) -> None:
        if self.target is not None:
            self.attempts.append(
                AttemptRecord(
                    attempt=self.attempt,
                    target=self.target,
                    source=self.source,
                    split=self.split,
                    held_tokens=self.held_tokens,
                    outcome=outcome,
                )
            )

    def note_prefill(self, fact: PrefillFinished) -> None:
        self.prefill_ns += fact.duration_ns
        self.prefill_tokens += fact.computed_tokens
        self.handoff_pages += fact.handoff_pages
        self.handoff_ns = max(self.handoff_ns, fact.handoff_ns)
        if not self.resumed:
            self.cached_tokens = max(self.held_tokens, fact.cached_tokens)

    def record(self, finish_reason: str) -> RequestRecord:
        last = self.attempts[-1] if self.attempts else None
        sources = [attempt.source for attempt in self.attempts if attempt.source is not None]
        return RequestRecord(
            request=self.arrived.request,
            prefill_worker=worker_name(sources[-1]) if sources else None,
            decode_worker=worker_name(last.target) if last is not None else None,
            split=self.split,
            prompt_tokens=self.arrived.prompt_tokens,
            cached_tokens=self.cached_tokens or 0,
            output_tokens=sum(self.outputs.values()),
            recipe=self.recipe,
            queue_ns=self.queue_ns,
            prefill_ns=self.prefill_ns,
            prefill_tokens=self.prefill_tokens,
            handoff_pages=self.handoff_pages,
            handoff_ns=self.handoff_ns,
            bytes_moved=self.bytes_moved,
            attempts=tuple(self.attempts),
            exact=self.exact,
            finish_reason=finish_reason,
            reasons=self.reasons,
        )
