"""What a step costs, as a step loop in virtual time asks it.

All durations are integers of picoseconds: a step of a large batch may grow by less than a nanosecond
from one token to the next, and sums over the steps of a run must not depend on where it was cut.
A decode step of a given batch is a line over the context it reads, so that the sum over a run has a
closed form.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Protocol

import msgspec

PS_PER_NS = 1_000
PS_PER_S = 1_000_000_000_000

Spans = Sequence[tuple[int, int]]
"""(first position, tokens) of each prompt span of one step."""


class BadCosts(ValueError):
    """A cost description that cannot be: names the field and its limit."""


class StepCosts(Protocol):
    """One engine with one weight format on one machine."""

    @property
    def sample_ps(self) -> int:
        """What first tokens add to a step with the ends of their prompts where no other sequence decodes:
        with those, logits are computed anyway."""
        ...

    def prompt_ps(self, spans: Spans) -> int:
        """A step that has prompt spans only."""
        ...

    def decode_line(self, sequences: int) -> tuple[int, int]:
        """A step of so many decoding sequences: (ps, ps for each token of context they read together)."""
        ...

    def mixed_ps(self, spans: Spans, sequences: int, context_tokens: int) -> int:
        """A step with both."""
        ...


class ConstantCosts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag="constant"):
    """A step costs `step_ns`, and every prompt token and every decoding sequence so much more: what the
    scripted engine sleeps."""

    step_ns: int = 0
    prompt_token_ns: int = 0
    decode_row_ns: int = 0

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            if not 0 <= getattr(self, name) <= PS_PER_S:
                raise BadCosts(f"{name}: {getattr(self, name)}; 0 to {PS_PER_S} ns")

    @property
    def sample_ps(self) -> int:
        return 0

    def prompt_ps(self, spans: Spans) -> int:
        tokens = 0
        for _, count in spans:
            tokens += count
        return (self.step_ns + tokens * self.prompt_token_ns) * PS_PER_NS

    def decode_line(self, sequences: int) -> tuple[int, int]:
        return (self.step_ns + sequences * self.decode_row_ns) * PS_PER_NS, 0

    def mixed_ps(self, spans: Spans, sequences: int, context_tokens: int) -> int:
        return self.prompt_ps(spans) + sequences * self.decode_row_ns * PS_PER_NS


class Curve:
    """Straight lines between measured points, from the first one level down. Behind the last one it goes on
    as steeply as from the middle point to there: one point's noise must not decide on a batch of any size."""

    def __init__(self, points: Sequence[tuple[float, float]]) -> None:
        self.xs = [x for x, _ in points]
        self.ys = [y for _, y in points]

    def at(self, x: float) -> float:
        if len(self.xs) == 1 or x <= self.xs[0]:
            return self.ys[0]
        index = bisect_right(self.xs, x)
        before = index - 1
        if index == len(self.xs):
            before, index = (index - 1) // 2, index - 1
        x0, x1 = self.xs[before], self.xs[index]
        y0, y1 = self.ys[before], self.ys[index]
        if x > x1:
            return y1 + max(0.0, (y1 - y0) / (x1 - x0)) * (x - x1)
        return max(0.0, y0 + (y1 - y0) * (x - x0) / (x1 - x0))


class PromptPoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`tokens` prompt tokens in one span from position `context` on took `ns`."""

    tokens: int
    context: int
    ns: int


class DecodePoint(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One token for each of `sequences` sequences that read `context` positions each took `ns`."""

    sequences: int
    context: int
    ns: int
