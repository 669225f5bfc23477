"""The explorer: small fleets in full, what counts as one state, and that a broken rule is found."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from diptych.core.facts import PagesOffered
from diptych.core.pages.ledger import Ledger
from diptych.core.worker import target
from diptych.core.worker.source import Sources
from diptych.sim.explorer.configuration import CONFIGURATIONS, Budgets, Configuration
from diptych.sim.explorer.coverage import TABLES, Row, all_rows, counted
from diptych.sim.explorer.reasons import OPEN, REASONS, Reason, rows_by_reason, why_not
from diptych.sim.explorer.report import print_coverage, story
from diptych.sim.explorer.search import Explorer, Result

pytestmark = pytest.mark.interpreted  # It takes snapshots of machines, and compiled ones have none.


def named(name: str, **budgets: int) -> Configuration:
    found = next(configuration for configuration in CONFIGURATIONS if configuration.name == name)
    return msgspec.structs.replace(found, budgets=Budgets(**budgets)) if budgets else found


SMALL = ("pair", "chunks", "doubles", "sequences", "too-long", "next-turn", "restart-twice")


@pytest.fixture(scope="module")
def searched() -> tuple[dict[str, Result], Counter[Row]]:
    """The small configurations in full, and the rows that ran in them."""
    with counted() as rows:
        return {name: Explorer(named(name)).run() for name in SMALL}, Counter(dict(rows))


@pytest.mark.parametrize("name", SMALL)
def test_a_small_fleet_keeps_every_rule_in_every_order(
    name: str, searched: tuple[dict[str, Result], Counter[Row]]
) -> None:
    result = searched[0][name]
    assert result.counterexample is None, "\n".join(story(result.counterexample))
    assert result.complete
    assert result.quiet > 0
    assert result.states > 50
    # Only messages beyond those that may be in flight were not followed.
    assert set(result.cut) <= {"messages"}


def test_a_row_that_is_called_impossible_never_runs(
    searched: tuple[dict[str, Result], Counter[Row]],
) -> None:
    _, rows = searched
    assert len(rows) > len(all_rows()) // 3
    assert {row: why_not(row) for row in rows if why_not(row) != OPEN} == {}


def test_every_reason_is_about_rows_that_are_there_and_names_tests_that_exist() -> None:
    listed = [row for reason in REASONS for row in reason.rows()]
    assert set(listed) <= set(all_rows())
    assert len(listed) == len(set(listed)), "a row has two reasons"
    root = Path(__file__).parents[2]
    for reason in REASONS:
        assert len(reason.why.split()) > 3
        if reason.test is not None:
            path, _, name = reason.test.partition("::")
            assert f"def {name}(" in (root / path).read_text(), reason.test


def test_a_reason_for_a_row_that_no_table_has_is_an_error() -> None:
    with pytest.raises(LookupError, match="no table has"):
        rows_by_reason((Reason(table="target", states="waiting", facts="StreamEnded", why="it cannot be"),))


def test_coverage_is_sound_only_where_every_row_ran_or_has_a_reason_that_holds() -> None:
    console = Console(file=io.StringIO(), width=200)
    due = Counter([row for row in all_rows() if why_not(row) == OPEN])
    excused = REASONS[0].rows()[0]
    assert print_coverage(console, due, whole=True)
    assert print_coverage(console, Counter(list(due)[:3]), whole=False)
    assert not print_coverage(console, Counter(list(due)[:-1]), whole=True)
    assert not print_coverage(console, due + Counter([excused]), whole=True)
    told = console.file.getvalue()  # type: ignore[attr-defined]
    assert REASONS[0].why in told
    assert f"{excused[0]} / {excused[1]}: {excused[2]}" in told


def test_a_death_is_met_in_the_first_states() -> None:
    explorer = Explorer(named("pair-death"))
    result = explorer.run(states_max=15_000)
    assert result.counterexample is None, "\n".join(story(result.counterexample))
    assert not result.complete
    assert {"prefill-0@2", "decode-0@2"} <= set(explorer.numbers.names)


def test_a_claimed_page_that_is_freed_is_found_by_a_shortest_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that does not pin what it offers."""
    original = Sources._offer

    def forgetful(self: Sources, now_ns: int, task: object) -> None:
        original(self, now_ns, task)  # type: ignore[arg-type]
        for _, leaf in self.offers.values():
            self.ledger.tree.unpin(leaf)

    monkeypatch.setattr(Sources, "_offer", forgetful)
    result = Explorer(named("pair")).run()
    assert result.counterexample is not None
    lines = story(result.counterexample)
    assert lines[-1].startswith("  => ")
    assert [line[:3] for line in lines if line[3] == "."] == [
        f"{number:3}" for number in range(1, len(result.counterexample.steps) + 1)
    ]


def test_a_missing_row_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(target.ROWS["running"], target.RequestReleased)
    result = Explorer(named("pair")).run()
    assert result.counterexample is not None
    assert "ImpossibleFact" in result.counterexample.reason
    assert any(step.event[0] in ("leave", "expire") for step in result.counterexample.steps)


def test_a_deposit_that_never_comes_back_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ledger, "settle", lambda self: None)
    result = Explorer(named("compete")).run()
    assert result.counterexample is not None


def keys_of_two(swap: str) -> int:
    """How many keys the start state has and the same with free pages moved."""
    explorer = Explorer(named("pair"))
    names = explorer.numbers.names
    cells = explorer.start[2 : 2 + explorer.start[1]]
    explorer._thaw({names[slot]: cell for slot, cell in enumerate(cells) if cell})
    free = explorer.world.seat("decode-0@1").worker.ledger.free
    if swap == "order":
        free[0], free[-1] = free[-1], free[0]
    else:
        explorer.world.seat("prefill-0@1").worker.ledger.free.append(free.pop())
    parts, _, _, _ = explorer._frozen()
    moved = list(explorer.start)
    for slot, cell in parts:
        moved[2 + slot] = cell
    assert moved != explorer.start
    return len({explorer.graph.key(explorer.start), explorer.graph.key(moved)})


def test_states_that_differ_in_the_numbers_of_free_pages_are_one() -> None:
    assert keys_of_two("order") == 1


def test_states_that_differ_in_whose_a_page_is_are_two() -> None:
    assert keys_of_two("owner") == 2


def test_rows_are_counted_and_the_tables_come_back() -> None:
    before = {name: {state: dict(row) for state, row in rows.items()} for name, rows in TABLES.items()}
    with counted() as counts:
        Explorer(named("pair")).run(states_max=3000)
    assert counts["target", "fetching", PagesOffered.__name__] > 0
    assert {
        name: {state: dict(row) for state, row in rows.items()} for name, rows in TABLES.items()
    } == before
    assert set(counts) <= set(all_rows())
