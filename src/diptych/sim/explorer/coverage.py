"""Which rows of the machines' tables an exploration ran."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from diptych.core.control import requests
from diptych.core.worker import source, target

Row = tuple[str, str, str]
"""(table, state, fact)."""
TABLES: dict[str, dict[str, dict[Any, Callable[..., None]]]] = {
    "request": requests.ROWS,
    "target": target.ROWS,
    "source": source.ROWS,
}


def all_rows() -> list[Row]:
    return [
        (table, state, fact.__name__)
        for table, rows in TABLES.items()
        for state, row in rows.items()
        for fact in row
    ]


@contextmanager
def counted() -> Iterator[Counter[Row]]:
    """Counts every row that runs: each is wrapped for as long as this lasts, and runs unchanged."""
    counts: Counter[Row] = Counter()
    originals = {table: {state: dict(row) for state, row in rows.items()} for table, rows in TABLES.items()}
    shared: dict[int, dict[Any, Callable[..., None]]] = {}
    for table, rows in TABLES.items():
        for state, row in list(rows.items()):
            shared[id(row)] = row
            rows[state] = {
                fact: _counting(counts, (table, state, fact.__name__), run) for fact, run in row.items()
            }
    try:
        yield counts
    finally:
        for table, rows in TABLES.items():
            rows.update(originals[table])


def _counting(counts: Counter[Row], name: Row, run: Callable[..., None]) -> Callable[..., None]:
    def row(*arguments: Any) -> None:
        counts[name] += 1
        run(*arguments)

    return row


def why_not(row: Row) -> str:
    """Why no exploration is expected to run the row."""
    for rows, reason in REASONS:
        if row in rows:
            return reason
    return OPEN


def _rows(table: str, states: str, names: str) -> frozenset[Row]:
    """Of the states and facts named, those that are rows."""
    return frozenset(
        row for row in all_rows() if row[0] == table and row[1] in states.split() and row[2] in names.split()
    )


OPEN = "not met within these budgets"
ATTEMPT_FACTS = (
    "TargetReserved TargetRefused PrefillFinished StreamStarted StreamPaused StreamDrained StreamEnded"
)
REASONS: tuple[tuple[frozenset[Row], str], ...] = (
    (
        _rows("request", "absent", ATTEMPT_FACTS),
        "impossible: facts of an attempt that is not the current one end before the table",
    ),
    (
        _rows("request", "adopting", f"RequestArrived ClientGone DeadlinePassed {ATTEMPT_FACTS}")
        | _rows("target", "absent", "RecipeFixed"),
        "control never restarts in these configurations; the seeds of `make sim` restart it",
    ),
    (
        _rows("request", "queued reserving prefilling streaming draining", "RequestArrived"),
        "impossible without a restart of control: a door says it once, and sockets double nothing",
    ),
    (
        _rows("request", "prefilling streaming", "TargetReserved TargetRefused"),
        "impossible: a target answers each ask once, and the answer is what leads here",
    ),
    (
        _rows("request", "streaming", "StreamStarted"),
        "impossible: a worker says it once in an attempt",
    ),
    (
        _rows("request", "reserving prefilling", "StreamEnded"),
        "impossible: StreamStarted comes before it on the same socket",
    ),
    (
        _rows("target", "waiting reserved fetching running closing", "TargetRequested")
        | _rows("source", "asking computing offering closing", "PrefillRequested"),
        "impossible: control asks once in an attempt",
    ),
    (
        _rows("target", "waiting", "RecipeFixed SourceLost PagesOffered ContextNeeded ContextReturned"),
        "impossible: all of it follows TargetReserved, which is said on leaving this state",
    ),
    (
        _rows("target", "fetching running closing", "RecipeFixed")
        | _rows("target", "reserved", "SourceLost"),
        "impossible: control fixes the recipe once for each TargetReserved, and before a source is lost",
    ),
    (
        _rows("target", "closing", "RequestReleased SourceLost"),
        "impossible: control says nothing of an attempt that it has released",
    ),
    (
        _rows("source", "asking", "OfferAnswered"),
        "impossible: nothing is offered before the context is there",
    ),
    (
        _rows("source", "computing offering closing", "ContextLent"),
        "impossible: a source asks for context once, and the answer leads from ASKING",
    ),
)
"""Rows that are there for safety, by why they cannot run here."""
