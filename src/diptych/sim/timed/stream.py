"""One request as its client sees it."""

from __future__ import annotations

from diptych.core import facts
from diptych.core.ids import Attempt, PageHash
from diptych.sim.workloads.ask import Ask


class Stream:
    """Its text is known by identity alone, its tokens by their number."""

    __slots__ = (
        "arrived_ns",
        "ask",
        "drained",
        "emitted",
        "end_ns",
        "failure",
        "first_ns",
        "last_ns",
        "left",
        "reasons",
        "record",
    )

    def __init__(self, ask: Ask, arrived_ns: int) -> None:
        self.ask = ask
        self.arrived_ns = arrived_ns
        self.emitted = [0 for _ in ask.outputs]
        """Tokens that have left for the door; brought up to date when a stream ends, pauses or dies."""
        self.reasons: list[str | None] = [None for _ in ask.outputs]
        self.left = 0
        """Sequences whose last token has left for the door."""
        self.first_ns: int | None = None
        """When the client has its first token, and the last of each sequence."""
        self.last_ns = [0 for _ in ask.outputs]
        self.drained: Attempt = -1
        self.record: facts.RequestRecord | None = None
        self.failure: str | None = None
        self.end_ns = 0

    def length(self, sequence: int) -> int:
        return min(self.ask.outputs[sequence], self.ask.tokens_max)

    def complete(self, now_ns: int) -> bool:
        """The client has every sequence to its end."""
        return self.left == len(self.emitted) and max(self.last_ns) <= now_ns

    def page_hashes(self, sequence: int, page_tokens: int) -> tuple[PageHash, ...]:
        """Of the sequence's full pages after the shared prompt pages, over what it has emitted."""
        return self.ask.text.answer_hashes(self.ask.answer(sequence), self.emitted[sequence], page_tokens)

    def starts(self, page_tokens: int) -> tuple[facts.SequenceStart, ...]:
        """The sequences that have not finished."""
        return tuple(
            facts.SequenceStart(index, self.emitted[index], self.page_hashes(index, page_tokens))
            for index, reason in enumerate(self.reasons)
            if reason is None
        )

    def finished(self) -> facts.Outputs:
        return tuple(
            (index, self.emitted[index]) for index, reason in enumerate(self.reasons) if reason is not None
        )
