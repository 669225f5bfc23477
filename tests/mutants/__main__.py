"""`python tests/mutants [--seeds N] [--only WORDS]`: every deliberate bug and who caught it."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from catalog import MUTANTS
from mutant import Mutant
from rich.console import Console
from rich.table import Table
from trial import Verdict, snapshot, try_mutant

SEEDS = 12


def main() -> int:
    parser = argparse.ArgumentParser(prog="python tests/mutants", description=__doc__)
    parser.add_argument(
        "--seeds", type=int, default=SEEDS, help="seeds of each kind of scenario for each mutant"
    )
    parser.add_argument("--jobs", type=int, default=2, help="mutants at a time")
    parser.add_argument("--only", default="", help="mutants with these words in their name")
    parser.add_argument("--no-tests", action="store_true", help="ask the simulator only")
    options = parser.parse_args()
    mutants = [mutant for mutant in MUTANTS if options.only in mutant.name]
    console = Console(width=None if sys.stdout.isatty() else 180)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        sound = snapshot(folder)

        def judge(mutant: Mutant | None) -> Verdict:
            verdict = try_mutant(mutant, sound, options.seeds, tests=not options.no_tests)
            by = verdict.by or ("nobody" if mutant is None else "[bold red]nobody[/]")
            name = "nothing changed" if mutant is None else mutant.name
            console.print(f"{name}: caught by {by}", highlight=False)
            return verdict

        return trials(judge, mutants, console, options.jobs)


def trials(
    judge: Callable[[Mutant | None], Verdict], mutants: list[Mutant], console: Console, jobs: int
) -> int:
    """The sound package must pass what the mutants are asked, or their verdicts would say nothing."""
    begun = time.monotonic()
    with ThreadPoolExecutor(jobs) as pool:
        whole = pool.submit(judge, None)
        verdicts = list(pool.map(judge, mutants))
    show(console, verdicts, time.monotonic() - begun)
    if whole.result().by:
        console.print(f"[bold red]The package fails without any bug added[/]: {whole.result().reason}")
        return 2
    return 0 if verdicts and all(verdict.by for verdict in verdicts) else 1


def show(console: Console, verdicts: list[Verdict], seconds: float) -> None:
    table = Table(title="Deliberate bugs", show_lines=False)
    for heading in ("bug", "in", "caught by", "as"):
        table.add_column(heading, overflow="fold" if heading != "as" else "ellipsis", no_wrap=heading == "as")
    for verdict in verdicts:
        assert verdict.mutant is not None
        by = (verdict.by or "[bold red]nobody[/]").rpartition("/")[2]
        table.add_row(verdict.mutant.name, verdict.mutant.file, by, verdict.reason[:90])
    console.print(table)
    caught = [verdict for verdict in verdicts if verdict.by]
    simulated = sum("::" not in (verdict.by or "::") for verdict in verdicts)
    console.print(
        f"{len(caught)} of {len(verdicts)} caught, {simulated} by the simulator, in {seconds:.0f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
