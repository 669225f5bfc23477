"""Plots as SVG text: lines over two axes, and stacked bars. No script, no network, a few kilobytes each.

Plotly would be three to five megabytes of script in every page for plots of some hundred points; these
are read in any browser, printed, attached and diffed. Exact values show where the pointer rests.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

import msgspec

COLOURS = ("#2563eb", "#dc2626", "#059669", "#d97706", "#7c3aed", "#0891b2", "#be185d", "#4d7c0f")
WIDTH, HEIGHT = 560, 260
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 12, 40
POINTS_MAX = 400
"""Of a line."""
DOTS_MAX = 2000


class Series(msgspec.Struct, frozen=True):
    name: str
    points: Sequence[tuple[float, float]]
    dots: bool = False


class Axis:
    """A linear scale from 0, or a logarithmic one, between two ends with round marks."""

    def __init__(self, values: Sequence[float], first: float, last: float, *, log: bool = False) -> None:
        positive = [value for value in values if value > 0]
        self.log = log and bool(positive)
        self.first, self.last = first, last
        if self.log:
            self.low = 10 ** math.floor(math.log10(min(positive)))
            self.high = 10 ** math.ceil(math.log10(max(positive)))
            self.high = self.high if self.high > self.low else self.low * 10
        else:
            self.low, self.high = 0.0, max(values, default=0.0) or 1.0

    def place(self, value: float) -> float:
        if self.log:
            share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return round(self.first + (self.last - self.first) * share, 1)

    def marks(self) -> list[float]:
        if self.log:
            decades = round(math.log10(self.high / self.low))
            every = max(1, decades // 6)
            return [self.low * 10**power for power in range(0, decades + 1, every)]
        step = 10 ** math.floor(math.log10(self.high / 4))
        step = next(step * factor for factor in (1, 2, 5, 10) if self.high / (step * factor) <= 6)
        return [step * number for number in range(int(self.high / step + 1e-9) + 1)]


def plot(series: Sequence[Series], *, x: str, y: str, log_x: bool = False) -> str:
    """Lines or dots with axes named `x` and `y`, and a legend where there are several."""
    series = [
        Series(one.name, thinned(one.points, DOTS_MAX if one.dots else POINTS_MAX), one.dots)
        for one in series
        if one.points
    ]
    if not series:
        return "<p>nothing to show</p>"
    across = Axis([px for one in series for px, _ in one.points], LEFT, WIDTH - RIGHT, log=log_x)
    up = Axis([py for one in series for _, py in one.points], HEIGHT - BOTTOM, TOP)
    parts = [_frame(across, up, x, y)]
    for number, one in enumerate(series):
        colour = COLOURS[number % len(COLOURS)]
        places = [(across.place(px), up.place(py)) for px, py in one.points]
        if one.dots:
            parts += [
                f'<circle cx="{cx}" cy="{cy}" r="1.6" fill="{colour}" fill-opacity="0.5"/>'
                for cx, cy in places
            ]
            continue
        path = " ".join(f"{cx},{cy}" for cx, cy in places)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5">'
            f"<title>{escape(one.name)}</title></polyline>"
        )
    legend = _legend([one.name for one in series]) if len(series) > 1 else ""
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>{legend}'


def bars(rows: Sequence[tuple[str, Sequence[float]]], parts: Sequence[str]) -> str:
    """One stacked bar of shares for each row."""
    height = 22 * len(rows) + 24
    drawn = []
    for number, (name, shares) in enumerate(rows):
        top = 22 * number + 4
        drawn.append(f'<text x="{LEFT + 26}" y="{top + 12}" text-anchor="end">{escape(name)}</text>')
        left, width = LEFT + 32.0, WIDTH - RIGHT - LEFT - 32
        drawn.append(f'<rect x="{left}" y="{top}" width="{width}" height="16" fill="#f1f5f9"/>')
        for part, share in enumerate(shares):
            wide = max(0.0, min(share, 1.0)) * width
            drawn.append(
                f'<rect x="{left:.1f}" y="{top}" width="{wide:.1f}" height="16" fill="{COLOURS[part]}">'
                f"<title>{escape(name)}, {escape(parts[part])}: {share:.1%}</title></rect>"
            )
            left += wide
    return f'<svg viewBox="0 0 {WIDTH} {height}" role="img">{"".join(drawn)}</svg>{_legend(parts)}'


def thinned(points: Sequence[tuple[float, float]], most: int) -> Sequence[tuple[float, float]]:
    """At most `most` of the points, evenly, the last one always."""
    if len(points) <= most:
        return points
    every = -(-len(points) // (most - 1))
    kept = list(points[::every])
    return kept if (len(points) - 1) % every == 0 else [*kept, points[-1]]


def cumulative(values: Sequence[float], weights: Sequence[int] | None = None) -> list[tuple[float, float]]:
    """(value, share of all that does not exceed it), by rising value."""
    pairs = sorted(zip(values, weights or [1] * len(values), strict=True))
    total, reached, points = sum(count for _, count in pairs), 0, []
    for value, count in pairs:
        reached += count
        points.append((value, reached / total))
    return points


def _frame(across: Axis, up: Axis, x: str, y: str) -> str:
    parts = []
    for mark in across.marks():
        at = across.place(mark)
        parts.append(f'<line x1="{at}" x2="{at}" y1="{TOP}" y2="{HEIGHT - BOTTOM}" class="grid"/>')
        anchor = "end" if at > WIDTH - 3 * RIGHT else "middle"
        parts.append(f'<text x="{at}" y="{HEIGHT - BOTTOM + 14}" text-anchor="{anchor}">{mark:g}</text>')
    for mark in up.marks():
        at = up.place(mark)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at}" y2="{at}" class="grid"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4}" text-anchor="end">{mark:g}</text>')
    middle = (LEFT + WIDTH - RIGHT) // 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x)}</text>')
    parts.append(
        f'<text transform="translate(14 {(HEIGHT - BOTTOM + TOP) // 2}) rotate(-90)" '
        f'text-anchor="middle">{escape(y)}</text>'
    )
    return "".join(parts)


def _legend(names: Sequence[str]) -> str:
    words = (
        f'<span><i style="background:{COLOURS[number % len(COLOURS)]}"></i>{escape(name)}</span>'
        for number, name in enumerate(names)
    )
    return f'<div class="legend">{"".join(words)}</div>'
