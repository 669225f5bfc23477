"""Figures of one workload as it was served, live or simulated, and how far two of them are apart."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

BOOTSTRAPS = 200
Values = npt.NDArray[np.float64]


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """One served request; times in ns from the start of the workload."""

    name: str
    ttft_ns: int
    door_ttft_ns: int
    """From its arrival at the door to its first token there."""
    end_ns: int
    output_tokens: int
    pieces_ns: tuple[int, ...] = ()
    """When its tokens came, where each was seen."""


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """What one side served, warm-up left out."""

    ttft_ms: Values
    door_ttft_ms: Values
    gaps_ms: tuple[Values, ...]
    """Between tokens: of each request, or of all."""
    requests_per_s: float
    tokens_per_s: float


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One figure on both sides."""

    name: str
    unit: str
    live: float
    simulated: float
    noise: float | None
    """Half the width of the interval that holds the live figure's middle 90 % when requests are drawn
    anew, as a share of it."""

    @property
    def error(self) -> float:
        return self.simulated / self.live - 1


def sample(served: Sequence[Request], warm_up: int, tail: int = 0, gaps_ms: Values | None = None) -> Sample:
    """Leaves out what ended, or came, before `warm_up` requests had ended, from throughput also the last
    `tail` ends: a closed loop runs empty. `gaps_ms`: those of the rest, where requests have no pieces.

    Raises `ValueError` where nothing is left."""
    ended = sorted(served, key=lambda one: one.end_ns)
    kept = ended[warm_up:]
    counted = kept[: len(kept) - tail]
    if len(counted) < 2 or warm_up < 1:
        raise ValueError(f"{len(served)} requests are too few for a warm-up of {warm_up}, a tail of {tail}")
    warm_ns = ended[warm_up - 1].end_ns
    span_s = (counted[-1].end_ns - warm_ns) / 1e9
    return Sample(
        ttft_ms=np.array([one.ttft_ns for one in kept], np.float64) / 1e6,
        door_ttft_ms=np.array([one.door_ttft_ns for one in kept], np.float64) / 1e6,
        gaps_ms=(gaps_ms,) if gaps_ms is not None else _gaps_ms(kept, warm_ns),
        requests_per_s=len(counted) / span_s,
        tokens_per_s=sum(one.output_tokens for one in counted) / span_s,
    )


def _gaps_ms(served: Sequence[Request], after_ns: int) -> tuple[Values, ...]:
    found = []
    for one in served:
        pieces = np.array(one.pieces_ns, np.float64)
        gaps = np.diff(pieces)[pieces[1:] > after_ns] / 1e6
        if len(gaps):
            found.append(gaps)
    return tuple(found)


FIGURES = (
    ("TTFT p50", "ms", "ttft_ms", 50),
    ("TTFT p90", "ms", "ttft_ms", 90),
    ("TTFT at the door p50", "ms", "door_ttft_ms", 50),
    ("ITL p50", "ms", "gaps_ms", 50),
    ("ITL p90", "ms", "gaps_ms", 90),
)


def compare(live: Sample, simulated: Sample, seed: int = 0) -> list[Difference]:
    """Every one of `FIGURES`, and throughput."""
    draw = np.random.default_rng(seed)
    rows = [
        Difference(
            name=name,
            unit=unit,
            live=(found := _percentile(getattr(live, of), percent)),
            simulated=_percentile(getattr(simulated, of), percent),
            noise=_half_width(getattr(live, of), percent, draw) / found,
        )
        for name, unit, of, percent in FIGURES
    ]
    rows.append(
        Difference(
            name="throughput",
            unit="tokens/s",
            live=live.tokens_per_s,
            simulated=simulated.tokens_per_s,
            noise=None,
        )
    )
    return rows


def _percentile(values: Values | tuple[Values, ...], percent: int) -> float:
    return float(np.percentile(np.concatenate(values) if isinstance(values, tuple) else values, percent))


def _half_width(values: Values | tuple[Values, ...], percent: int, draw: np.random.Generator) -> float:
    """Of the percentile's interval when requests are drawn anew; a request's gaps belong together."""
    found = []
    for _ in range(BOOTSTRAPS):
        places = draw.integers(len(values), size=len(values))
        drawn = tuple(values[at] for at in places) if isinstance(values, tuple) else values[places]
        found.append(_percentile(drawn, percent))
    low, high = np.percentile(found, (5, 95))
    return float(high - low) / 2
