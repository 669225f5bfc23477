"""Both sides of every workload as curves on one page: each latency on both, and one over the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from comparison import Sample, Values
from diptych.sim.report.page import STYLE
from diptych.sim.report.svg import Series, plot
from fidelity_sides import Cell

_SHARES = np.linspace(0, 100, 201)
_TAIL = 99.5
"""Per cent that the curves show: single stragglers would squeeze them."""


def write_page(path: Path, cells: Sequence[Cell], about: Mapping[str, str]) -> None:
    parts = [
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>diptych fidelity</title>',
        f"<style>{STYLE}</style></head><body><h1>Simulated against live</h1><dl>",
        *(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in about.items()),
        "</dl>",
        *(_cell(cell) for cell in cells),
        "</body></html>\n",
    ]
    path.write_text("".join(parts), encoding="utf-8")


def _cell(cell: Cell) -> str:
    rows = "".join(
        f"<tr><td>{escape(one.name)}, {one.unit}</td><td>{one.live:.4g}</td><td>{one.simulated:.4g}</td>"
        f"<td>{one.error:+.1%}</td></tr>"
        for one in cell.differences
    )
    heads = "<tr><th></th><th>live</th><th>simulated</th><th>error</th></tr>"
    plots = [
        ("Time to first token", _curves(cell.live.ttft_ms, cell.simulated.ttft_ms, "TTFT, ms")),
        ("Time between tokens", _curves(_gaps(cell.live), _gaps(cell.simulated), "ITL, ms")),
        ("Percentiles of TTFT", _against(cell.live.ttft_ms, cell.simulated.ttft_ms, "TTFT")),
        ("Percentiles of ITL", _against(_gaps(cell.live), _gaps(cell.simulated), "ITL")),
    ]
    drawn = "".join(f"<section><h2>{title}</h2>{body}</section>" for title, body in plots)
    return (
        f"<h1>{escape(cell.fleet)}: {escape(cell.name)}</h1><p>{escape(cell.spec)}; load {cell.load:.0%}</p>"
        f'<table>{heads}{rows}</table><br><div class="plots">{drawn}</div>'
    )


def _gaps(side: Sample) -> Values:
    return np.concatenate(side.gaps_ms)


def _curves(live: Values, simulated: Values, x: str) -> str:
    shares = _SHARES[_SHARES <= _TAIL]
    series = [
        Series(name, [(float(np.percentile(values, share)), share / 100) for share in shares])
        for name, values in (("live", live), ("simulated", simulated))
    ]
    return plot(series, x=x, y="share", log_x=True)


def _against(live: Values, simulated: Values, what: str) -> str:
    """Each percentile of one side over the same of the other, and where they would be equal."""
    pairs = [
        (float(np.percentile(live, share)), float(np.percentile(simulated, share)))
        for share in _SHARES[_SHARES <= _TAIL]
    ]
    end = max(max(pair) for pair in pairs)
    series = [Series("percentiles", pairs, dots=True), Series("equal", [(0.0, 0.0), (end, end)])]
    return plot(series, x=f"{what} live, ms", y="simulated, ms")
