"""One request as its door knows it: the client's token log, and which frames are accepted into it. Pure.

The log is the truth about a stream: a frame counts if it is of the current attempt (or a newer one, not
of one that was drained) and continues its sequence exactly; anything else is late or doubled and is
dropped. At a worker's death the log says where to resume.
"""

from __future__ import annotations

import msgspec

from diptych.api.generation import (
    GenerationEvent,
    GenerationRequest,
    PromptScored,
    SequenceFinished,
    TokensEmitted,
)
from diptych.core.facts import (
    OpenRequest,
    Outputs,
    RequestArrived,
    RequestRouted,
    SequenceStart,
    StreamDrained,
)
from diptych.core.ids import Attempt, Incarnation
from diptych.core.recipe import Recipe
from diptych.engine.interface import SampledToken
from diptych.wire.frames import PauseFrame, ScoresFrame, StreamFrame, TokensFrame
from diptych.wire.hashing import chain_root, page_hashes, shared_pages
from diptych.wire.payload import PromptPayload, encode_payload, pack_tokens

NOT_SHOWN = frozenset({"stop_token"})
"""Reasons whose last token is counted and not shown."""


class SequenceLog:
    """Output of one sequence: its tokens, when they came, and how it ended."""

    def __init__(self) -> None:
        self.tokens: list[int] = []
        self.arrivals_ns: list[int] = []
        """One per frame."""
        self.arrival_tokens: list[int] = []
        self.finish: str | None = None


class Stream:
    """State of one open request. `arrived` and `payload()` are what control is told of it."""

    def __init__(
        self, request: GenerationRequest, *, door: str, fingerprint: str, page_tokens: int, now_ns: int
    ) -> None:
        self.request = request
        self.arrived_ns = now_ns
        self._page_tokens = page_tokens
        self._prompt = pack_tokens(request.prompt)
        self._root = chain_root(fingerprint, "", request.tenant)
        count = len(request.prompt)
        hashed = shared_pages(count, page_tokens) * page_tokens
        hashes = page_hashes(self._root, request.prompt[:hashed], page_tokens)
        self._last_hash = hashes[-1] if hashes else self._root
        self.arrived = RequestArrived(
            request=request.request_id,
            door=door,
            model=request.model,
            prompt_tokens=count,
            page_hashes=hashes,
            tokens_max=request.tokens_max,
            sequences=request.sequences,
            tenant=request.tenant,
            priority=request.priority,
            logits_from=0 if request.score_prompt else None,
            seeded=request.seeded,
            exact=request.exact,
            deadline_ns=None if request.deadline_ms is None else request.deadline_ms * 1_000_000,
            trace=request.trace_context,
        )
        self.logs = tuple(SequenceLog() for _ in range(request.sequences))
        self.attempt: Attempt | None = None
        """The attempt that streams; None before the first and between two."""
        self.drained: Attempt = -1
        """Attempts up to here are over: their frames are late."""
        self.stated: Attempt | None = None
        """The attempt that this control plane was told the end of."""
        self.told = False
        """Some control plane was told of the request, and may have given it to workers."""
        self.target: Incarnation | None = None
        self.recipe: Recipe = ()
        self.exact = True
        """Whether control still holds it to the recipe that it began with."""
        self.routed: RequestRouted | None = None
        """The first route, whose split and held tokens the client's usage shows."""
        self.first_token_ns: int | None = None
        self._scores: list[SampledToken] = []
        self._scored = not request.score_prompt

    @property
    def finished(self) -> bool:
        return all(log.finish is not None for log in self.logs)

    @property
    def output_tokens(self) -> int:
        return sum(len(log.tokens) for log in self.logs)

    @property
    def finished_outputs(self) -> Outputs:
        return tuple(
            (index, len(log.tokens)) for index, log in enumerate(self.logs) if log.finish is not None
        )

    def route(self, routed: RequestRouted) -> None:
        """Control chose an attempt's workers; an old one (a late message) is dropped."""
        if routed.attempt <= self.drained or routed.attempt < (self.attempt or 0):
            return
        self.routed = self.routed or routed
        self.attempt = routed.attempt
        self.target = routed.target
        self.recipe = routed.recipe
        self.exact = routed.exact

    def accept(self, frame: StreamFrame, now_ns: int) -> list[GenerationEvent]:
        """What the frame tells the client: nothing where it is late or doubled."""
        if frame.attempt <= self.drained or frame.attempt < (self.attempt or 0):
            return []
        self.attempt = frame.attempt
        match frame:
            case TokensFrame():
                return self._accept_tokens(frame, now_ns)
            case ScoresFrame():
                return self._accept_scores(frame)
            case PauseFrame():
                raise ValueError("a pause is answered by `drain`")

    def is_current(self, frame: PauseFrame) -> bool:
        return frame.attempt > self.drained and frame.attempt >= (self.attempt or 0)

    def drain(self, attempt: Attempt) -> StreamDrained:
        """Fences the attempt and all before it, and states where the client stands."""
        self.drained = max(self.drained, attempt)
        self.stated = attempt
        if self.attempt is not None and self.attempt <= self.drained:
            self.attempt = None
            self.target = None
        return StreamDrained(
            request=self.arrived.request,
            attempt=attempt,
            starts=self.starts(),
            finished=self.finished_outputs,
        )

    def starts(self) -> tuple[SequenceStart, ...]:
        return tuple(
            SequenceStart(index, len(log.tokens), self._further_hashes(log))
            for index, log in enumerate(self.logs)
            if log.finish is None
        )

    def open_request(self) -> OpenRequest:
        """For a new control plane, which was told nothing yet."""
        self.stated = None
        return OpenRequest(
            self.arrived, self.attempt, self.recipe, self.starts(), self.finished_outputs, self.exact
        )

    def payload(self) -> bytes:
        """The attachment of everything control is told of this request."""
        request = self.request
        return encode_payload(
            PromptPayload(
                prompt=self._prompt,
                chain_root=self._root,
                sampling=request.sampling,
                stop=request.stop,
                stop_tokens=request.stop_tokens,
                score_prompt=request.score_prompt,
                sequences=request.sequences,
                emitted=tuple(pack_tokens(log.tokens) for log in self.logs) if self.output_tokens else (),
            )
        )

    def fail(self, reason: str, detail: str) -> list[GenerationEvent]:
        """Ends every open sequence for `reason`."""
        events: list[GenerationEvent] = []
        for index, log in enumerate(self.logs):
            if log.finish is None:
                log.finish = reason
                events.append(SequenceFinished(index, reason, len(log.tokens), detail))
        return events

    def token_gaps_ns(self) -> list[int]:
        """Inter-token latencies: the time between two frames of a sequence, shared by the later one's
        tokens."""
        gaps: list[int] = []
        for log in self.logs:
            for index in range(1, len(log.arrivals_ns)):
                count = log.arrival_tokens[index]
                gap = log.arrivals_ns[index] - log.arrivals_ns[index - 1]
                gaps.extend([gap // count] * count)
        return gaps

    def _accept_tokens(self, frame: TokensFrame, now_ns: int) -> list[GenerationEvent]:
        if not 0 <= frame.sequence < len(self.logs):
            return []
        log = self.logs[frame.sequence]
        if log.finish is not None or frame.first_index != len(log.tokens):
            return []
        log.tokens.extend(frame.tokens)
        log.finish = frame.finish
        if frame.tokens:
            self.first_token_ns = self.first_token_ns or now_ns
            log.arrivals_ns.append(now_ns)
            log.arrival_tokens.append(len(frame.tokens))
        shown = frame.sampled()
        if frame.finish in NOT_SHOWN:
            shown = shown[:-1]
        events: list[GenerationEvent] = []
        if shown:
            events.append(TokensEmitted(frame.sequence, frame.first_index, shown))
        if frame.finish is not None:
            events.append(SequenceFinished(frame.sequence, frame.finish, len(log.tokens), frame.detail))
        return events

    def _accept_scores(self, frame: ScoresFrame) -> list[GenerationEvent]:
        known = len(self._scores) + 1
        if self._scored or frame.first_index > known:
            return []
        self._scores.extend(frame.sampled()[known - frame.first_index :])
        return self.scores_due()

    def scores_due(self) -> list[GenerationEvent]:
        """The prompt's scores, once, when all are there (at once where there are none to wait for)."""
        if self._scored or len(self._scores) < len(self.request.prompt) - 1:
            return []
        self._scored = True
        return [PromptScored(tuple(self._scores))]

    def _further_hashes(self, log: SequenceLog) -> tuple[bytes, ...]:
        start = shared_pages(len(self.request.prompt), self._page_tokens) * self._page_tokens
        known = [*self.request.prompt[start:], *log.tokens]
        return page_hashes(self._last_hash, known[:-1], self._page_tokens)


class Percentiles(msgspec.Struct, frozen=True):
    p50: float | None
    p99: float | None


def percentiles_ms(durations_ns: list[int]) -> Percentiles:
    """Nearest-rank percentiles in milliseconds; None for no values."""
    if not durations_ns:
        return Percentiles(None, None)
    ordered = sorted(durations_ns)
    ranks = (-(-len(ordered) * percent // 100) - 1 for percent in (50, 99))
    return Percentiles(*(ordered[rank] / 1e6 for rank in ranks))
