"""Measures an engine for the cost file, at the place where a worker's machine sees it: the step loop that
serves, with the engine, its sampling and the frames to a door's socket. This room's modules that measure
are the one part of `sim/` that reads a real clock: they run before any simulation.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence

import msgspec
import numpy as np

from diptych.core.actions import PromptSpan, RunSteps, TablePart
from diptych.core.facts import SequenceStart, TargetRequested
from diptych.core.ids import Pages
from diptych.core.recipe import OPEN_END, join
from diptych.engine.interface import Engine
from diptych.live.pool import create_pool
from diptych.live.steploop.stepper import Stepper
from diptych.live.steploop.stream import Stream
from diptych.sim.costs.measured import MeasuredCosts, MixedPoint
from diptych.sim.costs.model import DecodePoint, PromptPoint
from diptych.transport.shared_memory import map_pool
from diptych.wire.messages import Message, encode
from diptych.wire.payload import PromptPayload, pack_tokens

POOL_BYTES_MAX = 768 << 20
_LONG_ANSWER = 1 << 16
"""Tokens that no measured sequence gets to."""


class Grid(msgspec.Struct, frozen=True, kw_only=True):
    """Which points are measured; those beyond the engine's limits or the pool are left out."""

    tokens: tuple[int, ...] = (1, 4, 8, 16, 64, 128, 256, 512)
    """Of a prompt span."""
    contexts: tuple[int, ...] = (0, 256, 1024)
    """Positions before the span; sequences that decode have at least one."""
    sequences: tuple[int, ...] = (1, 2, 4, 5, 8, 12, 16)
    mixed_tokens: tuple[int, ...] = (16, 64)
    """Beside every second number of sequences, at the first two contexts."""
    rounds: int = 5
    """Each point is the median of so many."""
    sweeps: int = 2
    """The whole grid is measured so often, and the shortest of each point kept: what disturbs the machine
    for a second must not make one point of a table slow."""
    point_s: float = 0.5
    """A point that has taken so long is not repeated any more."""


QUICK = Grid(
    tokens=(1, 4, 16, 64, 256),
    contexts=(0, 512),
    sequences=(1, 4, 5, 8, 12),
    mixed_tokens=(16,),
    rounds=3,
    point_s=0.2,
)


class MeasuredDoor:
    """Where frames go while an engine is measured: a process that reads them, as a door does."""

    def __init__(self) -> None:
        """Forks: to be made before this process has threads."""
        self._ours, theirs = socket.socketpair()
        self._reader = os.fork()
        if not self._reader:
            try:
                self._ours.close()
                while theirs.recv(1 << 16):
                    pass
            finally:
                os._exit(0)
        theirs.close()

    def send(self, message: Message) -> None:
        self._ours.sendall(encode(message))

    def close(self) -> None:
        self._ours.close()
        os.waitpid(self._reader, 0)


class Bench:
    """An engine in a step loop with a pool of its own: every sequence has its own pages."""

    def __init__(self, engine: Engine, grid: Grid, door: MeasuredDoor) -> None:
        self.engine = engine
        self.grid = grid
        limits = engine.capabilities
        self.page_tokens = engine.kv_format.page_tokens
        reach = max(grid.contexts) + max(grid.tokens)
        self.context_max = min(reach, limits.context_tokens_max)
        self.pages_each = -(-(self.context_max + grid.rounds + 2) // self.page_tokens)
        page_bytes = engine.kv_format.page_bytes
        wanted = max(grid.sequences) + 1
        self.places = max(1, min(wanted, POOL_BYTES_MAX // (self.pages_each * page_bytes)))
        pages = self.places * self.pages_each
        descriptor = create_pool(pages * page_bytes)
        engine.attach_pool(map_pool(descriptor, pages * page_bytes).memory, pages)
        os.close(descriptor)
        self._numerics = limits.numerics[0]
        self._stepper = Stepper(engine, lambda token: b"")
        self._door = door
        self._streams = 0
        self._runs = 0

    def measure(self, note: Callable[[str], None]) -> MeasuredCosts:
        """All points of the grid; `note` hears of each."""
        return shortest([self._sweep(note) for _ in range(self.grid.sweeps)])

    def _sweep(self, note: Callable[[str], None]) -> MeasuredCosts:
        prompt, decoding, mixed = [], [], []
        for tokens, context in self._prompt_points():
            note(f"prompt of {tokens} tokens from {context} on")
            prompt.append(PromptPoint(tokens, context, self.prompt_ns(tokens, context)))
        note("the first token behind a prompt")
        sample_ns = self._first_token_ns()
        for sequences, context in self._decode_points(self.grid.sequences, self.grid.contexts):
            note(f"{sequences} sequences decode at {context}")
            decoding.append(DecodePoint(sequences, context, self.decode_ns(sequences, context)))
        for sequences, context in self._decode_points(self.grid.sequences[::2], self.grid.contexts[:2]):
            for tokens in self.grid.mixed_tokens:
                room = sequences < min(self.places, self.engine.capabilities.step_spans_max)
                room &= tokens + sequences <= self.engine.capabilities.step_tokens_max
                if room and context + tokens <= self.context_max:
                    note(f"{sequences} sequences decode at {context} beside {tokens} prompt tokens")
                    took_ns = self.decode_ns(sequences, context, beside=tokens)
                    mixed.append(MixedPoint(tokens, sequences, context, took_ns))
        return MeasuredCosts(
            prompt=tuple(prompt), decode=tuple(decoding), mixed=tuple(mixed), sample_ns=sample_ns
        )

    def prompt_ns(self, tokens: int, context: int, *, sample: bool = False) -> int:
        """A step of one prompt span at positions [context, context + tokens), computed again and again."""
        if not sample:
            span, table = self._open(0, context, tokens, sample=False)
            took_ns = self._median([(span,)] * self.grid.rounds, table)
            self._drop(span)
            return took_ns
        taken = []
        for _ in range(self.grid.rounds):
            span, table = self._open(0, context, tokens, sample=True)
            taken.append(self._run((span,), (table,)))
            self._drop(span)
        return sorted(taken)[len(taken) // 2]

    def decode_ns(self, sequences: int, context: int, *, beside: int = 0) -> int:
        """A step of one token for each of `sequences` that know `context` tokens, `beside` so many prompt
        tokens of another request."""
        opened = [self._open(place, context - 1, 1, sample=True) for place in range(sequences)]
        self._run(tuple(span for span, _ in opened), tuple(table for _, table in opened))
        if not beside:
            took_ns = self._median([()] * self.grid.rounds)
        else:
            span, table = self._open(sequences, context, beside, sample=False)
            opened.append((span, table))
            took_ns = self._median([(span,)] * self.grid.rounds, table)
        for span, _ in opened:
            self._drop(span)
        return took_ns

    def _first_token_ns(self) -> int:
        """What the logits and the sampling of a first token add to a step of prompt tokens."""
        tokens = min(self.page_tokens, self.engine.capabilities.step_tokens_max)
        return max(0, self.prompt_ns(tokens, 0, sample=True) - self.prompt_ns(tokens, 0))

    def _prompt_points(self) -> Iterator[tuple[int, int]]:
        for tokens in self.grid.tokens:
            if tokens <= self.engine.capabilities.step_tokens_max:
                for context in self.grid.contexts:
                    if context + tokens <= self.context_max:
                        yield tokens, context

    def _decode_points(self, counts: tuple[int, ...], contexts: tuple[int, ...]) -> Iterator[tuple[int, int]]:
        for sequences in counts:
            if sequences <= min(self.places, self.engine.capabilities.step_spans_max):
                for context in contexts:
                    last = self.context_max - self.grid.rounds - 2
                    yield sequences, max(1, min(context, last))

    # ---- the step loop ------------------------------------------------------------------------------

    def _open(self, place: int, context: int, tokens: int, *, sample: bool) -> tuple[PromptSpan, TablePart]:
        """A stream in its own pages, of which only the span's tokens will be computed."""
        self._streams += 1
        known = np.arange(context + tokens, dtype=np.int32) % 200 + 1
        fact = TargetRequested(
            request=f"r{self._streams}",
            attempt=1,
            door="door-0@1",
            model="profile",
            prompt_tokens=len(known),
            page_hashes=(),
            starts=(SequenceStart(0, 0),),
            tokens_max=_LONG_ANSWER,
        )
        stream = Stream(
            fact,
            PromptPayload(prompt=pack_tokens(known), chain_root=bytes(16)),
            join((self._numerics, OPEN_END)),
            self._door,
            page_tokens=self.page_tokens,
            context_tokens_max=self.engine.capabilities.context_tokens_max,
        )
        self._stepper.open(stream)
        first = place * self.pages_each
        pages: Pages = tuple(range(first, first + self.pages_each))
        span = PromptSpan(*stream.key, 0, context, tokens, self._numerics, sample)
        return span, TablePart(*stream.key, 0, 0, pages)

    def _run(self, prompts: tuple[PromptSpan, ...], tables: tuple[TablePart, ...] = ()) -> int:
        self._runs += 1
        run = RunSteps(run=self._runs, steps_max=1, prompts=prompts, tables=tables, predicted_ns=0)
        return self._stepper.run(run, lambda: False).duration_ns

    def _median(self, rounds: Sequence[tuple[PromptSpan, ...]], *tables: TablePart) -> int:
        """Median ns of a step; a first one warms caches up and does not count."""
        begun = time.monotonic()
        self._run(rounds[0], tables)
        taken = []
        for prompts in rounds:
            taken.append(self._run(prompts))
            if time.monotonic() - begun > self.grid.point_s:
                break
        return max(1, sorted(taken)[len(taken) // 2])

    def _drop(self, span: PromptSpan) -> None:
        self._stepper.drop((span.request, span.attempt))


def shortest(sweeps: Sequence[MeasuredCosts]) -> MeasuredCosts:
    """Of each point, over sweeps of one grid."""
    return MeasuredCosts(
        prompt=tuple(min(points, key=_ns) for points in zip(*(s.prompt for s in sweeps), strict=True)),
        decode=tuple(min(points, key=_ns) for points in zip(*(s.decode for s in sweeps), strict=True)),
        mixed=tuple(min(points, key=_ns) for points in zip(*(s.mixed for s in sweeps), strict=True)),
        sample_ns=min(sweep.sample_ns for sweep in sweeps),
    )


def _ns(point: PromptPoint | DecodePoint | MixedPoint) -> int:
    return point.ns
