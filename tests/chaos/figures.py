"""What a run of attacks found: one row for each fault on each fleet, as a table and as JSON."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from statistics import median
from typing import Any

import msgspec
from episode import Episode
from rich.console import Console
from rich.table import Table

LEGEND = """\
delay: what a client waited beyond its usual time between two pieces, median / greatest, in ms
work: prompt work ahead of it by then, its own included
late: delays of more than the work + 150 ms (+ the lease, where it must run out)
wrong: a healthy process killed, pages away, an orphan, a record or a replay that differs"""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """All episodes of one fault on one fleet."""

    fault: str
    fleet: str
    times: int
    """Episodes that met their moment."""
    missed: int
    streams: int
    """Open when the fault came."""
    lost: int
    different: int
    wrong: int
    """Episodes after which something else was not as it should be."""
    delay_ms: tuple[float, float] | None
    """Extra delay of a client: median, greatest."""
    work_ms: tuple[float, float] | None
    """Prompt work ahead of it: median, greatest."""
    late: int | None
    """Delays of more than the work and what is allowed beside it; None where that is not judged."""
    late_ms: float
    """The greatest excess."""
    seconds: float
    words: tuple[str, ...]
    """What was lost, different or wrong."""

    @property
    def failed(self) -> bool:
        return bool(self.lost or self.different or self.wrong or self.times == 0)


def rows_of(episodes: Iterable[Episode], judged: frozenset[str]) -> list[Row]:
    """In order of appearance. `judged`: fleets on which delays are judged."""
    order: dict[tuple[str, str], list[Episode]] = {}
    for episode in episodes:
        order.setdefault((episode.fault, episode.setting), []).append(episode)
    return [_row(fault, fleet, found, fleet in judged) for (fault, fleet), found in order.items()]


def _row(fault: str, fleet: str, episodes: list[Episode], judged: bool) -> Row:
    met = [one for one in episodes if one.hit]
    delays_ms = [1e3 * delay for one in met for delay in one.delays_s]
    work_ms = [1e3 * work for one in met for work in one.work_s]
    late_ms = [1e3 * late for one in met for late in one.late]
    words = [words for one in episodes for words in (*one.lost, *one.different, *one.wrong)]
    return Row(
        fault=fault,
        fleet=fleet,
        times=len(met),
        missed=len(episodes) - len(met),
        streams=sum(one.touched for one in met),
        lost=sum(len(one.lost) for one in episodes),
        different=sum(len(one.different) for one in episodes),
        wrong=sum(bool(one.wrong) for one in episodes),
        delay_ms=(median(delays_ms), max(delays_ms)) if delays_ms else None,
        work_ms=(median(work_ms), max(work_ms)) if work_ms else None,
        late=len(late_ms) if judged else None,
        late_ms=max(late_ms, default=0.0) if judged else 0.0,
        seconds=sum(one.seconds for one in episodes),
        words=tuple(words),
    )


def show(console: Console, rows: list[Row]) -> None:
    table = Table(title="Live chaos")
    for heading in ("fault", "times", "streams", "lost", "different", "wrong", "delay", "work", "late"):
        table.add_column(
            heading, justify="left" if heading == "fault" else "right", no_wrap=heading == "fault"
        )
    for fleet, found in groupby(rows, key=lambda row: row.fleet):
        table.add_section()
        table.add_row(f"[bold]{fleet}[/]")
        for row in found:
            table.add_row(*_cells(row), style="red" if row.failed else None)
    console.print(table)
    console.print(LEGEND, style="dim", highlight=False)
    for row in rows:
        for words in row.words[:5]:
            console.print(f"[red]{row.fault}[/] on {row.fleet}: ", end="")
            console.print(words[:600], markup=False, highlight=False)


def _cells(row: Row) -> list[str]:
    late = "" if row.late is None else f"{row.late} ({row.late_ms:+.0f} ms)" if row.late else "0"
    missed = f" ({row.missed} missed)" if row.missed else ""
    return [
        row.fault,
        f"{row.times}{missed}",
        str(row.streams),
        str(row.lost),
        str(row.different),
        str(row.wrong),
        _pair(row.delay_ms),
        _pair(row.work_ms),
        late,
    ]


def _pair(values: tuple[float, float] | None) -> str:
    return "" if values is None else f"{values[0]:.0f} / {values[1]:.0f}"


def document(rows: list[Row], **more: Any) -> dict[str, Any]:
    failed = sum(row.failed for row in rows)
    return {"chaos": {"failed": failed, **more}, "rows": msgspec.to_builtins(rows)}
