"""A stepper over the scripted engine, and what its door was sent. No tests of its own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from diptych.core.actions import PromptSpan, RunSteps, TablePart
from diptych.core.facts import SequenceStart, StepsRan, TargetRequested
from diptych.core.ids import SHARED
from diptych.core.recipe import OPEN_END, Recipe, join
from diptych.engine.interface import SampledToken, SamplingParameters, Span
from diptych.engine.scripted import ScriptedEngine
from diptych.live.steploop.stepper import Stepper
from diptych.live.steploop.stream import Stream
from diptych.wire.frames import PauseFrame, ScoresFrame, StreamFrame, TokensFrame
from diptych.wire.hashing import chain_root, page_hashes
from diptych.wire.messages import Message, Streamed
from diptych.wire.payload import PromptPayload, pack_tokens

PAGE = 4
POOL_PAGES = 400
NUMERICS = ("a", "b")
PROMPT = tuple(b"it was a dark night")
"""19 tokens: four shared pages and a tail of three."""
ROOT = chain_root("scripted")
ALL_A: Recipe = join(("a", OPEN_END))


def token_bytes(token: int) -> bytes:
    return bytes((token,)) if token < 256 else b""


def engine(**options: Any) -> ScriptedEngine:
    made = ScriptedEngine(numerics=NUMERICS, page_tokens=PAGE, **options)
    made.attach_pool(memoryview(bytearray(POOL_PAGES * made.kv_format.page_bytes)), POOL_PAGES)
    return made


class RecordingEngine:
    """The spans of every step that went to the engine behind it."""

    def __init__(self, inner: ScriptedEngine) -> None:
        self.inner = inner
        self.steps: list[list[Span]] = []

    def step(self, spans: Sequence[Span]) -> Any:
        self.steps.append(list(spans))
        return self.inner.step(spans)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class FakeDoor:
    def __init__(self) -> None:
        self.messages: list[tuple[StreamFrame, ...]] = []

    def send(self, message: Message) -> None:
        assert isinstance(message, Streamed)
        self.messages.append(message.frames)

    @property
    def frames(self) -> list[StreamFrame]:
        return [frame for frames in self.messages for frame in frames]

    def tokens(self, request: str, sequence: int = 0, attempt: int = 1) -> list[int]:
        """Checks on the way that indexes follow each other."""
        frames = [
            frame
            for frame in self.frames
            if isinstance(frame, TokensFrame)
            and (frame.request, frame.sequence, frame.attempt) == (request, sequence, attempt)
        ]
        next_index = frames[0].first_index if frames else 0
        tokens: list[int] = []
        for frame in frames:
            assert frame.first_index == next_index
            next_index += len(frame.tokens)
            tokens += frame.tokens
        assert all(frame.finish is None for frame in frames[:-1])
        return tokens

    def finish(self, request: str, sequence: int = 0) -> TokensFrame:
        (frame,) = (
            frame
            for frame in self.frames
            if isinstance(frame, TokensFrame)
            and (frame.request, frame.sequence) == (request, sequence)
            and frame.finish
        )
        return frame

    def scores(self) -> dict[int, SampledToken]:
        result: dict[int, SampledToken] = {}
        for frame in self.frames:
            if isinstance(frame, ScoresFrame):
                for offset, score in enumerate(frame.sampled()):
                    assert frame.first_index + offset not in result, "scored twice"
                    result[frame.first_index + offset] = score
        return result

    def pauses(self) -> list[PauseFrame]:
        return [frame for frame in self.frames if isinstance(frame, PauseFrame)]


def request_facts(
    request: str = "r",
    *,
    prompt: Iterable[int] = PROMPT,
    tokens_max: int = 8,
    attempt: int = 1,
    emitted: tuple[tuple[int, ...], ...] | None = None,
    sequences: int = 1,
    **payload: Any,
) -> tuple[TargetRequested, PromptPayload]:
    tokens = tuple(prompt)
    known = emitted or ((),) * sequences
    fact = TargetRequested(
        request=request,
        attempt=attempt,
        door="door-0",
        model="scripted",
        prompt_tokens=len(tokens),
        page_hashes=page_hashes(ROOT, tokens[:-1], PAGE),
        starts=tuple(SequenceStart(index, len(known[index])) for index in range(sequences)),
        tokens_max=tokens_max,
    )
    return fact, PromptPayload(
        prompt=pack_tokens(tokens),
        chain_root=ROOT,
        sequences=sequences,
        emitted=tuple(map(pack_tokens, known)) if emitted else (),
        **payload,
    )


class Bench:
    """A stepper, its door, and the pages that a worker would hand out."""

    def __init__(self, inner: ScriptedEngine | None = None) -> None:
        self.engine = RecordingEngine(inner or engine())
        self.stepper = Stepper(self.engine, token_bytes)  # type: ignore[arg-type]
        self.door = FakeDoor()
        self.free = list(np.random.default_rng(5).permutation(POOL_PAGES).tolist())
        self.runs = 0
        self.context_tokens_max = 8192

    def open(
        self, request: str = "r", *, recipe: Recipe = ALL_A, source: bool = False, **options: Any
    ) -> Stream:
        fact, payload = request_facts(request, **options)
        door = None if source else self.door
        stream = Stream(
            fact, payload, recipe, door, page_tokens=PAGE, context_tokens_max=self.context_tokens_max
        )
        self.stepper.open(stream)
        return stream

    def tables(self, stream: Stream, tokens_ahead: int = 40) -> tuple[TablePart, ...]:
        """The shared table, and a complete one for each sequence."""
        border = (stream.prompt_tokens - 1) // PAGE
        shared = self._take(border)
        parts = [TablePart(*stream.key, SHARED, 0, shared)]
        for index, track in stream.tracks.items():
            if index != SHARED:
                private = self._take(-(-(track.count + tokens_ahead) // PAGE) - border)
                parts.append(TablePart(*stream.key, index, 0, shared + private))
        return tuple(parts)

    def _take(self, count: int) -> tuple[int, ...]:
        return tuple(self.free.pop() for _ in range(count))

    def run(
        self,
        *prompts: PromptSpan,
        tables: tuple[TablePart, ...] = (),
        steps_max: int = 1,
        ended: Any = lambda: False,
    ) -> StepsRan:
        self.runs += 1
        action = RunSteps(run=self.runs, steps_max=steps_max, prompts=prompts, tables=tables, predicted_ns=0)
        ran = self.stepper.run(action, ended)
        assert ran.run == self.runs
        return ran

    def start(self, stream: Stream, steps_max: int = 1) -> StepsRan:
        """The whole prompt and the sequences' first tokens in one step."""
        return self.run(*spans(stream), tables=self.tables(stream), steps_max=steps_max)

    def play(self, stream: Stream, steps_max: int = 1) -> list[StepsRan]:
        """From the prompt to the end of all its sequences."""
        runs = [self.start(stream, steps_max)]
        expected = sum(index != SHARED for index in stream.tracks)
        while sum(len(ran.finished) for ran in runs) < expected:
            runs.append(self.run(steps_max=steps_max))
        return runs


def spans(stream: Stream, numerics: str = "a", logits_from: int | None = None) -> list[PromptSpan]:
    """The shared part, then each sequence's tail up to its last known token."""
    border = (stream.prompt_tokens - 1) // PAGE * PAGE
    result = []
    if border:
        result.append(PromptSpan(*stream.key, SHARED, 0, border, numerics, False, logits_from))
    for index, track in stream.tracks.items():
        if index != SHARED:
            first = border
            result.append(
                PromptSpan(*stream.key, index, first, track.count - first, numerics, True, logits_from)
            )
    return result


def alone(tokens: int = 8, sampling: SamplingParameters | None = None, **options: Any) -> list[int]:
    """What a request gives on a fresh bench with nobody beside it."""
    bench = Bench()
    stream = bench.open(tokens_max=tokens, sampling=sampling or SamplingParameters(), **options)
    bench.play(stream)
    return bench.door.tokens("r")
