"""Words for what an exploration found: figures, rows of the tables, and the way to a broken rule."""

from __future__ import annotations

from collections import Counter

from rich.console import Console
from rich.table import Table

from diptych.core import actions, facts
from diptych.sim.events import Event as Happened
from diptych.sim.explorer.configuration import Configuration
from diptych.sim.explorer.coverage import Row, all_rows, why_not
from diptych.sim.explorer.search import BROKEN, Counterexample, Explorer, Result
from diptych.sim.explorer.state import Event


def describe(event: Event, what: object = None) -> str:
    """One line for one event."""
    match event:
        case ("arrive", sender, to):
            return f"{to} hears from {sender}: {_brief(what)}"
        case ("run", worker, steps):
            return f"{worker}: its run ends after {steps} steps"
        case ("die", worker, done):
            return f"{worker} dies, {'its run just done' if done else 'in the middle of whatever it does'}"
        case ("suspect", worker):
            return f"control takes {worker} for lost while it lives"
        case ("leave", request):
            return f"the client of {request} hangs up"
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


def story(explorer: Explorer, counterexample: Counterexample) -> list[str]:
    """The shortest path found, as lines; the last one says what broke."""
    state, lines = explorer.start, []
    for number, event in enumerate(counterexample.events, 1):
        what = None
        if event[0] == "arrive":
            first = state.channels[event[1], str(event[2])][0]
            what = explorer.post.messages[first].what
        lines.append(f"{number:3}. {describe(event, what)}")
        try:
            if event[0] != "quiet":
                state = explorer.follow(state, event)
        except BROKEN:
            break
    return [*lines, f"  => {counterexample.reason}"]


def budget_line(configuration: Configuration) -> str:
    budgets = configuration.budgets
    told = [f"{name} {getattr(budgets, name)}" for name in budgets.__struct_fields__]
    return f"{configuration.about}; budgets: {', '.join(told)}, doubled messages 0 (sockets have none)"


def table_of(results: list[Result]) -> Table:
    table = Table(
        title="explored (states for each second of CPU time; beyond: successors outside the budgets)"
    )
    for name in (
        "configuration",
        "states",
        "transitions",
        "depth",
        "quiet",
        "states/s",
        "beyond",
        "verdict",
    ):
        table.add_column(name, justify="left" if name in ("configuration", "verdict") else "right")
    for result in results:
        table.add_row(
            result.configuration,
            f"{result.states:,}",
            f"{result.transitions:,}",
            str(result.depth),
            str(result.quiet),
            f"{result.states / max(result.cpu_seconds, 1e-9):,.0f}",
            ", ".join(f"{count} {name}" for name, count in result.cut.items()) or "0",
            verdict(result),
        )
    return table


def verdict(result: Result) -> str:
    if result.counterexample is not None:
        return "BROKEN"
    return "complete" if result.complete else "stopped"


def print_coverage(console: Console, counts: Counter[Row]) -> None:
    """Rows by table, and each that did not run with the reason."""
    rows = all_rows()
    for table in dict.fromkeys(row[0] for row in rows):
        mine = [row for row in rows if row[0] == table]
        console.print(f"{table} table: {sum(row in counts for row in mine)} of {len(mine)} rows ran")
    missed: dict[str, list[Row]] = {}
    for row in rows:
        if row not in counts:
            missed.setdefault(why_not(row), []).append(row)
    for reason, listed in missed.items():
        console.print(f"{len(listed)} rows, {reason}:", highlight=False)
        for table, state in dict.fromkeys(row[:2] for row in listed):
            names = ", ".join(row[2] for row in listed if row[:2] == (table, state))
            console.print(f"    {table} / {state}: {names}", highlight=False, soft_wrap=True)
