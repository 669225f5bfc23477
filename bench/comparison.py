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

    number: int
    """By the order in which clients came up with it: the same request on both sides."""
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
    """By request number."""
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
    """Half the width of the interval that holds the middle 90 % of the error when requests are drawn anew."""

    @property
    def error(self) -> float:
        return self.simulated / self.live - 1


def sample(served: Sequence[Request], warm_up: int, tail: int = 0, gaps_ms: Values | None = None) -> Sample:
    """Leaves out the first `warm_up` requests, gaps and ends until so many had ended, and from throughput the
    last `tail` ends: a closed loop runs empty. `gaps_ms`: those of the rest, where requests have no pieces.

    Raises `ValueError` where nothing is left."""
    ended = sorted(served, key=lambda one: one.end_ns)
    counted = ended[warm_up : len(ended) - tail]
    kept = [one for one in sorted(served, key=lambda one: one.number) if one.number >= warm_up]
    if len(counted) < 2 or warm_up < 1:
        raise ValueError(f"{len(served)} requests are too few for a warm-up of {warm_up}, a tail of {tail}")
    warm_ns = ended[warm_up - 1].end_ns
    span_s = (counted[-1].end_ns - warm_ns) / 1e9
    return Sample(
        ttft_ms=np.array([one.ttft_ns for one in kept], np.float64) / 1e6,
        door_ttft_ms=np.array([one.door_ttft_ns for one in kept], np.float64) / 1e6,
        gaps_ms=(gaps_ms,) if gaps_ms is not None else _gaps_ms(served, warm_ns),
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
            live=_percentile(getattr(live, of), percent),
            simulated=_percentile(getattr(simulated, of), percent),
            noise=_noise(getattr(live, of), getattr(simulated, of), percent, draw),
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


Drawn = Values | tuple[Values, ...]


def _percentile(values: Drawn, percent: int) -> float:
    return float(np.percentile(np.concatenate(values) if isinstance(values, tuple) else values, percent))


def _noise(live: Drawn, simulated: Drawn, percent: int, draw: np.random.Generator) -> float:
    """Of the error when requests are drawn anew: the same ones on both sides where both know them one by
    one, else live ones, whose gaps belong together."""
    paired = len(live) == len(simulated)
    fixed = _percentile(simulated, percent)
    errors = []
    for _ in range(BOOTSTRAPS):
        places = draw.integers(len(live), size=len(live))
        other = _percentile(_taken(simulated, places), percent) if paired else fixed
        errors.append(other / _percentile(_taken(live, places), percent))
    low, high = np.percentile(errors, (5, 95))
    return float(high - low) / 2


def _taken(values: Drawn, places: npt.NDArray[np.int64]) -> Drawn:
    return tuple(values[at] for at in places) if isinstance(values, tuple) else values[places]
