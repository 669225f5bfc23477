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
    Reason(
        table="request",
        states="queued reserving prefilling streaming draining adopting",
        facts="FetchFailed",
        why="pages are pulled between hosts only, and the explored fleets are of one host",
    ),
    Reason(
        table="source",
        states="waiting",
        facts="PrefillRequested ContextLent OfferAnswered RequestReleased",
        why="a source waits for pages only where a target of another host copies them",
    ),
    Reason(
        table="request",
        states="queued reserving prefilling streaming draining adopting",
        facts="RequestArrived",
        why="a door says it once to a control plane, and names what is open to the next one instead",
    ),
    Reason(
        table="request",
        states="prefilling streaming",
        facts="TargetRefused",
        why="a target answers an ask in one way, and has reserved what leads here",
    ),
    Reason(
        table="request",
        states="streaming",
        facts="TargetReserved",
        why="a second copy of it comes before StreamStarted on the same socket",
    ),
    Reason(
        table="request",
        states="reserving prefilling",
        facts="StreamEnded",
        why="StreamStarted comes before it on the same socket",
    ),
    Reason(
        table="request",
        states="queued",
        facts="StreamEnded",
        why="a door states what the client has when it has read all; an ended stream is complete then",
    ),
    Reason(
        table="request",
        states="adopting",
        facts="TargetReserved TargetRefused PrefillFinished",
        why="without control a worker lets go of all but its running streams",
    ),
    Reason(
        table="request",
        states="adopting",
        facts="StreamPaused",
        why="a worker names the stream as it joins, which adopts it, before it can pause it",
    ),
    Reason(
        table="target",
        states="waiting",
        facts="RecipeFixed SourceLost PagesOffered ContextNeeded ContextReturned",
        why="all of it follows TargetReserved, which is said on leaving this state",
    ),
    Reason(
        table="target",
        states="fetching running closing",
        facts="TargetRequested",
        why="even a second copy of it comes before the recipe on the same socket",
    ),
    Reason(
        table="target",
        states="reserved",
        facts="SourceLost",
        why="control says it after RecipeFixed, once for each",
    ),
    Reason(
        table="target",
        states="closing",
        facts="RecipeFixed SourceLost",
        why="control says nothing of an attempt that it has released but that once more",
    ),
    Reason(
        table="source",
        states="asking",
        facts="OfferAnswered",
        why="nothing is offered before the context is there",
    ),
    Reason(
        table="source",
        states="closing",
        facts="PrefillRequested",
        why="even a second copy of it comes before the release on the same socket",
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
