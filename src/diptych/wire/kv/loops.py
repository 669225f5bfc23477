"""From two layouts to loops: the common refinement of their factors, with empty loops dropped and
neighbours joined. Pure.

Every axis is cut at the borders of both sides' factors. Between two borders an index steps evenly on
both sides, which is a loop of (extent, source stride, target stride). This needs borders that divide
each other; where they do not (dim cut in 2 x 3 here and 3 x 2 there), no strided copy exists.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence

import msgspec

from diptych.wire.kv.record import Factor, Group

__all__ = ["Loop", "NoCommonLoops", "Place", "axis_loops", "common_tokens", "join", "place"]


class Loop(msgspec.Struct, frozen=True, array_like=True):
    """`extent` steps of `source_stride` and `target_stride` bytes."""

    extent: int
    source_stride: int
    target_stride: int


class Step(msgspec.Struct, frozen=True):
    """One factor with what a step of it means: in elements of its axis and in bytes of the page."""

    extent: int
    stride: int
    stride_bytes: int


class Place(msgspec.Struct, frozen=True):
    """Where the elements of K (or of V, or of the scales) lie in a page of one region."""

    axes: dict[str, tuple[Step, ...]]
    """Factors inside the region by axis; none of an axis that chooses the region."""
    region_steps: dict[str, int]
    """Regions from one index of such an axis to the next."""
    first_byte: int

    def offset(self, axis: str, index: int) -> int:
        """Bytes from the first element of the axis to the one at `index`."""
        steps = self.axes.get(axis, ())
        return sum(index // step.stride % step.extent * step.stride_bytes for step in steps)

    def region(self, layer: int, kv: int) -> int:
        return self.region_steps.get("layer", 0) * layer + self.region_steps.get("kv", 0) * kv

    def borders(self, axis: str) -> list[int]:
        return [step.stride for step in self.axes.get(axis, ())]


class NoCommonLoops(Exception):
    """The factors of `axis` are cut so that neither side's borders divide the other's."""

    def __init__(self, axis: str) -> None:
        super().__init__(axis)
        self.axis = axis


def place(group: Group, factors: Sequence[Factor], element_bytes: int, first_byte: int = 0) -> Place:
    lead = group.layout.region_factors
    region_steps: dict[str, int] = {}
    count = 1
    for factor in reversed(factors[:lead]):
        region_steps[factor.axis] = count
        count *= factor.extent
    axes: dict[str, tuple[Step, ...]] = {}
    size = element_bytes
    for factor in reversed(factors[lead:]):
        step = Step(factor.extent, factor.stride, size)
        axes[factor.axis] = (*axes.get(factor.axis, ()), step)
        size *= factor.extent
    return Place(axes, region_steps, first_byte)


def axis_loops(source: Place, target: Place, axis: str, extent: int) -> list[Loop]:
    """Loops over the first `extent` indices of an axis, fastest first. Raises `NoCommonLoops`."""
    borders = sorted({1, extent, *(b for b in (*source.borders(axis), *target.borders(axis)) if b < extent)})
    if not _divide(borders):
        raise NoCommonLoops(axis)
    return [
        Loop(end // start, source.offset(axis, start), target.offset(axis, start))
        for start, end in itertools.pairwise(borders)
    ]


def common_tokens(pairs: Sequence[tuple[Place, Place]], source_tokens: int, target_tokens: int) -> int:
    """Most tokens that one copy can take of a page on both sides, so that every copy is the same loops
    at other offsets: a divisor of both page sizes that fits every border of all factors of `token`."""
    greatest = math.gcd(source_tokens, target_tokens)
    for tokens in (greatest // part for part in range(1, greatest + 1) if greatest % part == 0):
        if all(_fits(tokens, *pair, source_tokens, target_tokens) for pair in pairs):
            return tokens
    raise AssertionError("one token fits every border")


def _fits(tokens: int, source: Place, target: Place, source_tokens: int, target_tokens: int) -> bool:
    within = {1, tokens}
    for side, whole in ((source, source_tokens), (target, target_tokens)):
        if not _divide(sorted({1, *side.borders("token"), tokens, whole})):
            return False
        within.update(border for border in side.borders("token") if border < tokens)
    return _divide(sorted(within))


def join(loops: Iterable[Loop]) -> tuple[Loop, ...]:
    """The same steps in fewer loops, slowest first by the target, whose bytes are then written in order."""
    ordered = sorted(
        (loop for loop in loops if loop.extent > 1),
        key=lambda loop: (loop.target_stride, loop.source_stride),
        reverse=True,
    )
    joined: list[Loop] = []
    for loop in ordered:
        last = joined[-1] if joined else None
        if (
            last is not None
            and last.source_stride == loop.source_stride * loop.extent
            and last.target_stride == loop.target_stride * loop.extent
        ):
            joined[-1] = Loop(last.extent * loop.extent, loop.source_stride, loop.target_stride)
        else:
            joined.append(loop)
    return tuple(joined)


def _divide(borders: Sequence[int]) -> bool:
    return all(later % earlier == 0 for earlier, later in itertools.pairwise(borders))
