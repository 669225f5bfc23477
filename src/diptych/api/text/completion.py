"""Running prompts on the fleet and turning its events into text; shared by all endpoints.

`complete` runs one prompt, `complete_all` several side by side. Both are generators that end the fleet's
work when they are closed or cancelled, which is how a client that goes away frees its pages.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager

import msgspec

from diptych.api.errors import ApiError, ErrorKind, from_refusal
from diptych.api.generation import (
    Backend,
    GenerationEvent,
    GenerationRefused,
    GenerationRequest,
    PromptScored,
    RequestFinished,
    SequenceFinished,
    TokensEmitted,
)
from diptych.api.http.metrics import RequestTimer
from diptych.api.text.choice import ChoiceText, FinishReason, ScoredToken, score_token
from diptych.api.text.machinery import TextModel
from diptych.api.text.stopping import StopStrings
from diptych.engine.interface import SampledToken

__all__ = [
    "Delta",
    "Job",
    "TextDelta",
    "Usage",
    "WholeChoice",
    "collect",
    "complete",
    "complete_all",
    "echo_only",
]

# Prompts of one request that run at once; the others follow as these end.
_PROMPTS_AT_ONCE = 16


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt of a client's request."""

    request: GenerationRequest
    text: TextModel
    stops: tuple[str, ...] = ()
    scored: bool = False
    echo: bool = False
    first_choice: int = 0


class TextDelta(msgspec.Struct, frozen=True):
    """More of one choice; `finish` comes with its last delta."""

    choice: int
    text: str
    scores: tuple[ScoredToken, ...] = ()
    finish: FinishReason | None = None
    stop: str | None = None
    """The stop string that ended it."""


class Usage(msgspec.Struct, frozen=True):
    """Comes last."""

    prompt_tokens: int
    cached_tokens: int
    output_tokens: int

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.cached_tokens + other.cached_tokens,
            self.output_tokens + other.output_tokens,
        )


Delta = TextDelta | Usage


class WholeChoice(msgspec.Struct):
    """All of one choice, for an answer that is not streamed."""

    text: str = ""
    scores: list[ScoredToken] = []
    finish: FinishReason | None = None
    stop: str | None = None


@asynccontextmanager
async def _closing(events: AsyncIterator[GenerationEvent]) -> AsyncIterator[AsyncIterator[GenerationEvent]]:
    try:
        yield events
    finally:
        # `Backend.generate` promises `aclose`, which the bare iterator type does not name.
        close = getattr(events, "aclose", None)
        if close is not None:
            await close()


class _Choices:
    """The choices of one job."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._open: dict[int, ChoiceText] = {}
        self._echo: _Echo | None = None
        text = ""
        if job.echo:
            self._echo = _Echo(job)
            text = self._echo.text
        stops = StopStrings(job.stops)
        for sequence in range(job.request.sequences):
            self._open[sequence] = ChoiceText(
                job.text,
                stops,
                stop_tokens=job.request.stop_tokens,
                scored=job.scored,
                offset=len(text),
            )

    def echoed(self, scores: Sequence[SampledToken]) -> list[TextDelta]:
        """The prompt as the beginning of every choice."""
        if self._echo is None:
            return []
        scored = self._echo.scored(scores) if self._job.scored else ()
        first = self._job.first_choice
        return [TextDelta(first + sequence, self._echo.text, scored) for sequence in self._open]

    def emitted(self, event: TokensEmitted) -> list[TextDelta]:
        choice = self._open.get(event.sequence)
        if choice is None:
            return []
        shown = choice.push(event.tokens)
        number = self._job.first_choice + event.sequence
        if choice.stopped_by is not None:
            del self._open[event.sequence]
            stopped = FinishReason.STOP_STRING
            return [TextDelta(number, shown.text, shown.scores, stopped, choice.stopped_by)]
        return [TextDelta(number, shown.text, shown.scores)] if shown.text or shown.scores else []

    def finished(self, event: SequenceFinished) -> list[TextDelta]:
        choice = self._open.pop(event.sequence, None)
        if choice is None:
            return []
        reason = FinishReason(event.reason)
        if reason is FinishReason.FAILED:
            raise ApiError(ErrorKind.FAILED, event.detail or "The generation failed.")
        shown = choice.finish()
        stop = choice.stopped_by
        if stop is not None:
            reason = FinishReason.STOP_STRING
        elif reason is FinishReason.STOP_STRING:
            stop = event.detail or None
        number = self._job.first_choice + event.sequence
        return [TextDelta(number, shown.text, shown.scores, reason, stop)]


class _Echo:
    """The prompt as text, and where each of its tokens begins in it."""

    def __init__(self, job: Job) -> None:
        self._job = job
        detokenizer = job.text.detokenizer()
        pieces = []
        self._offsets = []
        length = 0
        for token in job.request.prompt:
            self._offsets.append(length)
            piece = detokenizer.push(token)
            length += len(piece)
            pieces.append(piece)
        pieces.append(detokenizer.finish())
        self.text = "".join(pieces)

    def scored(self, scores: Sequence[SampledToken]) -> tuple[ScoredToken, ...]:
        first = SampledToken(self._job.request.prompt[0])
        return tuple(
            score_token(self._job.text, sampled, offset)
            for sampled, offset in zip((first, *scores), self._offsets, strict=True)
        )


async def complete(backend: Backend, job: Job, timer: RequestTimer) -> AsyncGenerator[Delta, None]:
    """Deltas of one prompt, its usage last. Raises `ApiError`."""
    choices = _Choices(job)
    echo_due = job.echo
    usage = None
    try:
        async with _closing(backend.generate(job.request)) as events:
            async for event in events:
                if echo_due:
                    echo_due = False
                    scores = event.scores if isinstance(event, PromptScored) else ()
                    for delta in choices.echoed(scores):
                        yield delta
                match event:
                    case TokensEmitted():
                        timer.tokens_came(event.sequence + job.first_choice, len(event.tokens))
                        for delta in choices.emitted(event):
                            yield delta
                    case SequenceFinished():
                        for delta in choices.finished(event):
                            yield delta
                    case RequestFinished():
                        timer.prompt_finished(event)
                        usage = Usage(event.prompt_tokens, event.cached_tokens, event.output_tokens)
                    case PromptScored():
                        pass
    except GenerationRefused as refusal:
        raise from_refusal(refusal, ready=backend.ready()) from refusal
    if usage is None:
        raise ApiError(ErrorKind.FAILED, "The generation ended before it was complete.")
    yield usage


async def complete_all(
    backend: Backend, jobs: Sequence[Job], timer: RequestTimer
) -> AsyncGenerator[Delta, None]:
    """Deltas of several prompts as they come, the summed usage last. The first error ends them all."""
    if len(jobs) == 1:
        async with aclosing(complete(backend, jobs[0], timer)) as deltas:
            async for delta in deltas:
                yield delta
        return
    merged: asyncio.Queue[Delta | BaseException] = asyncio.Queue()
    places = asyncio.Semaphore(_PROMPTS_AT_ONCE)

    async def run(job: Job) -> None:
        try:
            async with places, aclosing(complete(backend, job, timer)) as deltas:
                async for delta in deltas:
                    merged.put_nowait(delta)
        except Exception as error:
            # Raised again by the reader below, in the task of the request.
            merged.put_nowait(error)

    tasks = [asyncio.create_task(run(job)) for job in jobs]
    usage, running = Usage(0, 0, 0), len(jobs)
    try:
        while running:
            item = await merged.get()
            if isinstance(item, BaseException):
                raise item
            if isinstance(item, Usage):
                usage, running = usage + item, running - 1
                continue
            yield item
        yield usage
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def echo_only(jobs: Sequence[Job]) -> AsyncGenerator[Delta, None]:
    """The prompts themselves as the answer, without a fleet: echo with no output and no scores."""
    tokens = 0
    for job in jobs:
        tokens += len(job.request.prompt)
        text = _Echo(job).text
        for sequence in range(job.request.sequences):
            yield TextDelta(job.first_choice + sequence, text, finish=FinishReason.LENGTH)
    yield Usage(tokens, 0, 0)


async def collect(deltas: AsyncGenerator[Delta, None], choices: int) -> tuple[list[WholeChoice], Usage]:
    """Every choice whole, and the usage. Raises `ApiError`."""
    whole = [WholeChoice() for _ in range(choices)]
    texts: list[list[str]] = [[] for _ in range(choices)]
    usage = Usage(0, 0, 0)
    async for delta in deltas:
        if isinstance(delta, Usage):
            usage = delta
            continue
        choice = whole[delta.choice]
        texts[delta.choice].append(delta.text)
        choice.scores.extend(delta.scores)
        if delta.finish is not None:
            choice.finish, choice.stop = delta.finish, delta.stop
    for choice, pieces in zip(whole, texts, strict=True):
        choice.text = "".join(pieces)
    return whole, usage
