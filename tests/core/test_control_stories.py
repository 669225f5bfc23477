"""Stories of the control plane by hand: resuming, giving up, waiting, refusing, adopting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from diptych.core import facts
from diptych.core.errors import ImpossibleFact
from diptych.core.facts import Fact
from diptych.core.recipe import OPEN_END, join

P, D, DOOR = "prefill-0@1", "decode-0@1", "door-0"
MS = 1_000_000
CANONICAL = join(("int8", 40), ("int4", OPEN_END))


def only(told: list[Fact], kind: type[Fact]) -> Any:
    found = [fact for fact in told if isinstance(fact, kind)]
    assert len(found) == 1, f"{kind.__name__} in {told}"
    return found[0]


def test_a_resumed_stream_keeps_its_recipe_and_position(new_desk: Callable[..., Any]) -> None:
    desk = new_desk()
    desk.draining()
    old = desk.attempt
    told = desk.say(facts.StreamDrained(request="r", attempt=old, starts=(facts.SequenceStart(0, 5),)))
    asked = only(told[D], facts.TargetRequested)
    assert asked.attempt > old
    assert (asked.recipe, asked.starts[0].emitted) == (CANONICAL, 5)


def test_after_two_preemptions_a_stream_is_admitted_only_with_its_full_need(
    new_desk: Callable[..., Any],
) -> None:
    """Else two streams could evict each other for ever."""
    desk = new_desk()
    desk.streaming()
    for preemptions in (1, 2):
        desk.about(facts.StreamPaused, worker=D)
        told = desk.about(facts.StreamDrained, starts=(facts.SequenceStart(0, preemptions),))
        assert only(told[D], facts.TargetRequested).full_need == (preemptions == 2)
        desk.about(facts.TargetReserved, worker=D, held_tokens=40, held=join(("int8", 40)))
        desk.about(facts.StreamStarted, worker=D, waited_ns=0)


def test_a_request_that_kills_workers_is_given_up(new_desk: Callable[..., Any]) -> None:
    desk = new_desk(losses_max=2)
    desk.streaming()
    desk.say(facts.WorkerLost(worker=D))
    desk.about(facts.StreamDrained, starts=(facts.SequenceStart(0, 1),))
    told = desk.say(facts.WorkerLost(worker=P))
    assert "died" in only(told[DOOR], facts.RequestEnded).failure


def test_a_stream_waits_for_its_numerics_and_then_goes_on_with_others(new_desk: Callable[..., Any]) -> None:
    desk = new_desk(exact_wait_ns=100 * MS)
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


def test_a_stream_that_wants_no_other_numerics_fails_where_its_own_do_not_come(
    new_desk: Callable[..., Any],
) -> None:
    desk = new_desk(exact_wait_ns=100 * MS)
    shares = (("prefill-0", 32), ("decode-0", 32))
    desk.say(facts.HostStated(host="host", pool_pages=64, workers=(P, D), shares=shares))
    desk.worker(P, "prefill", ("int8",))
    desk.worker(D, "decode", ("int4",))
    desk.arrive(exact=True)
    desk.about(facts.TargetReserved, worker=D, held_tokens=0, held=())
    desk.about(facts.StreamStarted, worker=D, waited_ns=0)
    desk.say(facts.WorkerLost(worker=D))
    assert desk.about(facts.StreamDrained, starts=(facts.SequenceStart(0, 3),)) == {}
    told = desk.say(facts.DeadlinePassed(), after_ns=101 * MS)
    assert list(told) == [DOOR]
    ended = only(told[DOOR], facts.RequestEnded)
    assert "numerics" in ended.failure
    assert ended.record.exact
    assert not desk.machine.requests.open


def test_a_request_with_a_recipe_waits_for_its_numerics_as_a_stream_does(
    new_desk: Callable[..., Any],
) -> None:
    """Both halves die before its first token, and take longer to come back than anybody waits who may be
    served by any worker."""
    desk = new_desk(exact_wait_ns=500 * MS, unavailable_wait_ns=50 * MS)
    desk.fleet()
    desk.arrive(seeded=True)
    desk.about(facts.TargetReserved, worker=D, held_tokens=0, held=())
    for worker in (P, D):
        desk.say(facts.WorkerLost(worker=worker))
    desk.about(facts.StreamDrained, starts=(facts.SequenceStart(0, 0),))
    assert desk.say(facts.DeadlinePassed(), after_ns=300 * MS) == {}
    told = desk.worker("prefill-0@2", "prefill", ("int8", "int4"))
    assert only(told["prefill-0@2"], facts.TargetRequested).recipe == CANONICAL


def test_a_request_that_wants_no_other_numerics_waits_as_long_for_them_as_a_stream(
    new_desk: Callable[..., Any],
) -> None:
    desk = new_desk(exact_wait_ns=500 * MS, unavailable_wait_ns=50 * MS)
    shares = (("prefill-0", 32), ("decode-0", 32))
    desk.say(facts.HostStated(host="host", pool_pages=64, workers=(D,), shares=shares))
    desk.worker(D, "decode", ("int4",))
    assert desk.arrive(seeded=True, exact=True) == {}
    assert desk.say(facts.DeadlinePassed(), after_ns=60 * MS) == {}
    told = desk.say(facts.DeadlinePassed(), after_ns=450 * MS)
    assert only(told[DOOR], facts.RequestRejected).kind == "unavailable"
    assert not desk.machine.requests.open


def test_a_full_line_rejects_with_a_time_to_come_again(new_desk: Callable[..., Any]) -> None:
    desk = new_desk(queue_max=1)
    desk.queued()
    rejected = only(desk.arrive("second")[DOOR], facts.RequestRejected)
    assert rejected.kind == "overloaded"
    assert rejected.retry_after_ns is not None
    assert rejected.limit == 1


def test_priorities_go_first(new_desk: Callable[..., Any]) -> None:
    desk = new_desk()
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


def test_a_seed_fixes_the_recipe_before_anything_is_known(new_desk: Callable[..., Any]) -> None:
    desk = new_desk().fleet()
    asked = only(desk.arrive(seeded=True)[D], facts.TargetRequested)
    assert asked.recipe == CANONICAL


def test_usage_counts_each_sequence_once_over_all_attempts(new_desk: Callable[..., Any]) -> None:
    desk = new_desk().fleet()
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


def test_a_stream_that_a_restarted_control_cannot_place_ends_as_a_stream(
    new_desk: Callable[..., Any],
) -> None:
    """Its client has tokens already: a rejection would be a second beginning of the answer."""
    desk = new_desk(exact_wait_ns=10 * MS, unavailable_wait_ns=10 * MS)
    desk.adopting()
    desk.about(facts.StreamDrained, starts=(facts.SequenceStart(0, 2),))
    told: dict[str, list[Fact]] = {}
    for _ in range(3):
        told |= desk.say(facts.DeadlinePassed(), after_ns=20 * MS)
    assert only(told[DOOR], facts.RequestEnded).failure is not None


def refused(desk: Any, **more: Any) -> dict[str, list[Fact]]:
    return desk.about(
        facts.TargetRefused, worker=D, reason="too_long", needed_tokens=90, limit_tokens=80, **more
    )


def test_a_prompt_beyond_the_pool_is_refused_for_good(new_desk: Callable[..., Any]) -> None:
    desk = new_desk()
    desk.reserving()
    rejected = only(refused(desk)[DOOR], facts.RequestRejected)
    assert (rejected.kind, rejected.limit) == ("too_long", 80)


def test_a_target_that_waits_for_pages_of_the_dead_refuses_nothing_for_good(
    new_desk: Callable[..., Any],
) -> None:
    desk = new_desk()
    desk.say(facts.HostStated(host="host", pool_pages=64, workers=(D,), shares=(("decode-0", 64),)))
    desk.worker(D, "decode", ("int4",), room=32)
    desk.arrive()
    assert refused(desk) == {}
    assert only(desk.say(facts.DeadlinePassed(), after_ns=60 * MS)[D], facts.TargetRequested)


def test_a_stream_that_did_fit_before_is_put_off_and_in_the_end_given_up(
    new_desk: Callable[..., Any],
) -> None:
    desk = new_desk(exact_wait_ns=200 * MS, unavailable_wait_ns=200 * MS)
    desk.draining()
    desk.about(facts.StreamDrained, starts=(facts.SequenceStart(0, 5),))
    told: dict[str, list[Fact]] = {}
    for _ in range(20):
        assert refused(desk) == {}
        told = desk.say(facts.DeadlinePassed(), after_ns=60 * MS)
        if DOOR in told:
            break
    assert only(told[DOOR], facts.RequestEnded).failure is not None
    assert desk.now_ns < 1000 * MS


def test_what_was_put_off_names_no_moment_that_has_passed_where_nobody_is_left(
    new_desk: Callable[..., Any],
) -> None:
    """Its driver would be told of that deadline again and again, until some worker comes back."""
    desk = new_desk()
    desk.say(facts.HostStated(host="host", pool_pages=64, workers=(D,), shares=(("decode-0", 64),)))
    desk.worker(D, "decode", ("int4",), room=32)
    desk.arrive()
    refused(desk)
    desk.say(facts.WorkerLost(worker=D))
    desk.say(facts.DeadlinePassed(), after_ns=60 * MS)
    assert desk.machine.next_deadline_ns() > desk.now_ns
    told = desk.worker("decode-0@2", "decode", ("int4",), room=32)
    assert only(told["decode-0@2"], facts.TargetRequested)


def test_what_workers_stream_and_no_door_asks_for_is_released(new_desk: Callable[..., Any]) -> None:
    desk = new_desk()
    desk.worker(D, "decode", ("int4",), room=32, streams=(("ghost", 5),))
    told: dict[str, list[Fact]] = {}
    while not told.get(D):
        told = desk.say(facts.DeadlinePassed(), after_ns=500 * MS)
    assert only(told[D], facts.RequestReleased) == facts.RequestReleased(request="ghost", attempt=5)


def test_a_worker_that_introduces_itself_twice_keeps_its_books(new_desk: Callable[..., Any]) -> None:
    desk = new_desk()
    desk.streaming()
    desk.worker(D, "decode", ("int4", "int8"), room=32)
    assert desk.machine.fleet.workers[D].streams == 1


def test_a_fact_for_workers_is_refused_by_name(new_desk: Callable[..., Any]) -> None:
    with pytest.raises(ImpossibleFact, match=r"control.*StepsRan"):
        new_desk().say(facts.StepsRan(run=1, steps=1, duration_ns=1))


def test_a_seed_waits_until_the_fleets_numerics_are_known(new_desk: Callable[..., Any]) -> None:
    """A new control that has met only the decode worker must not call its numerics the canonical ones."""
    desk = new_desk()
    shares = (("prefill-0", 32), ("decode-0", 32))
    desk.say(facts.HostStated(host="host", pool_pages=64, workers=(D,), shares=shares))
    desk.worker(D, "decode", ("int4", "int8"))
    assert desk.arrive(seeded=True) == {}
    assert only(desk.arrive("unseeded")[D], facts.TargetRequested).recipe == ()
    told = desk.worker("prefill-0@2", "prefill", ("int8", "int4"))
    assert only(told[D], facts.TargetRequested).recipe == CANONICAL


def test_a_seed_goes_on_inexactly_when_the_numerics_never_come(new_desk: Callable[..., Any]) -> None:
    desk = new_desk(unavailable_wait_ns=500 * MS)
    shares = (("prefill-0", 32), ("decode-0", 32))
    desk.say(facts.HostStated(host="host", pool_pages=64, workers=(D,), shares=shares))
    desk.worker(D, "decode", ("int4", "int8"))
    assert desk.arrive(seeded=True) == {}
    told = desk.say(facts.DeadlinePassed(), after_ns=600 * MS)
    assert only(told[D], facts.TargetRequested).recipe == ()
    assert not desk.machine.requests.open["r"].exact


def test_a_model_is_unknown_only_when_every_worker_has_spoken(new_desk: Callable[..., Any]) -> None:
    desk = new_desk()
    shares = (("prefill-0", 32), ("decode-0", 32))
    desk.say(facts.HostStated(host="host", pool_pages=64, workers=(D,), shares=shares))
    desk.worker(D, "decode", ("int4", "int8"))
    assert desk.arrive(model="other") == {}
    desk.worker("prefill-0@2", "prefill", ("int8", "int4"))
    assert only(desk.arrive("late", model="other")[DOOR], facts.RequestRejected).kind == "unknown_model"


def test_a_worker_that_hangs_while_control_restarts_is_fenced(new_desk: Callable[..., Any]) -> None:
    """Stated alive by its host and never heard of: it must not keep its host's estate open for ever."""
    desk = new_desk(lease_ns=500 * MS)
    shares = (("prefill-0", 32), ("decode-0", 32))
    desk.say(facts.HostStated(host="host", pool_pages=64, workers=(P, D), shares=shares))
    desk.worker(D, "decode", ("int4", "int8"), room=32)
    desk.say(facts.DeadlinePassed(), after_ns=400 * MS)
    desk.say(
        facts.WorkerBeat(
            worker=D, pages_free=32, pages_held=0, pages_cached=0, waiting=0, running=0,
            prompt_tokens_pending=0, prefill_ns_per_token=MS, decode_ns_per_step=MS,
        )
    )  # fmt: skip
    assert desk.fenced == []
    desk.say(facts.DeadlinePassed(), after_ns=150 * MS)
    assert desk.fenced == [P]
    told = desk.say(facts.WorkerLost(worker=P))
    assert any(isinstance(fact, facts.PeerLost) for fact in told[D])


def test_a_stream_that_was_paused_by_a_worker_that_then_dies_is_drained_all_the_same(
    new_desk: Callable[..., Any],
) -> None:
    """Between hosts the pause may be lost with the worker: the door would wait for it for ever."""
    desk = new_desk()
    desk.streaming()
    paused = desk.attempt
    desk.about(facts.StreamPaused, worker=D)
    interrupted = only(desk.say(facts.WorkerLost(worker=D))[DOOR], facts.StreamInterrupted)
    assert interrupted.attempt == paused
    desk.about(facts.StreamDrained, starts=(facts.SequenceStart(0, 2),))
    assert desk.attempt > paused, "it goes on elsewhere"
    assert DOOR not in desk.say(facts.WorkerLost(worker=D))
