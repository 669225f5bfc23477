"""The report as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from diptych.sim.report.figures import Figures, Spread, gap_histogram
from diptych.sim.report.svg import Series, bars, cumulative, plot
from diptych.sim.report.terminal import number, size
from diptych.sim.timed.meter import Meter

STYLE = """
body { font: 14px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 1180px; padding: 0 1rem;
  color: #0f172a; background: #fff; }
h1 { font-size: 1.4rem; } h2 { font-size: 1rem; margin: 0 0 .4rem; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1rem; } dt { color: #64748b; }
dd { margin: 0; } .plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(480px, 1fr));
  gap: 1.2rem; } section { border: 1px solid #e2e8f0; border-radius: 6px; padding: .8rem; }
table { border-collapse: collapse; } td, th { padding: .15rem .8rem .15rem 0; text-align: right; }
td:first-child, th:first-child { text-align: left; } svg { width: 100%; height: auto; }
svg text { font: 11px system-ui, sans-serif; fill: #334155; } .grid { stroke: #e2e8f0; }
.legend span { margin-right: 1rem; white-space: nowrap; }
.legend i { display: inline-block; width: .8em; height: .8em; margin-right: .3em; }
"""


def page(found: Figures, meter: Meter, about: Sequence[tuple[str, str]]) -> str:
    """`about`: (name, value) of what was simulated: fleet, workload, costs."""
    plots = "".join(
        f"<section><h2>{escape(title)}</h2>{body}</section>" for title, body in _plots(found, meter)
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>diptych simulate</title>'
        f"<style>{STYLE}</style></head><body><h1>Simulated fleet</h1>"
        f"{_pairs(about)}<section><h2>Figures</h2>{_latencies(found)}{_pairs(_words(found))}</section><br>"
        f'<div class="plots">{plots}</div></body></html>\n'
    )


def _plots(found: Figures, meter: Meter) -> list[tuple[str, str]]:
    served = [one for one in meter.served if one.failure is None and one.first_ns is not None]
    first = [((one.first_ns or 0) - one.arrived_ns) / 1e6 for one in served]
    whole = [(one.end_ns - one.arrived_ns) / 1e6 for one in served]
    gaps = gap_histogram(meter)
    over_time = sorted(zip((one.arrived_ns / 1e9 for one in served), first, strict=True))
    share = "share of requests"
    ttft = plot([Series("TTFT", cumulative(first))], x="TTFT, ms", y=share, log_x=True)
    e2e = plot([Series("E2E", cumulative(whole))], x="E2E, ms", y=share, log_x=True)
    itl = plot(
        [Series("ITL", cumulative([gap for gap, _ in gaps], [count for _, count in gaps]))],
        x="time between tokens, ms",
        y="share of tokens",
        log_x=True,
    )
    names = ("queued at control", "waiting for pages", "prefilling", "decoding")
    queues = [
        Series(name, [(sample[0], float(sample[1:5][place])) for sample in found.samples])
        for place, name in enumerate(names)
    ]
    pages = [
        Series(worker.name, [(sample[0], sample[5][place]) for sample in found.samples])
        for place, worker in enumerate(found.workers)
    ]
    busy = [(worker.name, (worker.prompt, worker.mixed, worker.decode)) for worker in found.workers]
    arrivals = plot([Series("TTFT", over_time, dots=True)], x="arrival, s", y="TTFT, ms")
    return [
        ("Time to first token", ttft),
        ("Time between tokens", itl),
        ("End to end", e2e),
        ("Time to first token by arrival", arrivals),
        ("Requests in each state", plot(queues, x="s", y="requests")),
        ("Pages in use", plot(pages, x="s", y="share of the worker's pages")),
        ("Utilisation", bars(busy, ("prompt steps", "mixed steps", "decode steps"))),
    ]


def _latencies(found: Figures) -> str:
    rows = (
        ("TTFT", found.ttft_ms),
        ("ITL", found.itl_ms),
        ("E2E", found.e2e_ms),
        ("at control", found.queue_ms),
        ("handoff", found.handoff_ms),
    )
    heads = "".join(f"<th>{name}</th>" for name in ("ms", "p50", "p90", "p99", "mean", "max"))
    return f"<table><tr>{heads}</tr>{''.join(_row(name, spread) for name, spread in rows)}</table>"


def _row(name: str, spread: Spread) -> str:
    values = (spread.p50, spread.p90, spread.p99, spread.mean, spread.max)
    cells = "".join(f"<td>{'-' if value is None else number(value)}</td>" for value in values)
    return f"<tr><td>{name}</td>{cells}</tr>"


def _words(found: Figures) -> list[tuple[str, str]]:
    ends = "".join(f", {count} {kind}" for kind, count in found.failures.items())
    limits = (("TTFT", found.slo.ttft_ms), ("mean ITL", found.slo.itl_ms))
    slo = " and ".join(f"{name} up to {limit:g} ms" for name, limit in limits if limit is not None)
    return [
        (
            "requests",
            f"{found.served} of {found.requests} served{ends}; "
            f"{found.resumed} resumed, {found.rerouted} rerouted",
        ),
        ("virtual time", f"{found.duration_s:.1f} s"),
        ("throughput", f"{found.requests_per_s:.3g} requests/s, {found.output_tokens_per_s:,.0f} tokens/s"),
        ("goodput", f"{found.goodput_per_s:.3g} requests/s ({found.good:.1%}), {slo or 'no limit'}"),
        ("splits", ", ".join(f"{count} {name}" for name, count in found.splits.items())),
        ("prefix hits", f"{found.prefix_hit_share:.1%} of {found.prompt_tokens:,} prompt tokens"),
        (
            "handed over",
            f"{found.pages_handed_over:,} pages ({size(found.bytes_handed_over)}) "
            f"in {found.handoffs} handoffs; {size(found.bytes_moved)} moved over links",
        ),
        ("waiting", f"{found.queued_mean:.1f} on average, {found.queued_max} at most"),
        ("restarts", f"{found.worker_restarts} of fenced workers"),
    ]


def _pairs(pairs: Sequence[tuple[str, str]]) -> str:
    return "<dl>" + "".join(f"<dt>{escape(a)}</dt><dd>{escape(b)}</dd>" for a, b in pairs) + "</dl>"
