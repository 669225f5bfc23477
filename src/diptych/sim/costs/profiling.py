"""Measures an engine through its interface, for the cost file. This is the one part of `sim/` that reads
a real clock: it runs before any simulation.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence

import msgspec
import numpy as np

from diptych.core.facts import OfferAnswered, PagesOffered
from diptych.engine.interface import Engine, PageTable, SampleRow, SamplingParameters, Span
from diptych.sim.costs.file import LinkCosts
from diptych.sim.costs.measured import MeasuredCosts, MixedPoint, fit_line
from diptych.sim.costs.model import DecodePoint, PromptPoint
from diptych.wire.frames import FrameBuffer
from diptych.wire.messages import Told, decode, encode

POOL_BYTES_MAX = 512 << 20
_ALIGNMENT = 4096


class Grid(msgspec.Struct, frozen=True, kw_only=True):
    """Which points are measured; those beyond the engine's limits or the pool are left out."""

    tokens: tuple[int, ...] = (1, 16, 64, 128, 256)
    """Of a prompt span."""
    contexts: tuple[int, ...] = (0, 256, 512, 1024)
    """Positions before the span; sequences that decode have at least one."""
    sequences: tuple[int, ...] = (1, 2, 4, 8, 16)
    mixed_tokens: int = 64
    rounds: int = 5
    """Each point is the median of so many."""
    point_s: float = 2.0
    """A point that has taken so long is not repeated any more."""


QUICK = Grid(tokens=(1, 64, 256), contexts=(0, 512), sequences=(1, 4), rounds=3, point_s=0.5)


class Bench:
    """An engine with a pool of its own: every sequence has its own pages, all of them written once."""

    def __init__(self, engine: Engine, grid: Grid) -> None:
        self.engine = engine
        self.grid = grid
        limits = engine.capabilities
        self.page_tokens = engine.kv_format.page_tokens
        reach = max(grid.contexts) + max(grid.tokens)
        self.context_max = min(reach, limits.context_tokens_max)
        self.pages_each = -(-(self.context_max + 1) // self.page_tokens)
        page_bytes = engine.kv_format.page_bytes
        wanted = max(grid.sequences) + 1
        self.places = max(1, min(wanted, POOL_BYTES_MAX // (self.pages_each * page_bytes)))
        pages = self.places * self.pages_each
        scratch = np.empty(pages * page_bytes + _ALIGNMENT, np.uint8)
        scratch.fill(0)
        start = -scratch.ctypes.data % _ALIGNMENT
        engine.attach_pool(scratch[start : start + pages * page_bytes].data, pages)
        self._numerics = limits.numerics[0]
        self._tokens = np.arange(self.context_max + 1, dtype=np.int32) % 200 + 1

    def measure(self, note: Callable[[str], None]) -> MeasuredCosts:
        """All points of the grid; `note` hears of each."""
        prompt, decoding, mixed = [], [], []
        for tokens, context in self._prompt_points():
            note(f"prompt of {tokens} tokens from {context} on")
            spans = [self._span(0, context, tokens)]
            prompt.append(PromptPoint(tokens, context, self._timed(spans, 0)))
        for sequences, context in self._decode_points():
            note(f"{sequences} sequences decode at {context}")
            spans = [self._span(place, context, 1) for place in range(sequences)]
            decoding.append(DecodePoint(sequences, context, self._timed(spans, sequences)))
        for sequences, context in self._decode_points():
            tokens = min(self.grid.mixed_tokens, self.engine.capabilities.step_tokens_max - sequences)
            room = sequences < min(self.places, self.engine.capabilities.step_spans_max)
            if room and tokens > 0 and context + tokens <= self.context_max:
                note(f"{sequences} sequences decode at {context} beside {tokens} prompt tokens")
                spans = [self._span(place, context, 1) for place in range(sequences)]
                spans.append(self._span(sequences, context, tokens))
                mixed.append(MixedPoint(tokens, sequences, context, self._timed(spans, sequences)))
        return MeasuredCosts(prompt=tuple(prompt), decode=tuple(decoding), mixed=tuple(mixed))

    def _prompt_points(self) -> Iterator[tuple[int, int]]:
        for tokens in self.grid.tokens:
            if tokens <= self.engine.capabilities.step_tokens_max:
                for context in self.grid.contexts:
                    if context + tokens <= self.context_max:
                        yield tokens, context

    def _decode_points(self) -> Iterator[tuple[int, int]]:
        for sequences in self.grid.sequences:
            if sequences <= min(self.places, self.engine.capabilities.step_spans_max):
                for context in self.grid.contexts:
                    yield sequences, max(1, min(context, self.context_max - 1))

    def _span(self, place: int, first: int, tokens: int) -> Span:
        count = -(-(first + tokens) // self.page_tokens)
        table: PageTable = np.arange(count, dtype=np.int32) + place * self.pages_each
        return Span(
            first_position=first,
            tokens=self._tokens[first : first + tokens],
            pages=table,
            numerics=self._numerics,
            logits_from=tokens - 1,
        )

    def _timed(self, spans: Sequence[Span], sampled: int) -> int:
        """Median ns of a step, with the first `sampled` rows sampled greedily."""
        engine, taken, begun = self.engine, [], time.monotonic()
        rows = []
        for row in range(sampled):
            emitted = np.empty(0, np.int32)
            sampler = engine.sampler(
                SamplingParameters(), choice=0, prompt=spans[row].tokens, emitted=emitted
            )
            rows.append((row, sampler))
        # The first step warms caches up and does not count.
        for turn in range(self.grid.rounds + 1):
            started_ns = time.monotonic_ns()
            result = engine.step(spans)
            if rows:
                engine.sample(result, [SampleRow(row, sampler, turn) for row, sampler in rows])
            taken.append(time.monotonic_ns() - started_ns)
            if turn and time.monotonic() - begun > self.grid.point_s:
                break
        counted = sorted(taken[1:])
        return max(1, counted[len(counted) // 2])


def measure_link(rounds: int = 200) -> LinkCosts:
    """What an offer of pages and its answer take between two processes of this machine, each way."""
    points = []
    for pages in (1, 64, 512):
        mine, theirs = socket.socketpair()
        child = os.fork()
        if not child:
            try:
                mine.close()
                _answer(theirs, rounds)
            finally:
                os._exit(0)
        theirs.close()
        with mine:
            points.append((float(pages), _round_trip_ns(mine, pages, rounds) / 2))
        os.waitpid(child, 0)
    latency_ns, page_ns = fit_line(points)
    return LinkCosts(latency_ns=round(latency_ns), page_ns=round(page_ns))


def _round_trip_ns(end: socket.socket, pages: int, rounds: int) -> float:
    offer = PagesOffered(request="r", attempt=1, sender="a@1", first_page=0, pages=tuple(range(pages)))
    reader, taken = FrameBuffer(), []
    for _ in range(rounds):
        started_ns = time.monotonic_ns()
        end.sendall(encode(Told(offer)))
        _receive(end, reader)
        taken.append(time.monotonic_ns() - started_ns)
    return sorted(taken)[rounds // 2]


def _answer(end: socket.socket, rounds: int) -> None:
    reader = FrameBuffer()
    for _ in range(rounds):
        offer = _receive(end, reader).fact
        assert isinstance(offer, PagesOffered)
        answer = OfferAnswered(
            request=offer.request,
            attempt=offer.attempt,
            sender="b@1",
            first_page=0,
            kept=offer.pages,
            deposit=offer.pages,
            serial=1,
        )
        end.sendall(encode(Told(answer)))


def _receive(end: socket.socket, reader: FrameBuffer) -> Told:
    while data := end.recv(1 << 16):
        for body in reader.receive(data):
            message = decode(body)
            assert isinstance(message, Told)
            return message
    raise OSError("the other end of the measured socket is gone")
