"""What the step loop keeps of one attempt of a request: its tokens, page tables and samplers."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from diptych.core.errors import DiptychError
from diptych.core.facts import PrefillRequested, TargetRequested
from diptych.core.ids import SHARED, Attempt, PageHash, Pages, RequestId
from diptych.core.recipe import Recipe, numerics_at, run_end
from diptych.live.steploop.stopping import ByteStops
from diptych.wire.hashing import page_hashes, shared_pages
from diptych.wire.messages import Message
from diptych.wire.payload import PromptPayload, unpack_tokens

__all__ = ["Door", "Stream", "StreamKey", "Track", "WrongOrder"]

StreamKey = tuple[RequestId, Attempt]


class WrongOrder(DiptychError):
    """The machine asked for a step that cannot be: our bug, and the end of this process."""


class Door(Protocol):
    """Where frames go; a connection to a door. Called from the engine's thread, and must not wait."""

    def send(self, message: Message) -> None: ...


class Track:
    """Tokens and page table of one sequence, or of the prompt part that a request's sequences share."""

    __slots__ = (
        "_numerics",
        "_numerics_end",
        "_pages",
        "_pages_end",
        "_table",
        "_table_pages",
        "count",
        "emitted",
        "index",
        "known",
        "sampler",
        "stops",
        "stream",
    )

    def __init__(self, stream: Stream, index: int, emitted: npt.NDArray[np.int32], capacity: int) -> None:
        """`capacity`: tokens that it may come to hold."""
        self.stream = stream
        self.index = index
        self.emitted = len(emitted)
        """Output tokens so far, those of earlier attempts included."""
        self.count = stream.prompt_tokens + self.emitted
        """Tokens known; the KV of the last one is computed with the next step."""
        self.known = np.empty(max(capacity, self.count), np.int32)
        self.known[: stream.prompt_tokens] = stream.prompt
        self.known[stream.prompt_tokens : self.count] = emitted
        self.sampler: Any = None
        self.stops: ByteStops | None = None
        self._table = np.zeros(-(-len(self.known) // stream.page_tokens), np.int32)
        self._table_pages = 0
        self._pages = self._table[:0]
        self._pages_end = 0
        self._numerics = ""
        self._numerics_end = 0

    def set_table(self, start: int, pages: Pages) -> None:
        """From logical page `start` on, the pages are `pages`."""
        end = start + len(pages)
        if start > self._table_pages:
            raise WrongOrder(f"{self}: table part at page {start}, {self._table_pages} pages are known")
        if end > len(self._table):
            grown = np.zeros(end, np.int32)
            grown[: self._table_pages] = self._table[: self._table_pages]
            self._table = grown
        self._table[start:end] = pages
        self._table_pages = end
        self._pages_end = 0

    def pages(self, end: int) -> npt.NDArray[np.int32]:
        """int32 [ceil(end / page_tokens)]: the pages of positions [0, end)."""
        if end > self._pages_end or end <= self._pages_end - self.stream.page_tokens:
            count = -(-end // self.stream.page_tokens)
            if count > self._table_pages:
                raise WrongOrder(f"{self}: position {end - 1} is past its {self._table_pages} pages")
            self._pages = self._table[:count]
            self._pages_end = count * self.stream.page_tokens
        return self._pages

    def numerics(self, position: int) -> str:
        """What the recipe says of a position that is decoded; positions only grow."""
        if position >= self._numerics_end:
            self._numerics = numerics_at(self.stream.recipe, position)
            self._numerics_end = run_end(self.stream.recipe, position)
        return self._numerics

    def append(self, token: int) -> None:
        self.known[self.count] = token
        self.count += 1
        self.emitted += 1

    def private_hashes(self) -> tuple[PageHash, ...]:
        """Of the full pages after the shared ones, as far as their KV is computed."""
        stream = self.stream
        first = shared_pages(stream.prompt_tokens, stream.page_tokens) * stream.page_tokens
        return page_hashes(stream.last_shared_hash, self.known[first : self.count - 1], stream.page_tokens)

    def __str__(self) -> str:
        return f"{self.stream.request} attempt {self.stream.attempt} sequence {self.index}"


class Stream:
    """One attempt: as the target of its sequences, or as the source of the prompt's pages."""

    def __init__(
        self,
        fact: TargetRequested | PrefillRequested,
        payload: PromptPayload,
        recipe: Recipe,
        door: Door | None,
        *,
        page_tokens: int,
        context_tokens_max: int,
    ) -> None:
        self.request = fact.request
        self.attempt = fact.attempt
        self.payload = payload
        self.recipe = recipe
        self.door = door
        self.page_tokens = page_tokens
        self.prompt = unpack_tokens(payload.prompt)
        self.prompt_tokens = len(self.prompt)
        self.stop_tokens = frozenset(payload.stop_tokens)
        self.last_shared_hash = fact.page_hashes[-1] if fact.page_hashes else payload.chain_root
        self.emitted_max = 0
        self.length_reason = "length"
        self.scored = 0
        """Prompt positions below this one are scored, or need not be."""
        self.tracks = {SHARED: Track(self, SHARED, np.empty(0, np.int32), self.prompt_tokens)}
        if isinstance(fact, TargetRequested):
            self._add_sequences(fact, context_tokens_max)

    @property
    def key(self) -> StreamKey:
        return self.request, self.attempt

    def _add_sequences(self, fact: TargetRequested, context_tokens_max: int) -> None:
        if fact.prompt_tokens != self.prompt_tokens:
            raise WrongOrder(
                f"{self.request}: {self.prompt_tokens} prompt tokens came, "
                f"not {fact.prompt_tokens} as announced"
            )
        room = context_tokens_max - self.prompt_tokens
        self.emitted_max = min(fact.tokens_max, room)
        self.length_reason = "length" if fact.tokens_max <= room else "context"
        for start in fact.starts:
            emitted = self.payload.emitted_tokens(start.index)
            if len(emitted) != start.emitted:
                raise WrongOrder(
                    f"{self.request} sequence {start.index}: {len(emitted)} emitted tokens came, "
                    f"not {start.emitted} as announced"
                )
            capacity = self.prompt_tokens + self.emitted_max
            self.tracks[start.index] = Track(self, start.index, emitted, capacity)
