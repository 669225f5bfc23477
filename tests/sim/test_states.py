"""The document of the state tables is current, and its diagrams are what simulated runs really do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from diptych.core import facts
from diptych.core.actions import Send
from diptych.core.config import ControlConfig, WorkerConfig
from diptych.core.control import ControlPlane
from diptych.core.control.request import Request
from diptych.core.control.requests import Requests
from diptych.core.recipe import OPEN_END, join
from diptych.core.worker import Worker
from diptych.core.worker.sequence import Source, Target
from diptych.core.worker.source import Sources
from diptych.core.worker.target import Targets
from diptych.sim import states
from diptych.sim.scenario import Scenario
from diptych.sim.seeds.handoff import handoff_scenario
from diptych.sim.seeds.hosts import hosts_scenario
from diptych.sim.seeds.mixed import random_scenario
from diptych.sim.world import World

pytestmark = pytest.mark.interpreted  # The document is read off the source.

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "states.md"
SEEDS = range(60)
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


ARRIVED = facts.RequestArrived(
    request="r", door="door-0", model="model", prompt_tokens=9, page_hashes=(), tokens_max=8
)
STARTS = (facts.SequenceStart(0, 2),)
WORKER = facts.WorkerJoined(
    worker="both-0@1", host="host", role="both", engine="scripted", models=("model",), numerics=("int8",),
    formats=("int8",), page_tokens=4, context_tokens_max=64, prefill_ns_per_token=1, decode_ns_per_step=1,
)  # fmt: skip


def drained(attempt: int) -> facts.StreamDrained:
    return facts.StreamDrained(request="r", attempt=attempt, starts=STARTS)


def meet_rare_orders() -> None:
    """Orders of control's mail that few seeds bring: a door is heard before the worker, or the worker's
    word of a start after the news of its source's end."""
    opened = facts.OpenRequest(ARRIVED, 3, join(("int8", OPEN_END)), STARTS)
    for streams in ((), (("r", 3),)):
        control = ControlPlane(ControlConfig(epoch=2))
        control.step(0, facts.DoorJoined(door="door-0", open=(opened,)))
        if streams:
            control.step(1, msgspec.structs.replace(WORKER, streams=streams))
        control.step(2, drained(3))
        assert control.status().queued == 1
    host = facts.HostStated(host="host", pool_pages=8, workers=("both-0@1",), shares=(("both-0", 8),))
    for reserved in (True, False):
        control = ControlPlane(ControlConfig())
        told = [*control.step(0, host), *control.step(1, WORKER), *control.step(2, ARRIVED)]
        (attempt,) = (send.fact.attempt for send in told if isinstance(send.fact, facts.TargetRequested))
        about = {"request": "r", "attempt": attempt, "worker": "both-0@1"}
        if reserved:
            control.step(3, facts.TargetReserved(**about, held_tokens=0, held=()))
            control.step(4, drained(attempt))
        else:
            control.step(3, facts.StreamStarted(**about, waited_ns=0))
            assert control.status().decoding == 1


def let_go_of_sources_in_line() -> None:
    """The turn of one had not come: another one's run was in hand. Another is too large for its pool."""
    worker = Worker(
        WorkerConfig(
            worker="prefill-0@1", host="host", role="prefill", engine="scripted", models=("model",),
            numerics=("int8",), formats=("int8",), context_tokens_max=64, page_tokens=4,
        )
    )  # fmt: skip
    worker.step(0, facts.PagesGranted(pages=((0, 8),), room=8))
    for name in ("first", "second"):
        asked = facts.PrefillRequested(
            request=name, attempt=1, model="model", page_hashes=(name.encode(),), held_tokens=0, split=4,
            recipe=join(("int8", OPEN_END)), target="decode-0@1",
        )  # fmt: skip
        worker.step(1, asked)
    worker.step(2, facts.RequestReleased(request="second", attempt=1))
    large = msgspec.structs.replace(
        asked,
        request="large",
        split=400,
        page_hashes=tuple(bytes((n,)) for n in range(100)),
        shares_pool=False,
    )
    told = [action.fact for action in worker.step(3, large) if isinstance(action, Send)]
    (failed,) = (fact for fact in told if isinstance(fact, facts.FetchFailed))
    assert failed.why == "a prefix of 400 tokens does not fit its pool"


def test_the_diagrams_are_what_happens(changes: tuple[Changes, Changes, Changes]) -> None:
    requests, targets, sources = changes
    for seed in SEEDS:
        play(handoff_scenario(seed))
    for seed in SEEDS:
        play(random_scenario(seed))
    for seed in SEEDS:
        play(hosts_scenario(seed))
    meet_rare_orders()
    let_go_of_sources_in_line()
    # A request that a door brings along is made as any other, and adopted in the same breath.
    if ("queued", "adopting") in requests:
        requests.remove(("queued", "adopting"))
        requests.add((states.ABSENT, "adopting"))
    for table, seen in zip(states.TABLES, (requests, targets, sources), strict=True):
        assert seen - set(table.life) == set(), f"{table.title}: happens and is not drawn"
        assert set(table.life) - seen == set(), f"{table.title}: is drawn and does not happen"
