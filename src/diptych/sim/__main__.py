"""`python -m diptych.sim`: many random scenarios under all checkers; what fails is made small.

--seeds N        so many scenarios, of all kinds in turn
--requests N     as many as it takes for so many requests
--seed NAME      one (`handoff-7`), with its trace where it fails
--scenario FILE  one from a file, as the shrinker writes it
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from diptych.sim.scenario import Scenario
from diptych.sim.seeds import MAKERS, ROUND, scenario
from diptych.sim.trials.closing import Totals, show
from diptych.sim.trials.many import cores, try_all
from diptych.sim.trials.shrink import Shrinker, broken_rule, size_of
from diptych.sim.trials.trial import Verdict, rule_of, try_named, try_scenario

SHRUNK_MAX = 3
"""Failures that are made small; the rest are named only."""
TRACE_LINES = 60


def main(arguments: list[str] | None = None) -> int:
    options = read(arguments)
    console = Console(width=None if sys.stdout.isatty() else 160)
    if options.scenario is not None:
        value = msgspec.json.decode(options.scenario.read_bytes(), type=Scenario)
        return try_one(console, try_scenario(str(options.scenario), value))
    if options.seed is not None:
        name = options.seed if "-" in options.seed else f"mixed-{options.seed}"
        code = try_one(console, try_named(name))
        if code and options.shrink:
            make_small(console, name, options.out)
        return code
    return try_many(console, options)


def read(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m diptych.sim",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--seeds", type=int, help="scenarios to try (default 100)")
    parser.add_argument("--requests", type=int, help="go on until so many requests were simulated")
    parser.add_argument("--first", type=int, default=0, help="seed of the first round")
    parser.add_argument("--kinds", default=",".join(ROUND), help=f"of {', '.join(MAKERS)}")
    parser.add_argument("--seed", help="try this one only, and print its trace if it fails")
    parser.add_argument("--scenario", type=Path, help="try the scenario of a JSON file")
    parser.add_argument("--jobs", type=int, default=cores(), help="processes")
    parser.add_argument("--shrink", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument(
        "--out", type=Path, default=Path("build/simulated"), help="where shrunk scenarios are written"
    )
    options = parser.parse_args(arguments)
    options.kinds = options.kinds.split(",")
    unknown = [kind for kind in options.kinds if kind not in MAKERS]
    if unknown:
        parser.error(f"--kinds: no kind {unknown[0]!r}; there are {', '.join(MAKERS)}")
    if options.seeds is None and options.requests is None:
        options.seeds = 100
    return options


def try_one(console: Console, verdict: Verdict) -> int:
    if verdict.outcome is None:
        print("\n".join(verdict.lines))
        print(f"FAILED {verdict.name}: {verdict.reason}")
        return 1
    totals = Totals()
    totals.add(verdict.outcome)
    show(console, totals, 0, 0.0)
    console.print(f"digest {verdict.outcome.digest}", highlight=False)
    return 0


def names(kinds: list[str], first: int) -> Iterator[str]:
    return (f"{kind}-{seed}" for seed in count(first) for kind in kinds)


def try_many(console: Console, options: argparse.Namespace) -> int:
    totals, failures, begun = Totals(), list[Verdict](), time.monotonic()
    wanted = names(options.kinds, options.first)
    if options.seeds is not None:
        wanted = islice(wanted, options.seeds)

    def until_enough() -> Iterator[str]:
        for name in wanted:
            if options.requests is not None and totals.requests >= options.requests:
                return
            yield name

    interrupted = False
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        counted = "requests" if options.requests is not None else "seeds"
        bar = progress.add_task(counted, total=options.requests or options.seeds)
        try:
            for verdict in try_all(until_enough(), options.jobs):
                take(progress, verdict, totals, failures)
                done = totals.requests if counted == "requests" else totals.scenarios + len(failures)
                progress.update(bar, completed=done)
        except KeyboardInterrupt:
            interrupted = True
    seconds = time.monotonic() - begun
    if options.shrink and not interrupted:
        for verdict in failures[:SHRUNK_MAX]:
            make_small(console, verdict.name, options.out)
    show(console, totals, len(failures), seconds)
    if interrupted:
        console.print("interrupted: this is what was done until then")
    return 130 if interrupted else 1 if failures else 0


def take(progress: Progress, verdict: Verdict, totals: Totals, failures: list[Verdict]) -> None:
    if verdict.outcome is not None:
        totals.add(verdict.outcome)
        return
    failures.append(verdict)
    progress.print(f"[bold red]FAILED[/] {verdict.name}: {verdict.reason}", soft_wrap=True)
    progress.print(f"  python -m diptych.sim --seed {verdict.name}", highlight=False)


def make_small(console: Console, name: str, folder: Path) -> None:
    """Writes the smallest scenario found that fails as this one does, and says how to run it."""
    whole = scenario(name)
    rule = rule_of(try_scenario(name, whole).reason)
    shrinker = Shrinker(rule, broken_rule)
    small = shrinker.shrink(whole)
    verdict = try_scenario(name, small)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(small), indent=1))
    for line in verdict.lines[-TRACE_LINES:]:
        print(line)
    for fault in small.faults:
        print(f"fault: {fault}")
    print(
        f"{name} shrunk from {size_of(whole)} to {size_of(small)} in {shrinker.tries} tries: {verdict.reason}"
    )
    print(f"  python -m diptych.sim --scenario {path}")


if __name__ == "__main__":
    sys.exit(main())
