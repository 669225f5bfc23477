"""What a restarted control plane must not mix up with what its predecessor began."""

from __future__ import annotations

from typing import Any

import pytest

from diptych.core import facts
from diptych.core.ids import ATTEMPTS_PER_EPOCH

D = "decode-0@1"
ADOPTING_ENDS_NS = 3_000_000_000


def released(told: dict[str, list[facts.Fact]]) -> list[tuple[str, int]]:
    heard = told.get(D, [])
    return [(fact.request, fact.attempt) for fact in heard if isinstance(fact, facts.RequestReleased)]


def test_attempts_of_one_epoch_are_later_than_those_of_all_before(new_desk: type[Any]) -> None:
    desk = new_desk(epoch=2)
    desk.reserving()
    assert 2 * ATTEMPTS_PER_EPOCH < desk.attempt < 3 * ATTEMPTS_PER_EPOCH


def test_a_stream_that_is_adopted_is_kept_and_one_that_nobody_claims_is_not(new_desk: type[Any]) -> None:
    desk = new_desk(epoch=2)
    desk.adopting()
    streams = (("r", 3), ("orphan", 4))
    assert released(desk.worker(D, "decode", ("int4", "int8"), room=32, streams=streams)) == []
    assert desk.machine.status().decoding == 1
    assert released(desk.say(facts.DeadlinePassed(), after_ns=ADOPTING_ENDS_NS)) == [("orphan", 4)]


@pytest.mark.parametrize("door_first", [False, True])
def test_a_stream_that_ends_before_its_door_asks_for_it_is_over(
    new_desk: type[Any], door_first: bool
) -> None:
    """The worker joins, its stream ends, and only then the door comes, which had not read the end yet."""
    desk = new_desk(epoch=2)
    ended = facts.StreamEnded(request="r", attempt=3, worker=D, outputs=((0, 8),), reasons=("length",))
    if door_first:
        desk.adopting()
    desk.worker(D, "decode", ("int4", "int8"), room=32, streams=(("r", 3),))
    told = desk.say(ended)
    if not door_first:
        assert told == {}
        told = desk.adopting()
    assert [type(fact) for fact in told["door-0"]] == [facts.RequestEnded]
    assert told["door-0"][0].record.output_tokens == 8
    assert desk.machine.status().decoding == 0
    assert desk.say(facts.DeadlinePassed(), after_ns=ADOPTING_ENDS_NS).get(D) is None


@pytest.mark.parametrize("exact", [True, False])
def test_a_stream_that_lost_its_recipe_is_not_called_exact_by_the_next_control(
    new_desk: type[Any], exact: bool
) -> None:
    desk = new_desk(epoch=2)
    desk.adopting(exact=exact)
    desk.worker(D, "decode", ("int4", "int8"), room=32, streams=(("r", 3),))
    told = desk.say(
        facts.StreamEnded(request="r", attempt=3, worker=D, outputs=((0, 8),), reasons=("length",))
    )
    assert told["door-0"][0].record.exact is exact


def test_a_stream_that_pauses_before_its_door_asks_for_it_is_drained(new_desk: type[Any]) -> None:
    desk = new_desk(epoch=2)
    desk.worker(D, "decode", ("int4", "int8"), room=32, streams=(("r", 3),))
    desk.say(facts.StreamPaused(request="r", attempt=3, worker=D))
    desk.adopting()
    assert desk.machine.status().decoding == 0
    desk.say(facts.StreamDrained(request="r", attempt=3, starts=(facts.SequenceStart(0, 2),)))
    assert desk.machine.status().decoding == 0
    assert desk.machine.requests.open["r"].preemptions == 1
