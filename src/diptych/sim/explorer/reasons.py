"""Rows of the tables that no exploration runs, and why: each is there for safety, or is shown by a test.

`make explore` fails when a row of this table runs, and when one that is neither here nor ran is left.
"""

from __future__ import annotations

import msgspec

from diptych.sim.explorer.coverage import Row, all_rows

OF_AN_ATTEMPT = (
    "TargetReserved TargetRefused PrefillFinished StreamStarted StreamPaused StreamDrained StreamEnded"
)
OPEN = "not met within these budgets"


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    table: str
    states: str
    """Separated by blanks, as the facts: every combination is a row."""
    facts: str
    why: str
    test: str | None = None
    """`path::name` of the test that runs the row where no exploration can."""

    def rows(self) -> list[Row]:
        return [(self.table, state, fact) for state in self.states.split() for fact in self.facts.split()]


REASONS: tuple[Reason, ...] = (
    Reason(
        table="request",
        states="absent",
        facts=f"FetchFailed {OF_AN_ATTEMPT}",
        why="facts of an attempt that is not the current one end before the table",
    ),
)


def rows_by_reason(reasons: tuple[Reason, ...]) -> dict[Row, str]:
    """Raises `LookupError` where a reason names a row that no table has."""
    why = {row: reason.why for reason in reasons for row in reason.rows()}
    unknown = why.keys() - set(all_rows())
    if unknown:
        raise LookupError(f"reasons for rows that no table has: {sorted(unknown)}")
    return why


_WHY = rows_by_reason(REASONS)


def why_not(row: Row) -> str:
    """Why no exploration is expected to run the row."""
    return _WHY.get(row, OPEN)
