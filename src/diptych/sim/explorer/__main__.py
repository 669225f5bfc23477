"""`python -m diptych.sim.explorer [NAME ...]`: explores small fleets exhaustively, within printed budgets."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed

from rich.console import Console

from diptych.core.worker import machine
from diptych.sim.explorer.configuration import CONFIGURATIONS, Configuration
from diptych.sim.explorer.coverage import Row, counted
from diptych.sim.explorer.graph import BUDGETS
from diptych.sim.explorer.report import budget_line, print_coverage, story, sums, table_of, verdict
from diptych.sim.explorer.search import Explorer, Result


def main(arguments: list[str] | None = None) -> int:
    names = [configuration.name for configuration in CONFIGURATIONS]
    parser = argparse.ArgumentParser(prog="python -m diptych.sim.explorer", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}; all by default")
    parser.add_argument("--states", type=int, help="stop each configuration at so many states")
    parser.add_argument("--seconds", type=float, help="stop each configuration after so many seconds")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes; one for each core")
    options = parser.parse_args(arguments)
    if not (machine.__file__ or "").endswith(".py"):
        parser.error("compiled machines take no snapshots; the build in .venv-dev is interpreted")
    unknown = set(options.names) - set(names)
    if unknown:
        parser.error(f"no such configuration: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    console = Console()
    chosen = [c for c in CONFIGURATIONS if not options.names or c.name in options.names]
    rows: Counter[Row] = Counter()
    results: dict[str, Result] = {}
    with ProcessPoolExecutor(options.jobs) as pool:
        tasks = [
            pool.submit(explore, each, options.states, options.seconds) for each in _longest_first(chosen)
        ]
        for task in as_completed(tasks):
            result, lines, ran = task.result()
            results[result.configuration] = result
            rows.update(ran)
            told = f"{result.states:,} states, depth {result.depth}, {result.cpu_seconds:.0f} s"
            console.print(f"{verdict(result)}: {result.configuration}, {told}", highlight=False)
            console.print("\n".join(lines), end="\n" if lines else "", highlight=False, markup=False)
    for configuration in chosen:
        console.print(f"[bold]{configuration.name}[/bold]: {budget_line(configuration)}", highlight=False)
    ordered = [results[configuration.name] for configuration in chosen]
    console.print(table_of(ordered))
    console.print(sums(ordered), highlight=False)
    sound = print_coverage(console, rows, whole=len(chosen) == len(CONFIGURATIONS))
    return 1 if not sound or any(result.counterexample for result in ordered) else 0


def _longest_first(chosen: list[Configuration]) -> list[Configuration]:
    """What many may go wrong in takes longest."""
    return sorted(chosen, key=lambda c: -sum(getattr(c.budgets, name) for name in BUDGETS))


def explore(
    configuration: Configuration, states: int | None, seconds: float | None
) -> tuple[Result, list[str], Counter[Row]]:
    """In a process of its own: figures, the story of a counterexample, and the rows that ran."""
    with counted() as rows:
        result = Explorer(configuration).run(states, seconds)
    lines = [] if result.counterexample is None else story(result.counterexample)
    return result, lines, Counter(dict(rows))


if __name__ == "__main__":
    sys.exit(main())
