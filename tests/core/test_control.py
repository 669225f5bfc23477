"""The control plane by hand: every kind of bad news in every state a request can be in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from diptych.core import facts
from diptych.core.actions import FenceWorker, Send
from diptych.core.config import ControlConfig
from diptych.core.control import ControlPlane
from diptych.core.errors import ImpossibleFact
from diptych.core.facts import Fact
from diptych.core.recipe import OPEN_END, join

P, D, DOOR = "prefill-0@1", "decode-0@1", "door-0"
MS = 1_000_000
PAGE = 4
CANONICAL = join(("int8", 40), ("int4", OPEN_END))


class Desk:
    """Steps one control plane and keeps what it said to whom."""

    def __init__(self, **settings: Any) -> None:
        self.machine = ControlPlane(ControlConfig(**settings))
        self.now_ns = 0
        self.fenced: list[str] = []
        self.attempt = 0
        self.deadline_ns: int | None = None

    def say(self, fact: Fact, *, after_ns: int = MS) -> dict[str, list[Fact]]:
        self.now_ns += after_ns
        told: dict[str, list[Fact]] = {}
        for action in self.machine.step(self.now_ns, fact):
            if isinstance(action, Send):
                told.setdefault(action.to, []).append(action.fact)
                self.attempt = max(self.attempt, getattr(action.fact, "attempt", 0) or 0)
            elif isinstance(action, FenceWorker):
                self.fenced.append(action.worker)
        self.machine.check()
        return told

    def worker(self, worker: str, role: str, numerics: tuple[str, ...], **more: Any) -> dict[str, list[Fact]]:
        return self.say(
            facts.WorkerJoined(
                worker=worker, host="host", role=role, engine="scripted", models=("model",),
                numerics=numerics, formats=numerics, page_tokens=PAGE, context_tokens_max=512,
                prefill_ns_per_token=MS, decode_ns_per_step=MS, **more,
            )
        )  # fmt: skip

    def fleet(self, *, room: int = 0) -> Desk:
        self.say(
            facts.HostStated(
                host="host", pool_pages=64, workers=(P, D), shares=(("prefill-0", 32), ("decode-0", 32))
            )
        )
        self.worker(P, "prefill", ("int8", "int4"), room=room)
        self.worker(D, "decode", ("int4", "int8"), room=room)
        self.say(facts.DoorJoined(door=DOOR))
        return self

    def arrive(self, name: str = "r", **more: Any) -> dict[str, list[Fact]]:
        hashes = tuple(f"{name}{page}".encode() for page in range(10))
        fields = {
            "model": "model",
            "prompt_tokens": 42,
            "tokens_max": 8,
            "deadline_ns": self.deadline_ns,
        } | more
        return self.say(facts.RequestArrived(request=name, door=DOOR, page_hashes=hashes, **fields))

    def about(self, kind: type[Any], **fields: Any) -> dict[str, list[Fact]]:
        return self.say(kind(request="r", attempt=self.attempt, **fields))

    def open(self) -> bool:
        return self.machine.record("r") is None and "r" in self.machine.requests.open


def only(told: list[Fact], kind: type[Fact]) -> Any:
    found = [fact for fact in told if isinstance(fact, kind)]
    assert len(found) == 1, f"{kind.__name__} in {told}"
    return found[0]


# ---- ways into each state -------------------------------------------------------------------------


def queued(desk: Desk) -> None:
    assert desk.arrive() == {}


def reserving(desk: Desk) -> None:
    desk.fleet()
    only(desk.arrive()[D], facts.TargetRequested)


def prefilling(desk: Desk) -> None:
    reserving(desk)
    told = desk.about(facts.TargetReserved, worker=D, held_tokens=0, held=())
    assert only(told[P], facts.PrefillRequested).split == 40


def streaming(desk: Desk) -> None:
    prefilling(desk)
    desk.about(facts.StreamStarted, worker=D, waited_ns=0)


def draining(desk: Desk) -> None:
    streaming(desk)
    desk.about(facts.StreamPaused, worker=D)


def adopting(desk: Desk) -> None:
    desk.say(
        facts.HostStated(
            host="host", pool_pages=64, workers=(P, D), shares=(("prefill-0", 32), ("decode-0", 32))
        )
    )
    arrived = facts.RequestArrived(
        request="r",
        door=DOOR,
        model="model",
        prompt_tokens=42,
        page_hashes=(),
        tokens_max=8,
        deadline_ns=desk.deadline_ns,
    )
    desk.attempt = 3
    starts = (facts.SequenceStart(0, 2),)
    desk.say(facts.DoorJoined(door=DOOR, open=(facts.OpenRequest(arrived, 3, CANONICAL, starts),)))


STATES: list[Callable[[Desk], None]] = [queued, reserving, prefilling, streaming, draining, adopting]
HOLDERS = {
    reserving: {D},
    prefilling: {D, P},
    streaming: {D, P},
}


@pytest.fixture(params=STATES, ids=lambda state: state.__name__)
def entered(request: pytest.FixtureRequest) -> tuple[Callable[[Desk], None], Desk]:
    desk = Desk()
    request.param(desk)
    return request.param, desk


def released(told: dict[str, list[Fact]]) -> set[str]:
    return {to for to, said in told.items() if any(isinstance(fact, facts.RequestReleased) for fact in said)}


def nothing_booked(desk: Desk) -> bool:
    return all(
        (view.streams, view.waiting, view.pending_tokens) == (0, 0, 0)
        for view in desk.machine.fleet.workers.values()
    )


def test_a_client_that_goes_frees_every_worker(entered: tuple[Callable[[Desk], None], Desk]) -> None:
    state, desk = entered
    told = desk.say(facts.ClientGone(request="r"))
    assert released(told) == HOLDERS.get(state, set())
    assert only(told[DOOR], facts.RequestEnded).failure is not None
    assert not desk.open()
    assert nothing_booked(desk)
    assert desk.say(facts.ClientGone(request="r")) == {}


@pytest.mark.parametrize("state", STATES, ids=lambda state: state.__name__)
def test_a_deadline_ends_the_request(state: Callable[[Desk], None]) -> None:
    desk = Desk()
    desk.deadline_ns = 400 * MS
    state(desk)
    told = desk.say(facts.DeadlinePassed(), after_ns=500 * MS)
    assert released(told) == HOLDERS.get(state, set())
    assert only(told[DOOR], facts.RequestEnded).record.finish_reason == "deadline"
    assert not desk.open()
    assert nothing_booked(desk)


def test_the_death_of_the_target_interrupts_the_stream(entered: tuple[Callable[[Desk], None], Desk]) -> None:
    state, desk = entered
    told = desk.say(facts.WorkerLost(worker=D))
    interrupted = [fact for fact in told.get(DOOR, []) if isinstance(fact, facts.StreamInterrupted)]
    assert len(interrupted) == (state in HOLDERS)
    assert desk.open()
    assert released(told) <= {P}
    assert D not in told
    told = desk.say(facts.WorkerLost(worker=D))
    assert released(told) == set()


def test_the_death_of_the_source_leaves_the_target_its_pages(
    entered: tuple[Callable[[Desk], None], Desk],
) -> None:
    state, desk = entered
    told = desk.say(facts.WorkerLost(worker=P))
    assert any(isinstance(fact, facts.SourceLost) for fact in told.get(D, [])) == (state is prefilling)
    assert desk.open()
    if state is prefilling:
        told = desk.about(facts.TargetReserved, worker=D, held_tokens=16, held=join(("int8", 16)))
        fixed = only(told[D], facts.RecipeFixed)
        assert (fixed.recipe, fixed.source) == (CANONICAL, None)


def test_a_lost_door_ends_what_it_had_open(entered: tuple[Callable[[Desk], None], Desk]) -> None:
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
    entered: tuple[Callable[[Desk], None], Desk], kind: type[Any], fields: dict[str, Any]
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
    entered: tuple[Callable[[Desk], None], Desk], kind: type[Any], fields: dict[str, Any]
) -> None:
    _, desk = entered
    desk.about(kind, **fields)
    desk.about(kind, **fields)


def test_a_repeated_arrival_changes_nothing(entered: tuple[Callable[[Desk], None], Desk]) -> None:
    _, desk = entered
    status = desk.machine.status()
    assert desk.arrive() == {}
    assert desk.machine.status() == status


def test_a_closed_socket_is_a_reason_to_fence_once(entered: tuple[Callable[[Desk], None], Desk]) -> None:
    _, desk = entered
    known = D in desk.machine.fleet.workers
    desk.say(facts.ConnectionLost(peer=D))
    desk.say(facts.ConnectionLost(peer=D))
    assert desk.fenced == [D] * known


def test_a_driver_that_stood_still_blames_nobody(entered: tuple[Callable[[Desk], None], Desk]) -> None:
    _, desk = entered
    pause_ns = 60_000 * MS
    desk.say(facts.DriverStalled(duration_ns=pause_ns), after_ns=pause_ns)
    desk.say(facts.DeadlinePassed(), after_ns=0)
    assert desk.fenced == []


def test_silence_beyond_the_lease_is_fenced_and_nothing_else_is() -> None:
    desk = Desk(lease_ns=100 * MS).fleet(room=32)
    desk.say(
        facts.WorkerBeat(worker=P, pages_free=1, pages_held=0, pages_cached=0, waiting=0, running=0,
                         prompt_tokens_pending=0, prefill_ns_per_token=1, decode_ns_per_step=1),
        after_ns=80 * MS,
    )  # fmt: skip
    assert desk.machine.next_deadline_ns() is not None
    desk.say(facts.DeadlinePassed(), after_ns=40 * MS)
    assert desk.fenced == [D]


def test_a_run_that_overruns_its_prediction_is_fenced() -> None:
    desk = Desk(overrun_ns=50 * MS).fleet(room=32)
    beat = {"pages_free": 1, "pages_held": 0, "pages_cached": 0, "waiting": 0, "running": 1,
            "prompt_tokens_pending": 0, "prefill_ns_per_token": 1, "decode_ns_per_step": 1}  # fmt: skip
    desk.say(facts.WorkerBeat(worker=P, run_overdue_ns=49 * MS, **beat))
    assert desk.fenced == []
    desk.say(facts.WorkerBeat(worker=P, run_overdue_ns=51 * MS, **beat))
    assert desk.fenced == [P]


def test_a_worker_that_never_joins_is_fenced_at_its_limit() -> None:
    desk = Desk()
    desk.say(facts.WorkerSpawned(worker=D, host="host", limit_ns=100 * MS))
    desk.say(facts.DeadlinePassed(), after_ns=99 * MS)
    assert desk.fenced == []
    desk.say(facts.DeadlinePassed(), after_ns=2 * MS)
    assert desk.fenced == [D]


def test_a_resumed_stream_keeps_its_recipe_and_position() -> None:
    desk = Desk()
    draining(desk)
    old = desk.attempt
    told = desk.say(facts.StreamDrained(request="r", attempt=old, starts=(facts.SequenceStart(0, 5),)))
    asked = only(told[D], facts.TargetRequested)
    assert asked.attempt > old
    assert (asked.recipe, asked.starts[0].emitted) == (CANONICAL, 5)


def test_after_two_preemptions_a_stream_is_admitted_only_with_its_full_need() -> None:
    """Else two streams could evict each other for ever."""
    desk = Desk()
    streaming(desk)
    for preemptions in (1, 2):
        desk.about(facts.StreamPaused, worker=D)
        told = desk.about(facts.StreamDrained, starts=(facts.SequenceStart(0, preemptions),))
        assert only(told[D], facts.TargetRequested).full_need == (preemptions == 2)
        desk.about(facts.TargetReserved, worker=D, held_tokens=40, held=join(("int8", 40)))
        desk.about(facts.StreamStarted, worker=D, waited_ns=0)


def test_a_request_that_kills_workers_is_given_up() -> None:
    desk = Desk(losses_max=2)
    streaming(desk)
    desk.say(facts.WorkerLost(worker=D))
    desk.about(facts.StreamDrained, starts=(facts.SequenceStart(0, 1),))
    told = desk.say(facts.WorkerLost(worker=P))
    assert "died" in only(told[DOOR], facts.RequestEnded).failure


def test_a_stream_waits_for_its_numerics_and_then_goes_on_with_others() -> None:
    desk = Desk(exact_wait_ns=100 * MS)
    desk.say(
        facts.HostStated(
            host="host", pool_pages=64, workers=(P, D), shares=(("prefill-0", 32), ("decode-0", 32))
        )
    )
    desk.worker(P, "prefill", ("int8",))
    desk.worker(D, "decode", ("int4",))
    desk.arrive()
    desk.about(facts.TargetReserved, worker=D, held_tokens=0, held=())
    desk.about(facts.StreamStarted, worker=D, waited_ns=0)
    desk.say(facts.WorkerLost(worker=D))
    assert desk.about(facts.StreamDrained, starts=(facts.SequenceStart(0, 3),)) == {}
    told = desk.say(facts.DeadlinePassed(), after_ns=101 * MS)
    assert only(told[P], facts.TargetRequested).recipe == ()
    told = desk.about(facts.TargetReserved, worker=P, held_tokens=0, held=())
    assert only(told[P], facts.RecipeFixed).recipe == join(("int8", OPEN_END))
    desk.about(facts.StreamEnded, worker=P, outputs=((0, 5),), reasons=("length",))
    record = desk.machine.record("r")
    assert record is not None
    assert not record.exact


def test_a_full_line_rejects_with_a_time_to_come_again() -> None:
    desk = Desk(queue_max=1)
    queued(desk)
    rejected = only(desk.arrive("second")[DOOR], facts.RequestRejected)
    assert rejected.kind == "overloaded"
    assert rejected.retry_after_ns is not None
    assert rejected.limit == 1


def test_priorities_go_first() -> None:
    desk = Desk()
    desk.arrive("low", priority=-1)
    desk.arrive("high", priority=1)
    desk.arrive("middle")
    told: list[Fact] = []
    desk.say(facts.HostStated(host="host", pool_pages=64, workers=(D,), shares=(("decode-0", 64),)))
    told = desk.worker(D, "decode", ("int4",))[D]
    assert [fact.request for fact in told if isinstance(fact, facts.TargetRequested)] == [
        "high",
        "middle",
        "low",
    ]


def test_a_seed_fixes_the_recipe_before_anything_is_known() -> None:
    desk = Desk().fleet()
    asked = only(desk.arrive(seeded=True)[D], facts.TargetRequested)
    assert asked.recipe == CANONICAL


def test_usage_counts_each_sequence_once_over_all_attempts() -> None:
    desk = Desk().fleet()
    desk.arrive(sequences=2)
    desk.about(facts.TargetReserved, worker=D, held_tokens=0, held=())
    desk.about(facts.StreamStarted, worker=D, waited_ns=0)
    desk.about(facts.StreamPaused, worker=D)
    desk.about(facts.StreamDrained, starts=(facts.SequenceStart(1, 2),), finished=((0, 7),))
    desk.about(facts.TargetReserved, worker=D, held_tokens=40, held=join(("int8", 40)))
    desk.about(facts.StreamEnded, worker=D, outputs=((1, 4),), reasons=("length",))
    record = desk.machine.record("r")
    assert record is not None
    assert record.output_tokens == 11
    assert [attempt.outcome for attempt in record.attempts] == ["preempted", "finished"]


def test_a_stream_that_a_restarted_control_cannot_place_ends_as_a_stream() -> None:
    """Its client has tokens already: a rejection would be a second beginning of the answer."""
    desk = Desk(exact_wait_ns=10 * MS, unavailable_wait_ns=10 * MS)
    adopting(desk)
    desk.about(facts.StreamDrained, starts=(facts.SequenceStart(0, 2),))
    told: dict[str, list[Fact]] = {}
    for _ in range(3):
        told |= desk.say(facts.DeadlinePassed(), after_ns=20 * MS)
    assert only(told[DOOR], facts.RequestEnded).failure is not None


def refused(desk: Desk, **more: Any) -> dict[str, list[Fact]]:
    return desk.about(
        facts.TargetRefused, worker=D, reason="too_long", needed_tokens=90, limit_tokens=80, **more
    )


def test_a_prompt_beyond_the_pool_is_refused_for_good() -> None:
    desk = Desk()
    reserving(desk)
    rejected = only(refused(desk)[DOOR], facts.RequestRejected)
    assert (rejected.kind, rejected.limit) == ("too_long", 80)


def test_a_target_that_waits_for_pages_of_the_dead_refuses_nothing_for_good() -> None:
    desk = Desk()
    desk.say(facts.HostStated(host="host", pool_pages=64, workers=(D,), shares=(("decode-0", 64),)))
    desk.worker(D, "decode", ("int4",), room=32)
    desk.arrive()
    assert refused(desk) == {}
    assert only(desk.say(facts.DeadlinePassed(), after_ns=60 * MS)[D], facts.TargetRequested)


def test_a_stream_that_did_fit_before_is_put_off_and_in_the_end_given_up() -> None:
    desk = Desk(exact_wait_ns=200 * MS, unavailable_wait_ns=200 * MS)
    draining(desk)
    desk.about(facts.StreamDrained, starts=(facts.SequenceStart(0, 5),))
    told: dict[str, list[Fact]] = {}
    for _ in range(20):
        assert refused(desk) == {}
        told = desk.say(facts.DeadlinePassed(), after_ns=60 * MS)
        if DOOR in told:
            break
    assert only(told[DOOR], facts.RequestEnded).failure is not None
    assert desk.now_ns < 1000 * MS


def test_what_workers_stream_and_no_door_asks_for_is_released() -> None:
    desk = Desk()
    desk.worker(D, "decode", ("int4",), room=32, streams=(("ghost", 5),))
    told: dict[str, list[Fact]] = {}
    while not told.get(D):
        told = desk.say(facts.DeadlinePassed(), after_ns=500 * MS)
    assert only(told[D], facts.RequestReleased) == facts.RequestReleased(request="ghost", attempt=5)


def test_a_worker_that_introduces_itself_twice_keeps_its_books() -> None:
    desk = Desk()
    streaming(desk)
    desk.worker(D, "decode", ("int4", "int8"), room=32)
    assert desk.machine.fleet.workers[D].streams == 1


def test_a_fact_for_workers_is_refused_by_name() -> None:
    with pytest.raises(ImpossibleFact, match=r"control.*StepsRan"):
        Desk().say(facts.StepsRan(run=1, steps=1, duration_ns=1))
