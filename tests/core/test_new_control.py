"""What a restarted control plane must not mix up with what its predecessor began."""

from __future__ import annotations

from typing import Any

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
