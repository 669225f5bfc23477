"""The figures as tables for a terminal of 80 columns."""

from __future__ import annotations

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from diptych.sim.report.figures import Figures, Spread


def show(found: Figures, console: Console) -> None:
    console.print(Group(_latencies(found), Text(), _workers(found), Text(), *_words(found)))


def _latencies(found: Figures) -> Table:
    table = Table("ms", box=None, padding=(0, 2, 0, 0))
    for name in ("p50", "p90", "p99", "mean", "max"):
        table.add_column(name, justify="right")
    rows = (
        ("TTFT", found.ttft_ms),
        ("ITL", found.itl_ms),
        ("E2E", found.e2e_ms),
        ("at control", found.queue_ms),
        ("handoff", found.handoff_ms),
    )
    for name, spread in rows:
        table.add_row(name, *_cells(spread))
    return table


def _cells(spread: Spread) -> list[str]:
    values = (spread.p50, spread.p90, spread.p99, spread.mean, spread.max)
    return ["-" if value is None else number(value) for value in values]


def number(value: float) -> str:
    """Four significant digits at most, without an exponent."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 100 else f"{value:.2f}" if abs(value) >= 10 else f"{value:.3f}"


def _workers(found: Figures) -> Table:
    table = Table("worker", box=None, padding=(0, 2, 0, 0))
    for name in ("busy", "prompt", "mixed", "decode", "pages held", "max", "cached", "steps/run"):
        table.add_column(name, justify="right")
    for one in found.workers:
        shares = (one.busy, one.prompt, one.mixed, one.decode)
        pages = (one.pages_held_mean, one.pages_held_max, one.pages_cached_mean)
        table.add_row(one.name, *(f"{share:.1%}" for share in (*shares, *pages)), f"{one.steps_per_run:.1f}")
    return table


def _words(found: Figures) -> list[Text]:
    ends = "".join(f", {count} {kind}" for kind, count in found.failures.items())
    splits = ", ".join(f"{count} {name}" for name, count in found.splits.items())
    lines = [
        f"{found.served} of {found.requests} requests served{ends}; {found.duration_s:.1f} s virtual",
        f"{found.resumed} resumed, {found.rerouted} rerouted",
        f"{found.requests_per_s:.3g} requests/s, {found.output_tokens_per_s:,.0f} output tokens/s",
        f"goodput {found.goodput_per_s:.3g} requests/s ({found.good:.1%}) under {_slo(found)}",
        f"splits: {splits}",
        f"prefix hits {found.prefix_hit_share:.1%} of {found.prompt_tokens:,} prompt tokens",
        f"{found.handoffs} handoffs of {found.pages_handed_over:,} pages ({size(found.bytes_handed_over)}), "
        f"{size(found.bytes_moved)} moved over links",
        f"waiting at sampled moments: {found.queued_mean:.1f} on average, {found.queued_max} at most",
    ]
    if found.worker_restarts:
        lines.append(f"workers were fenced and restarted {found.worker_restarts} times")
    return [Text(line) for line in lines]


def _slo(found: Figures) -> str:
    limits = (("TTFT", found.slo.ttft_ms), ("mean ITL", found.slo.itl_ms))
    words = [f"{name} <= {limit:g} ms" for name, limit in limits if limit is not None]
    return " and ".join(words) or "no limit"


def size(count: float) -> str:
    """Bytes in words."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:,.3g} TB"
