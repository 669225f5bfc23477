"""The document of the state tables is current, and its diagrams are what simulated runs really do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from diptych.core import facts
from diptych.core.config import ControlConfig
from diptych.core.control import ControlPlane
from diptych.core.control.request import Request
from diptych.core.control.requests import Requests
from diptych.core.recipe import OPEN_END, join
from diptych.core.worker.sequence import Source, Target
from diptych.core.worker.source import Sources
from diptych.core.worker.target import Targets
from diptych.sim import states
from diptych.sim.faults import random_scenario
from diptych.sim.handoff import handoff_scenario
from diptych.sim.scenario import Scenario
from diptych.sim.world import World

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "states.md"
SEEDS = range(16)
RARE_SEEDS = (40, 49, 85, 223)
"""With a stream adopted, one ended before it was, a source let go in line, a pause before its start."""
Changes = set[tuple[str, str]]


def test_the_document_is_current() -> None:
    assert DOCUMENT.read_text() == states.document(), "run `make states`"


@pytest.mark.parametrize("table", states.TABLES, ids=lambda table: table.title)
def test_every_state_has_a_meaning_and_a_place_in_the_diagram(table: states.Table) -> None:
    named = set(table.module.ROWS)
    assert named - {states.ABSENT} <= set(states.meanings(table.states))
    assert {state for edge in table.life for state in edge} == named


class Watched:
    """Stands in for the `state` slot of a class and notes every change."""

    def __init__(self, kind: Any, changes: Changes) -> None:
        self.slot = kind.state
        self.changes = changes

    def __get__(self, task: Any, kind: Any = None) -> Any:
        return self if task is None else self.slot.__get__(task, kind)

    def __set__(self, task: Any, after: str) -> None:
        try:
            before = self.slot.__get__(task)
        except AttributeError:
            before = states.ABSENT
        self.slot.__set__(task, after)
        if before != after:
            self.changes.add((before, after))


@pytest.fixture
def changes(monkeypatch: pytest.MonkeyPatch) -> tuple[Changes, Changes, Changes]:
    """What requests, targets and sources do, in the order of the tables."""
    found: list[Changes] = []
    for kind, owner, end in (
        (Request, Requests, "_forget"),
        (Target, Targets, "_drop"),
        (Source, Sources, "_drop"),
    ):
        seen: Changes = set()
        found.append(seen)
        monkeypatch.setattr(kind, "state", Watched(kind, seen))
        monkeypatch.setattr(owner, end, noting(getattr(owner, end), seen))
    return found[0], found[1], found[2]


def noting(ends: Any, seen: Changes) -> Any:
    def end(desk: Any, task: Any) -> None:
        seen.add((task.state, states.ABSENT))
        ends(desk, task)

    return end


def play(scenario: Scenario) -> None:
    world = World(scenario)
    assert world.driver.run(world.idle, scenario.horizon_ns)


def pause_before_it_is_adopted() -> None:
    """A worker preempts a stream while control is down: only a door can tell the next control in time."""
    control = ControlPlane(ControlConfig(epoch=2))
    arrived = facts.RequestArrived(
        request="r", door="door-0", model="model", prompt_tokens=9, page_hashes=(), tokens_max=8
    )
    starts = (facts.SequenceStart(0, 2),)
    opened = facts.OpenRequest(arrived, 3, join(("int8", OPEN_END)), starts)
    control.step(0, facts.DoorJoined(door="door-0", open=(opened,)))
    control.step(1, facts.StreamDrained(request="r", attempt=3, starts=starts))
    assert control.status().queued == 1


def test_the_diagrams_are_what_happens(changes: tuple[Changes, Changes, Changes]) -> None:
    requests, targets, sources = changes
    for seed in (*SEEDS, *RARE_SEEDS):
        play(handoff_scenario(seed))
    for seed in SEEDS:
        play(random_scenario(seed))
    pause_before_it_is_adopted()
    # A request that a door brings along is made as any other, and adopted in the same breath.
    if ("queued", "adopting") in requests:
        requests.remove(("queued", "adopting"))
        requests.add((states.ABSENT, "adopting"))
    for table, seen in zip(states.TABLES, (requests, targets, sources), strict=True):
        assert seen - set(table.life) == set(), f"{table.title}: happens and is not drawn"
        assert set(table.life) - seen == set(), f"{table.title}: is drawn and does not happen"
