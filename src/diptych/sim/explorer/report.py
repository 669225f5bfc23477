"""Words for what an exploration found: figures, rows of the tables, and the way to a broken rule."""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.table import Table

from diptych.core import actions, facts
from diptych.sim.events import Event as Happened
from diptych.sim.explorer.configuration import Configuration
from diptych.sim.explorer.coverage import Row, all_rows
from diptych.sim.explorer.reasons import OPEN, why_not
from diptych.sim.explorer.search import Counterexample, Result, Step


def describe(step: Step) -> str:
    """One line for one event."""
    what = _brief(step.message.what) if step.message is not None else ""
    match step.event:
        case ("arrive", sender, to):
            return f"{to} hears from {sender}: {what}"
        case ("twice", sender, to):
            return f"{to} hears from {sender}, not for the last time: {what}"
        case ("run", worker, steps):
            return f"{worker}: its run ends after {steps} steps"
        case ("die", worker, done):
            return f"{worker} dies, {'its run just done' if done else 'in the middle of whatever it does'}"
        case ("suspect", worker):
            return f"the lease of {worker} ends while it lives"
        case ("evict", worker):
            return f"all that {worker} had cached is evicted"
        case ("leave", request):
            return f"the client of {request} hangs up"
        case ("restart",):
            return "control dies, and the next one comes"
        case ("stall",):
            return "control stands still for longer than a lease"
        case ("expire",):
            return "control's next deadline comes"
        case _:
            return "nothing more can come"


def _brief(what: object) -> str:
    name = type(what).__name__
    match what:
        case facts.RequestFact():
            return f"{name} {what.request} attempt {what.attempt % (1 << 20)}{_pages(what)}"
        case actions.FenceWorker():
            return f"{name} {what.worker}"
        case facts.Fact() | Happened():
            named = getattr(what, "request", None) or getattr(what, "worker", None) or ""
            return f"{name} {named}{_pages(what)}".rstrip()
        case _:
            return name


def _pages(fact: object) -> str:
    named = (
        (field, getattr(fact, field, None)) for field in ("pages", "kept", "deposit", "owned", "inherited")
    )
    return "".join(f" {field} {pages}" for field, pages in named if pages)


def story(counterexample: Counterexample) -> list[str]:
    """The shortest path found, with what was said at each step; the last line says what broke."""
    lines = []
    for number, step in enumerate(counterexample.steps, 1):
        lines.append(f"{number:3}. {describe(step)}")
        lines += [f"       {sender} tells {to}: {_brief(said.what)}" for sender, to, said in step.sent]
    return [*lines, f"  => {counterexample.reason}"]


def budget_line(configuration: Configuration) -> str:
    """What it is about, and the budgets that are not zero."""
    budgets = configuration.budgets
    told = [f"{name} {count}" for name in budgets.__struct_fields__ if (count := getattr(budgets, name))]
    return f"{configuration.about}; budgets: {', '.join(told)}"


def table_of(results: list[Result]) -> Table:
    table = Table(title="explored (beyond: successors outside the budgets; runs: times the machines ran)")
    for name in ("configuration", "states", "transitions", "depth", "quiet", "runs", "states/s", "beyond"):
        table.add_column(name, justify="left" if name == "configuration" else "right")
    table.add_column("verdict")
    for result in results:
        table.add_row(
            result.configuration,
            f"{result.states:,}",
            f"{result.transitions:,}",
            str(result.depth),
            f"{result.quiet:,}",
            f"{result.effects:,}",
            f"{result.states / max(result.cpu_seconds, 1e-9):,.0f}",
            ", ".join(f"{count:,} {name}" for name, count in result.cut.items()) or "0",
            verdict(result),
        )
    return table


def sums(results: list[Result]) -> str:
    """All of it in one line."""
    states = sum(result.states for result in results)
    seconds = sum(result.cpu_seconds for result in results)
    largest = max(results, key=lambda result: result.states)
    return (
        f"{states:,} states in {seconds:,.0f} s of CPU time, {states / max(seconds, 1e-9):,.0f} a second;"
        f" the largest configuration is {largest.configuration} with {largest.states:,}"
    )


def verdict(result: Result) -> str:
    if result.counterexample is not None:
        return "BROKEN"
    return "complete" if result.complete else "stopped"


def print_coverage(console: Console, counts: Counter[Row], *, whole: bool) -> bool:
    """How many rows of each table ran and, with the `whole` search done, why each of the others did not.
    False where a reason is wrong: a row ran that is said to be impossible, or one is left without any."""
    rows = all_rows()
    for table in dict.fromkeys(row[0] for row in rows):
        mine = [row for row in rows if row[0] == table]
        console.print(f"{table} table: {sum(row in counts for row in mine)} of {len(mine)} rows ran")
    missed: dict[str, list[Row]] = {}
    for row in rows if whole else ():
        if row not in counts:
            missed.setdefault(why_not(row), []).append(row)
    for reason, listed in missed.items():
        console.print(f"{len(listed)} rows, {reason}:", highlight=False)
        _print_rows(console, listed)
    wrong = [row for row in counts if why_not(row) != OPEN]
    if wrong:
        console.print("[bold]These rows ran, and there is a reason why they cannot:[/bold]")
        _print_rows(console, wrong)
    return not wrong and not (whole and OPEN in missed)


def _print_rows(console: Console, rows: list[Row]) -> None:
    for table, state in dict.fromkeys(row[:2] for row in rows):
        names = ", ".join(row[2] for row in rows if row[:2] == (table, state))
        console.print(f"    {table} / {state}: {names}", highlight=False, soft_wrap=True)
