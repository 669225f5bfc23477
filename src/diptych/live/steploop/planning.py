"""Which spans of a step go to the engine together.

An engine computes the spans of one call side by side, so none of them may read a page that another one
writes. A span that needs pages of an earlier one is joined to it where the two are one run of positions
(the prompt's shared part and the tail of its only sequence), else it waits for the next call.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from diptych.core.actions import PromptSpan
from diptych.engine.interface import Capabilities, Span
from diptych.live.steploop.stream import Stream, StreamKey, Track, WrongOrder

__all__ = ["Piece", "calls", "prompt_pieces"]


class Piece:
    """Positions [first, end) of one track: a prompt span or one decoded token."""

    __slots__ = ("end", "first", "logits_from", "numerics", "sample", "track")

    def __init__(
        self, track: Track, first: int, end: int, numerics: str, sample: bool, logits_from: int | None = None
    ) -> None:
        self.track = track
        self.first = first
        self.end = end
        self.numerics = numerics
        self.sample = sample
        self.logits_from = logits_from
        """Position from which on rows are scored."""

    def span(self, keeps_from: int | None) -> Span:
        """For the engine; `keeps_from`: position of the first row that is kept."""
        return Span(
            first_position=self.first,
            tokens=self.track.known[self.first : self.end],
            pages=self.track.pages(self.end),
            numerics=self.numerics,
            logits_from=None if keeps_from is None else keeps_from - self.first,
        )

    def meets(self, other: Piece) -> bool:
        """One of the two writes a page that is in the other's table."""
        mine, others = self._written(), other._written()
        return not (
            mine.isdisjoint(other.track.pages(other.end).tolist())
            and others.isdisjoint(self.track.pages(self.end).tolist())
        )

    def _written(self) -> frozenset[int]:
        page_tokens = self.track.stream.page_tokens
        return frozenset(self.track.pages(self.end)[self.first // page_tokens :].tolist())

    def joined(self, following: Piece) -> Piece | None:
        """One piece for both, where `following` goes on where this one ends, in the same pages."""
        same_stream = following.track.stream is self.track.stream
        if not same_stream or self.sample or following.first != self.end:
            return None
        if following.numerics != self.numerics:
            return None
        mine = self.track.pages(self.end)
        if not np.array_equal(mine, following.track.pages(following.end)[: len(mine)]):
            return None
        logits_from = self.logits_from if self.logits_from is not None else following.logits_from
        return Piece(following.track, self.first, following.end, self.numerics, following.sample, logits_from)


def prompt_pieces(spans: Iterable[PromptSpan], streams: dict[StreamKey, Stream]) -> list[Piece]:
    """Raises `WrongOrder` for a span beyond what is known of its sequence."""
    pieces: list[Piece] = []
    for span in spans:
        stream = streams.get((span.request, span.attempt))
        track = stream.tracks.get(span.sequence) if stream else None
        if track is None:
            raise WrongOrder(f"{span}: no such sequence here")
        end = span.first + span.count
        if span.count < 1 or end > track.count or (span.sample and end != track.count):
            raise WrongOrder(f"{span}: {track.count} tokens are known")
        piece = Piece(track, span.first, end, span.numerics, span.sample, span.logits_from)
        joined = pieces[-1].joined(piece) if pieces else None
        if joined is not None:
            pieces[-1] = joined
        else:
            pieces.append(piece)
    return pieces


def calls(pieces: Sequence[Piece], limits: Capabilities) -> list[list[Piece]]:
    """The pieces in order, cut into calls that keep the engine's limits and in which no piece reads what
    another writes. A piece longer than a whole call is cut."""
    result: list[list[Piece]] = []
    call: list[Piece] = []
    streams: dict[StreamKey, list[Piece]] = {}
    tokens = 0
    for piece in _within(pieces, limits.step_tokens_max):
        size = piece.end - piece.first
        key = piece.track.stream.key
        full = len(call) == limits.step_spans_max or tokens + size > limits.step_tokens_max
        # A page that is being written is known to its own stream only.
        if call and (full or any(map(piece.meets, streams.get(key, ())))):
            result.append(call)
            call, streams, tokens = [], {}, 0
        call.append(piece)
        streams.setdefault(key, []).append(piece)
        tokens += size
    if call:
        result.append(call)
    return result


def _within(pieces: Iterable[Piece], tokens_max: int) -> Iterable[Piece]:
    for piece in pieces:
        first = piece.first
        while piece.end - first > tokens_max:
            yield Piece(piece.track, first, first + tokens_max, piece.numerics, False, piece.logits_from)
            first += tokens_max
        if first == piece.first:
            yield piece
        else:
            yield Piece(piece.track, first, piece.end, piece.numerics, piece.sample, piece.logits_from)
