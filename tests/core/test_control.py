"""The control plane by hand: every kind of bad news in every state a request can be in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from diptych.core import facts
from diptych.core.facts import Fact
from diptych.core.recipe import OPEN_END, join

P, D, DOOR = "prefill-0@1", "decode-0@1", "door-0"
MS = 1_000_000
CANONICAL = join(("int8", 40), ("int4", OPEN_END))


def only(told: list[Fact], kind: type[Fact]) -> Any:
    found = [fact for fact in told if isinstance(fact, kind)]
    assert len(found) == 1, f"{kind.__name__} in {told}"
    return found[0]


STATES = ["queued", "reserving", "prefilling", "streaming", "draining", "adopting"]
HOLDERS = {"reserving": {D}, "prefilling": {D, P}, "streaming": {D, P}}


@pytest.fixture(params=STATES)
def entered(request: pytest.FixtureRequest, new_desk: Callable[..., Any]) -> tuple[str, Any]:
    desk = new_desk()
    getattr(desk, request.param)()
    return request.param, desk


def released(told: dict[str, list[Fact]]) -> set[str]:
    return {to for to, said in told.items() if any(isinstance(fact, facts.RequestReleased) for fact in said)}


def nothing_booked(desk: Any) -> bool:
    return all(
        (view.streams, view.waiting, view.pending_tokens) == (0, 0, 0)
        for view in desk.machine.fleet.workers.values()
    )


def test_a_client_that_goes_frees_every_worker(entered: tuple[str, Any]) -> None:
    state, desk = entered
    told = desk.say(facts.ClientGone(request="r"))
    assert released(told) == HOLDERS.get(state, set())
    assert only(told[DOOR], facts.RequestEnded).failure is not None
    assert not desk.open()
    assert nothing_booked(desk)
    assert desk.say(facts.ClientGone(request="r")) == {}


@pytest.mark.parametrize("state", STATES)
def test_a_deadline_ends_the_request(new_desk: Callable[..., Any], state: str) -> None:
    desk = new_desk()
    desk.deadline_ns = 400 * MS
    getattr(desk, state)()
    told = desk.say(facts.DeadlinePassed(), after_ns=500 * MS)
    assert released(told) == HOLDERS.get(state, set())
    assert only(told[DOOR], facts.RequestEnded).record.finish_reason == "deadline"
    assert not desk.open()
    assert nothing_booked(desk)


def test_the_death_of_the_target_interrupts_the_stream(entered: tuple[str, Any]) -> None:
    state, desk = entered
    told = desk.say(facts.WorkerLost(worker=D))
    interrupted = [fact for fact in told.get(DOOR, []) if isinstance(fact, facts.StreamInterrupted)]
    assert len(interrupted) == (state in HOLDERS or state == "draining"), "it was paused there"
    assert desk.open()
    assert released(told) <= {P}
    assert D not in told
    told = desk.say(facts.WorkerLost(worker=D))
    assert released(told) == set()


def test_the_death_of_the_source_leaves_the_target_its_pages(
    entered: tuple[str, Any],
) -> None:
    state, desk = entered
    told = desk.say(facts.WorkerLost(worker=P))
    assert any(isinstance(fact, facts.SourceLost) for fact in told.get(D, [])) == (state == "prefilling")
    assert desk.open()
    if state == "prefilling":
        told = desk.about(facts.TargetReserved, worker=D, held_tokens=16, held=join(("int8", 16)))
        fixed = only(told[D], facts.RecipeFixed)
        assert (fixed.recipe, fixed.source) == (CANONICAL, None)


def test_a_lost_door_ends_what_it_had_open(entered: tuple[str, Any]) -> None:
    state, desk = entered
    told = desk.say(facts.DoorLost(door=DOOR))
    assert released(told) == HOLDERS.get(state, set())
    assert not desk.open()
    assert nothing_booked(desk)


PREFILLED = {
    "worker": P,
    "computed_tokens": 4,
    "cached_tokens": 0,
    "duration_ns": 1,
    "waited_ns": 0,
    "handoff_pages": 1,
    "handoff_ns": 1,
}
LATE = [
    (facts.TargetReserved, {"worker": D, "held_tokens": 0, "held": ()}),
    (facts.TargetRefused, {"worker": D, "reason": "too_long", "needed_tokens": 9, "limit_tokens": 8}),
    (facts.PrefillFinished, PREFILLED),
    (facts.StreamStarted, {"worker": D, "waited_ns": 0}),
    (facts.StreamPaused, {"worker": D}),
    (facts.StreamEnded, {"worker": D, "outputs": ((0, 3),), "reasons": ("length",)}),
    (facts.StreamDrained, {"starts": ()}),
]


@pytest.mark.parametrize(("kind", "fields"), LATE, ids=lambda value: getattr(value, "__name__", ""))
def test_facts_of_another_attempt_change_nothing(
    entered: tuple[str, Any], kind: type[Any], fields: dict[str, Any]
) -> None:
    _, desk = entered
    status = desk.machine.status()
    for attempt in (desk.attempt - 1, desk.attempt + 1):
        assert desk.say(kind(request="r", attempt=attempt, **fields)) == {}
        assert desk.say(kind(request="unheard", attempt=attempt, **fields)) == {}
    assert desk.open()
    assert desk.machine.status() == status


@pytest.mark.parametrize(("kind", "fields"), LATE, ids=lambda value: getattr(value, "__name__", ""))
def test_facts_of_this_attempt_are_rows_in_every_state(
    entered: tuple[str, Any], kind: type[Any], fields: dict[str, Any]
) -> None:
    _, desk = entered
    desk.about(kind, **fields)
    desk.about(kind, **fields)
    status = desk.machine.status()
    counted = status.queued + status.prefilling + status.transferring + status.decoding
    assert counted == desk.open()


def test_a_repeated_arrival_changes_nothing(entered: tuple[str, Any]) -> None:
    _, desk = entered
    status = desk.machine.status()
    assert desk.arrive() == {}
    assert desk.machine.status() == status


def test_a_closed_socket_is_a_reason_to_fence_once(entered: tuple[str, Any]) -> None:
    _, desk = entered
    known = D in desk.machine.fleet.workers or D in desk.machine.loading
    desk.say(facts.ConnectionLost(peer=D))
    desk.say(facts.ConnectionLost(peer=D))
    assert desk.fenced == [D] * known


def test_a_driver_that_stood_still_blames_nobody(entered: tuple[str, Any]) -> None:
    _, desk = entered
    pause_ns = 60_000 * MS
    desk.say(facts.DriverStalled(duration_ns=pause_ns), after_ns=pause_ns)
    desk.say(facts.DeadlinePassed(), after_ns=0)
    assert desk.fenced == []


def test_silence_beyond_the_lease_is_fenced_and_nothing_else_is(new_desk: Callable[..., Any]) -> None:
    desk = new_desk(lease_ns=100 * MS).fleet(room=32)
    desk.say(
        facts.WorkerBeat(worker=P, pages_free=1, pages_held=0, pages_cached=0, waiting=0, running=0,
                         prompt_tokens_pending=0, prefill_ns_per_token=1, decode_ns_per_step=1),
        after_ns=80 * MS,
    )  # fmt: skip
    assert desk.machine.next_deadline_ns() is not None
    desk.say(facts.DeadlinePassed(), after_ns=40 * MS)
    assert desk.fenced == [D]


def test_a_run_that_overruns_its_prediction_is_fenced(new_desk: Callable[..., Any]) -> None:
    desk = new_desk(overrun_ns=50 * MS).fleet(room=32)
    beat = {"pages_free": 1, "pages_held": 0, "pages_cached": 0, "waiting": 0, "running": 1,
            "prompt_tokens_pending": 0, "prefill_ns_per_token": 1, "decode_ns_per_step": 1}  # fmt: skip
    desk.say(facts.WorkerBeat(worker=P, run_overdue_ns=49 * MS, **beat))
    assert desk.fenced == []
    desk.say(facts.WorkerBeat(worker=P, run_overdue_ns=51 * MS, **beat))
    assert desk.fenced == [P]


def test_a_worker_that_never_joins_is_fenced_at_its_limit(new_desk: Callable[..., Any]) -> None:
    desk = new_desk()
    desk.say(facts.WorkerSpawned(worker=D, host="host", limit_ns=100 * MS))
    desk.say(facts.DeadlinePassed(), after_ns=99 * MS)
    assert desk.fenced == []
    desk.say(facts.DeadlinePassed(), after_ns=2 * MS)
    assert desk.fenced == [D]
