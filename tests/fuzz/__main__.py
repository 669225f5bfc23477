"""`make fuzz`: altered bytes for every parser, on all cores; ends with 1 where one does what it may not."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))

from parsers import ROUND, one, parsers


def main() -> int:
    options = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    options.add_argument("--inputs", type=int, default=1_100_000, help="over all parsers")
    options.add_argument("--seed", type=int, default=0, help="where the random numbers begin")
    arguments = options.parse_args()
    known = parsers()
    rounds = -(-arguments.inputs // (ROUND * len(known)))
    tasks = [(index, arguments.seed + turn) for turn in range(rounds) for index in range(len(known))]
    totals = {parser.name: {"taken": 0, "refused": 0} for parser in known}
    failures: list[str] = []
    begun = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        for name, counts, failure in track(pool.imap_unordered(one, tasks), "inputs", len(tasks)):
            for kind, count in counts.items():
                totals[name][kind] += count
            failures += [failure] if failure else []
    table = Table("parser", "taken", "refused")
    for name, counts in totals.items():
        table.add_row(name, f"{counts['taken']:,}", f"{counts['refused']:,}")
    console = Console()
    console.print(table)
    for failure in failures:
        console.print(f"[bold red]FAILED[/] {failure}", soft_wrap=True)
    count = len(tasks) * ROUND
    console.print(f"{count:,} inputs, {len(failures)} rounds failed, {time.monotonic() - begun:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
