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
