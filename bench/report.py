"""What every benchmark shares: its rows, the machine it ran on, the table and the JSON file.

A benchmark is a program `bench/x.py` that collects `Row`s and ends with
`sys.exit(finish("x", rows, arguments.json))`. The exit status is 1 when a row misses its `must`.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx_vnni", "amx_tile", "amx_int8", "amx_bf16")
"""Instruction sets that decide speed here, as Linux names them in /proc/cpuinfo."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One figure. `must` and `goal` bound `ratio` where there is one, else `value`.

    A bound is text: a comparison and a number, `">= 1.0"`, `"< 0.02"`, `"== 0"`.
    """

    name: str
    value: float
    unit: str
    against: str | None = None
    """What `ratio` compares with, version and settings included."""
    ratio: float | None = None
    must: str | None = None
    goal: str | None = None

    @property
    def missed(self) -> bool:
        """Whether the row fails its `must`."""
        return self.must is not None and not holds(
            self.value if self.ratio is None else self.ratio, self.must
        )


def holds(value: float, bound: str) -> bool:
    """Whether `value` keeps a bound such as `"<= 5"`; a NaN keeps none."""
    comparison, number = bound.split()
    limit = float(number)
    outcomes = {
        "<": value < limit,
        "<=": value <= limit,
        ">": value > limit,
        ">=": value >= limit,
        "==": value == limit,
    }
    return outcomes[comparison]


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the option every benchmark has: `--json FILE`."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the rows as JSON to FILE")
    return parser


def machine() -> dict[str, Any]:
    """The CPU by model and instruction sets, its cores that this process may use, memory and system."""
    text = _read("/proc/cpuinfo")
    fields = dict(_pairs(text.split("\n\n", 1)[0]))
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    return {
        "cpu": fields.get("model name", platform.processor() or platform.machine()),
        "instruction_sets": [name for name in _FEATURES if name in flags],
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "load_1min": round(os.getloadavg()[0], 2),
    }


def versions(packages: Iterable[str] = ()) -> dict[str, str]:
    """Python's, ours, and those of `packages`; `not installed` where absent."""
    found = {"python": platform.python_version()}
    for name in ("diptych", "numpy", *packages):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def best_and_median(values: Sequence[float], *, lower_is_better: bool) -> tuple[float, float]:
    """Best and median of several rounds."""
    return (min(values) if lower_is_better else max(values)), statistics.median(values)


def finish(
    bench: str,
    rows: Sequence[Row],
    json_file: Path | None = None,
    *,
    packages: Iterable[str] = (),
    extra: dict[str, Any] | None = None,
    console: Console | None = None,
) -> int:
    """Prints the table, writes `json_file`, and returns the exit status: 1 where a `must` is missed.

    `packages`: whose versions to state (peers). `extra`: more top-level keys for the JSON document.
    """
    console = console or Console(width=None if sys.stdout.isatty() else 150)
    here, found = machine(), versions(packages)
    _print(bench, rows, here, found, console)
    if json_file is not None:
        document = {"bench": bench, "machine": here, "versions": found, "rows": msgspec.to_builtins(rows)}
        json_file.parent.mkdir(parents=True, exist_ok=True)
        json_file.write_text(json.dumps(document | (extra or {}), indent=2) + "\n", encoding="utf-8")
    missed = [row.name for row in rows if row.missed]
    if missed:
        print(f"missed: {', '.join(missed)}", file=sys.stderr)
    return 1 if missed else 0


def _print(
    bench: str, rows: Sequence[Row], here: dict[str, Any], found: dict[str, str], console: Console
) -> None:
    sets = ", ".join(here["instruction_sets"]) or "no vector set named"
    console.print(
        f"[bold]{bench}[/] on {here['cpu']} ({here['cores']} cores; {sets}; load {here['load_1min']})"
    )
    console.print(", ".join(f"{name} {version}" for name, version in found.items()), style="dim")
    common = {row.against for row in rows}
    cells = [_cells(row) for row in rows]
    if len(common) == 1 and None not in common:
        console.print(f"against {common.pop()}", style="dim")
        cells = [row | {"against": ""} for row in cells]
    used = [name for name in _cells(Row(name="", value=0.0, unit="")) if any(row[name] for row in cells)]
    table = Table(*used)
    for row, shown in zip(rows, cells, strict=True):
        table.add_row(*(shown[name] for name in used), style="red" if row.missed else None)
    console.print(table)


def _cells(row: Row) -> dict[str, str]:
    """What the table shows of a row, by column."""
    return {
        "figure": row.name,
        "value": f"{row.value:.4g}",
        "unit": row.unit,
        "against": row.against or "",
        "ratio": "" if row.ratio is None else f"{row.ratio:.3g}",
        "must": row.must or "",
        "goal": row.goal or "",
    }


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""


def _pairs(text: str) -> list[tuple[str, str]]:
    return [
        (key.strip(), value.strip()) for key, _, value in (line.partition(":") for line in text.splitlines())
    ]
