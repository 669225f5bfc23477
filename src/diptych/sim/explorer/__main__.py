"""`python -m diptych.sim.explorer [NAME ...]`: explores small fleets exhaustively, within printed budgets."""

from __future__ import annotations

import argparse
import sys

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from diptych.sim.explorer.configuration import CONFIGURATIONS, Configuration
from diptych.sim.explorer.coverage import counted
from diptych.sim.explorer.report import budget_line, print_coverage, story, table_of
from diptych.sim.explorer.search import Explorer, Result


def main(arguments: list[str] | None = None) -> int:
    names = [configuration.name for configuration in CONFIGURATIONS]
    parser = argparse.ArgumentParser(prog="python -m diptych.sim.explorer", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}; all by default")
    parser.add_argument("--states", type=int, help="stop each configuration at so many states")
    parser.add_argument("--seconds", type=float, help="stop each configuration after so many seconds")
    options = parser.parse_args(arguments)
    unknown = set(options.names) - set(names)
    if unknown:
        parser.error(f"no such configuration: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    console = Console()
    chosen = [c for c in CONFIGURATIONS if not options.names or c.name in options.names]
    with counted() as rows:
        results = [explore(console, each, options.states, options.seconds) for each in chosen]
    console.print(table_of(results))
    print_coverage(console, rows)
    return 1 if any(result.counterexample for result in results) else 0


def explore(
    console: Console, configuration: Configuration, states: int | None, seconds: float | None
) -> Result:
    console.print(f"[bold]{configuration.name}[/bold]: {budget_line(configuration)}")
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("the fleet joins", total=None)

        def show(result: Result, waiting: int) -> None:
            text = f"{result.states:,} states, depth {result.depth}, {waiting:,} to expand"
            bar.update(task, description=text)

        explorer = Explorer(configuration)
        result = explorer.run(states, seconds, show)
    if result.counterexample is not None:
        console.print("\n".join(story(explorer, result.counterexample)), highlight=False, markup=False)
    return result


if __name__ == "__main__":
    sys.exit(main())
