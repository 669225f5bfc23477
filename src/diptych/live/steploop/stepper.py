"""One run after another: builds the engine's steps, takes its tokens, streams them, finds finishes.

Knows nothing of threads, sockets or the machine that asks. What it costs is paid with every token, so
the usual step (one token for each sequence) has a path of its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from diptych.core.actions import RunSteps
from diptych.core.facts import SequenceFinish, StepsRan
from diptych.engine.interface import Engine, SampledToken, SampleRow, Span, StepResult
from diptych.live.steploop.planning import Piece, calls, prompt_pieces
from diptych.live.steploop.stopping import ByteStops
from diptych.live.steploop.stream import Door, Stream, StreamKey, Track, WrongOrder
from diptych.wire.frames import PauseFrame, ScoresFrame, StreamFrame, TokensFrame
from diptych.wire.messages import Streamed

__all__ = ["Stepper"]


class Stepper:
    """Runs steps of one engine for all streams of a worker. Of one thread."""

    def __init__(
        self,
        engine: Engine,
        token_bytes: Callable[[int], bytes],
        *,
        clock_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        """`token_bytes`: what a token adds to the text, for stop strings."""
        self._engine = engine
        self._limits = engine.capabilities
        self._token_bytes = token_bytes
        self._clock_ns = clock_ns
        self._streams: dict[StreamKey, Stream] = {}
        self._decoding: list[Track] = []
        self._frames: dict[Door, list[StreamFrame]] = {}
        self._finished: list[SequenceFinish] = []

    def open(self, stream: Stream) -> None:
        self._streams[stream.key] = stream

    def drop(self, key: StreamKey) -> None:
        """Forgets the stream; no-op where it is not known."""
        stream = self._streams.pop(key, None)
        if stream is not None:
            self._decoding = [track for track in self._decoding if track.stream is not stream]

    def pause(self, key: StreamKey) -> None:
        """Tells the stream's door, behind its tokens, that it stops here."""
        stream = self._streams.get(key)
        if stream is not None:
            self._post(stream, PauseFrame(*key))
            self._flush()

    def run(self, action: RunSteps, ended: Callable[[], bool]) -> StepsRan:
        """Runs `action` to its end; `ended` is asked at every step border. Raises `WrongOrder` for a run
        that cannot be, and whatever the engine raises."""
        started_ns = self._clock_ns()
        for part in action.tables:
            stream = self._streams.get((part.request, part.attempt))
            track = stream.tracks.get(part.sequence) if stream else None
            if track is None:
                raise WrongOrder(f"{part}: no such sequence here")
            track.set_table(part.start, part.pages)
        if action.prompts:
            self._mixed_step(action)
        elif self._decoding:
            self._decode_step()
        else:
            raise WrongOrder(f"run {action.run} has nothing to do")
        steps = 1
        while steps < action.steps_max and self._decoding and not self._finished and not ended():
            self._decode_step()
            steps += 1
        finished, self._finished = tuple(self._finished), []
        duration_ns = self._clock_ns() - started_ns
        return StepsRan(run=action.run, steps=steps, duration_ns=duration_ns, finished=finished)

    # ---- steps --------------------------------------------------------------------------------------

    def _decode_step(self) -> None:
        """One token for every decoding sequence."""
        tracks = self._decoding
        if len(tracks) > min(self._limits.step_spans_max, self._limits.step_tokens_max):
            self._call_all(self._decode_pieces())
            self._end_step()
            return
        spans: list[Span] = []
        rows: list[SampleRow] = []
        for row, track in enumerate(tracks):
            end = track.count
            position = end - 1
            span = Span(
                first_position=position,
                tokens=track.known[position:end],
                pages=track.pages(end),
                numerics=track.numerics(position),
                logits_from=0,
            )
            spans.append(span)
            rows.append(SampleRow(row, track.sampler, track.emitted))
        sampled = self._engine.sample(self._engine.step(spans), rows)
        for track, token in zip(tracks, sampled, strict=True):
            self._take(track, token)
        self._end_step()

    def _mixed_step(self, action: RunSteps) -> None:
        """The prompt spans of a run's first step beside one token for every sequence that decodes."""
        pieces = prompt_pieces(action.prompts, self._streams)
        starting = [piece.track for piece in pieces if piece.sample]
        self._call_all([*self._decode_pieces(), *pieces])
        self._decoding += starting
        self._end_step()

    def _decode_pieces(self) -> list[Piece]:
        return [
            Piece(track, track.count - 1, track.count, track.numerics(track.count - 1), True)
            for track in self._decoding
        ]

    def _call_all(self, pieces: Sequence[Piece]) -> None:
        for call in calls(pieces, self._limits):
            self._call(call)

    def _call(self, call: Sequence[Piece]) -> None:
        spans: list[Span] = []
        rows: list[SampleRow] = []
        sampling: list[Track] = []
        complete: list[Track] = []
        scoring: list[tuple[Stream, int, int, int]] = []
        kept = 0
        for piece in call:
            track = piece.track
            stream = track.stream
            samples = piece.sample and track.emitted < stream.emitted_max
            keeps_from = piece.end - 1 if samples else None
            first, end = _scored_range(piece)
            if first < end:
                keeps_from = first
                scoring.append((stream, kept, first, end))
                stream.scored = end
            spans.append(piece.span(keeps_from))
            kept += 0 if keeps_from is None else piece.end - keeps_from
            if samples:
                self._prepare(track)
                rows.append(SampleRow(kept - 1, track.sampler, track.emitted))
                sampling.append(track)
            elif piece.sample:
                complete.append(track)
        result = self._engine.step(spans)
        for stream, row, first, end in scoring:
            self._score(result, stream, row, first, end)
        if rows:
            for track, token in zip(sampling, self._engine.sample(result, rows), strict=True):
                self._take(track, token)
        for track in complete:
            self._finish(track, track.stream.length_reason, b"")

    def _prepare(self, track: Track) -> None:
        """Sampling state for a sequence that gets its first token here."""
        if track.sampler is not None:
            return
        stream = track.stream
        payload = stream.payload
        emitted = track.known[stream.prompt_tokens : track.count]
        track.sampler = self._engine.sampler(
            payload.sampling, choice=track.index, prompt=stream.prompt, emitted=emitted
        )
        if payload.stop:
            track.stops = ByteStops(payload.stop, self._token_bytes, emitted.tolist())

    # ---- results --------------------------------------------------------------------------------------

    def _take(self, track: Track, sampled: SampledToken) -> None:
        """One output token: kept, tested for a finish, posted to the door."""
        stream = track.stream
        token = sampled.token
        index = track.emitted
        track.append(token)
        stop = track.stops.push(token) if track.stops is not None else None
        if token in stream.stop_tokens:
            self._finish(track, "stop_token", b"", index, sampled)
        elif stop is not None:
            self._finish(track, "stop_string", stop, index, sampled)
        elif track.emitted >= stream.emitted_max:
            self._finish(track, stream.length_reason, b"", index, sampled)
        else:
            self._post(stream, _tokens_frame(track, index, sampled, None, ""))

    def _finish(
        self, track: Track, reason: str, stop: bytes, index: int = 0, sampled: SampledToken | None = None
    ) -> None:
        stream = track.stream
        detail = stop.decode(errors="replace")
        if sampled is None:
            frame = TokensFrame(*stream.key, track.index, track.emitted, (), reason, detail)
        else:
            frame = _tokens_frame(track, index, sampled, reason, detail)
        self._post(stream, frame)
        self._finished.append(
            SequenceFinish(*stream.key, track.index, reason, track.emitted, track.private_hashes())
        )

    def _score(self, result: StepResult, stream: Stream, row: int, first: int, end: int) -> None:
        """Rows of positions [first, end) scored against the tokens that follow them."""
        targets = stream.prompt[first + 1 : end + 1]
        top = stream.payload.sampling.logprobs or 0
        scores = self._engine.score(result, row, targets, top)
        frame = ScoresFrame(
            *stream.key,
            first + 1,
            tuple(score.token for score in scores),
            tuple(score.logprob for score in scores),
            tuple(score.top for score in scores),
        )
        self._post(stream, frame)

    def _post(self, stream: Stream, frame: StreamFrame) -> None:
        if stream.door is not None:
            self._frames.setdefault(stream.door, []).append(frame)

    def _end_step(self) -> None:
        if self._finished:
            ended = {(finish.request, finish.attempt, finish.sequence) for finish in self._finished}
            self._decoding = [t for t in self._decoding if (*t.stream.key, t.index) not in ended]
        self._flush()

    def _flush(self) -> None:
        """One message to each door that the step has something for."""
        for door, frames in self._frames.items():
            door.send(Streamed(tuple(frames)))
        self._frames.clear()


def _scored_range(piece: Piece) -> tuple[int, int]:
    """Positions of a piece whose rows are to be scored: those that a prompt token follows."""
    stream = piece.track.stream
    if piece.logits_from is None or not stream.payload.score_prompt:
        return 0, 0
    return max(piece.first, piece.logits_from, stream.scored), min(piece.end, stream.prompt_tokens - 1)


def _tokens_frame(
    track: Track, index: int, sampled: SampledToken, finish: str | None, detail: str
) -> TokensFrame:
    stream = track.stream
    if stream.payload.sampling.logprobs is None:
        return TokensFrame(
            stream.request, stream.attempt, track.index, index, (sampled.token,), finish, detail
        )
    return TokensFrame(
        stream.request,
        stream.attempt,
        track.index,
        index,
        (sampled.token,),
        finish,
        detail,
        (sampled.logprob,),
        (sampled.top,),
    )
