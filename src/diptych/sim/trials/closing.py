"""What is printed when all scenarios were tried."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from diptych.sim.faults.tally import Count, add
from diptych.sim.run import Outcome


class Totals:
    """Sums over outcomes."""

    def __init__(self) -> None:
        self.scenarios = self.requests = self.whole = self.resumed = self.events = 0
        self.endings: dict[str, int] = {}
        self.splits: dict[str, int] = {}
        self.faults: dict[str, Count] = {}

    def add(self, outcome: Outcome) -> None:
        self.scenarios += 1
        self.requests += outcome.requests
        self.whole += outcome.whole
        self.resumed += outcome.resumed
        self.events += outcome.events
        for name, count in outcome.failures.items():
            self.endings[name] = self.endings.get(name, 0) + count
        for name, count in outcome.splits.items():
            self.splits[name] = self.splits.get(name, 0) + count
        add(self.faults, outcome.faults)


def show(console: Console, totals: Totals, failed: int, seconds: float) -> None:
    if totals.faults:
        table = Table(title="Faults")
        table.add_column("kind")
        for heading in ("injected", "took effect", "met"):
            table.add_column(heading, justify="right")
        for kind, count in sorted(totals.faults.items()):
            table.add_row(kind, f"{count.injected:,}", f"{count.effective:,}", f"{count.touched:,}")
        console.print(table)
    endings = ", ".join(f"{count:,} {name}" for name, count in sorted(totals.endings.items())) or "none"
    splits = ", ".join(f"{count:,} {name}" for name, count in totals.splits.items())
    console.print(
        f"{totals.scenarios:,} seeds passed, {failed:,} failed in {seconds:.1f} s:"
        f" {totals.requests:,} requests, {totals.whole:,} whole"
        f" ({totals.resumed:,} after more than one attempt), {totals.events:,} events",
        highlight=False,
        soft_wrap=True,
    )
    console.print(f"other ends: {endings}; splits: {splits}", highlight=False, soft_wrap=True)
