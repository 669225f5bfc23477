"""The explorer: small fleets in full, what counts as one state, and that a broken rule is found."""

from __future__ import annotations

import msgspec
import pytest

from diptych.core.facts import PagesOffered
from diptych.core.pages.ledger import Ledger
from diptych.core.worker import target
from diptych.core.worker.source import Sources
from diptych.sim.explorer.configuration import CONFIGURATIONS, Budgets, Configuration
from diptych.sim.explorer.coverage import OPEN, TABLES, all_rows, counted, why_not
from diptych.sim.explorer.report import story
from diptych.sim.explorer.search import Explorer
from diptych.sim.explorer.state import State, key_of
from diptych.sim.explorer.world import POOL


def named(name: str, **budgets: int) -> Configuration:
    found = next(configuration for configuration in CONFIGURATIONS if configuration.name == name)
    return msgspec.structs.replace(found, budgets=Budgets(**budgets)) if budgets else found


@pytest.mark.parametrize("name", ["pair", "chunks", "compete", "next-turn", "too-long"])
def test_a_small_fleet_keeps_every_rule_in_every_order(name: str) -> None:
    explorer = Explorer(named(name))
    result = explorer.run(states_max=40_000)
    assert result.counterexample is None, "\n".join(story(explorer, result.counterexample))
    assert result.complete
    assert not result.cut
    assert result.quiet > 0
    assert result.states > 80


def test_a_death_is_met_in_the_first_states() -> None:
    explorer = Explorer(named("pair-death"))
    result = explorer.run(states_max=15_000)
    assert result.counterexample is None, "\n".join(story(explorer, result.counterexample))
    reborn = {name for effect in explorer._effects.values() for name, _ in effect.parts if "@2" in name}
    assert reborn == {"prefill-0@2", "decode-0@2"}


def test_a_claimed_page_that_is_freed_is_found_by_a_shortest_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that does not pin what it offers."""
    original = Sources._offer

    def forgetful(self: Sources, now_ns: int, task: object) -> None:
        original(self, now_ns, task)  # type: ignore[arg-type]
        for _, leaf in self.offers.values():
            self.ledger.tree.unpin(leaf)

    monkeypatch.setattr(Sources, "_offer", forgetful)
    explorer = Explorer(named("pair"))
    result = explorer.run(states_max=40_000)
    assert result.counterexample is not None
    lines = story(explorer, result.counterexample)
    assert lines[-1].startswith("  => ")
    assert len(lines) == len(result.counterexample.events) + 1


def test_a_missing_row_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(target.ROWS["running"], target.RequestReleased)
    result = Explorer(named("pair")).run(states_max=40_000)
    assert result.counterexample is not None
    assert "ImpossibleFact" in result.counterexample.reason
    assert any(event[0] in ("leave", "expire") for event in result.counterexample.events)


def test_a_deposit_that_never_comes_back_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ledger, "settle", lambda self: None)
    result = Explorer(named("compete")).run(states_max=40_000)
    assert result.counterexample is not None


def test_states_that_differ_in_free_pages_only_are_one() -> None:
    explorer = Explorer(named("pair"))
    start = explorer.start
    explorer._thaw(start, sorted(start.parts))
    seat = explorer.world.seat("decode-0@1")
    free = seat.worker.ledger.free
    free[0], free[-1] = free[-1], free[0]
    frozen = dict(explorer._freeze(set(start.parts)).parts)
    swapped = State(frozen, start.channels)
    assert frozen["decode-0@1"] != start.parts["decode-0@1"]
    assert frozen[POOL] == start.parts[POOL]
    keys = {key_of(state, explorer.cells, explorer.post) for state in (start, swapped)}
    assert len(keys) == 1


def test_states_that_differ_in_whose_a_page_is_are_two() -> None:
    explorer = Explorer(named("pair"))
    start = explorer.start
    explorer._thaw(start, sorted(start.parts))
    pages = explorer.world.seat("decode-0@1").worker.ledger.free
    explorer.world.seat("prefill-0@1").worker.ledger.free.append(pages.pop())
    other = State(dict(explorer._freeze(set(start.parts)).parts), start.channels)
    assert len({key_of(state, explorer.cells, explorer.post) for state in (start, other)}) == 2


def test_rows_are_counted_and_the_tables_come_back() -> None:
    before = {name: {state: dict(row) for state, row in rows.items()} for name, rows in TABLES.items()}
    with counted() as counts:
        Explorer(named("pair")).run(states_max=3000)
    assert counts["target", "fetching", PagesOffered.__name__] > 0
    assert {
        name: {state: dict(row) for state, row in rows.items()} for name, rows in TABLES.items()
    } == before
    assert set(counts) <= set(all_rows())


def test_a_row_that_is_called_impossible_never_runs() -> None:
    with counted() as counts:
        Explorer(named("pair-death")).run(states_max=8000)
        Explorer(named("preempt")).run(states_max=8000)
    excused = {row for row in all_rows() if why_not(row) != OPEN}
    assert 20 < len(excused) < len(all_rows()) // 2
    assert excused & set(counts) == set()
