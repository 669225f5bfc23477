"""The simulator's own books catch what they are there for: one broken promise each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from diptych.core import facts
from diptych.core.ids import to_extents
from diptych.core.recipe import OPEN_END, join
from diptych.sim.door import Door
from diptych.sim.events import Arrival, Frame, Violation
from diptych.sim.pool import Pool
from diptych.sim.scenario import RequestPlan
from diptych.sim.text import Context

A, B, C = "a@1", "b@1", "c@1"
INT8 = join(("int8", OPEN_END))


@pytest.fixture
def pool() -> Pool:
    """A owns pages 0 to 3, B 4 to 7; page 0 is full and sealed."""
    books = Pool("host", 8, 4)
    books.alive |= {A, B}
    books.delivered("control", A, facts.PagesGranted(pages=((0, 4),), room=4))
    books.delivered("control", B, facts.PagesGranted(pages=((4, 4),), room=4))
    books.write(A, 0, 4, 77)
    return books


def offer(pool: Pool, *pages: int) -> None:
    fact = facts.PagesOffered(request="r", attempt=1, sender=A, first_page=0, pages=pages)
    pool.sent(A, B, fact)


def answer(kept: tuple[int, ...], deposit: tuple[int, ...]) -> facts.OfferAnswered:
    return facts.OfferAnswered(
        request="r", attempt=1, sender=B, first_page=0, kept=kept, deposit=deposit, serial=1
    )


def claimed(pool: Pool) -> None:
    offer(pool, 0)
    pool.sent(B, A, answer((0,), (4,)))
    pool.delivered(B, A, answer((0,), (4,)))


def break_one_writer(pool: Pool) -> None:
    pool.write(B, 0, 1, 5)


def break_claim(pool: Pool) -> None:
    claimed(pool)
    pool.write(A, 0, 1, 5)


def break_offer(pool: Pool) -> None:
    offer(pool, 0)
    pool.write(A, 0, 1, 5)


def read_without_claim(pool: Pool) -> None:
    pool.read(B, 0, 4, 77)


def read_after_release(pool: Pool) -> None:
    claimed(pool)
    pool.sent(B, A, facts.ClaimReleased(sender=B, pages=(0,)))
    pool.read(B, 0, 4, 77)


def read_stale(pool: Pool) -> None:
    claimed(pool)
    pool.read(B, 0, 4, 78)


def offer_unsealed(pool: Pool) -> None:
    offer(pool, 1)


def offer_foreign(pool: Pool) -> None:
    offer(pool, 4)


def claim_unoffered(pool: Pool) -> None:
    pool.sent(B, A, answer((0,), (4,)))


def pay_too_little(pool: Pool) -> None:
    offer(pool, 0)
    pool.sent(B, A, answer((0,), ()))


def pay_with_foreign(pool: Pool) -> None:
    offer(pool, 0)
    pool.sent(B, A, answer((0,), (1,)))


def grant_owned(pool: Pool) -> None:
    pool.delivered("control", B, facts.PagesGranted(pages=((1, 1),), room=1))


def grant_claimed(pool: Pool) -> None:
    claimed(pool)
    pool.died(A)
    pool.alive.add(C)
    pool.delivered("control", C, facts.PagesGranted(pages=((0, 1),), room=1))


def grant_on_its_way(pool: Pool) -> None:
    pool.sent(A, B, facts.PagesGiven(sender=A, pages=(1,), serial=1))
    pool.delivered("control", B, facts.PagesGranted(pages=((1, 1),), room=1))


def inherit_foreign(pool: Pool) -> None:
    pool.died(C)
    pool.delivered("control", B, facts.EstateSettled(lost=C, inherited=((0, 1),)))


def claim_on_the_dead(pool: Pool) -> None:
    offer(pool, 0)
    pool.died(A)
    pool.delivered("control", B, facts.PeerLost(worker=A))
    pool.sent(B, A, answer((0,), (4,)))


def state_foreign(pool: Pool) -> None:
    pool.sent(
        A, "control", facts.OwnershipStated(worker=A, lost=C, owned=to_extents([0, 4]), claimed=(), short=0)
    )


def skip_a_slot(pool: Pool) -> None:
    pool.writable(A, 1, 2)


def release_under_a_reader(pool: Pool) -> None:
    claimed(pool)
    pool.alive.add(C)
    pool.sent(B, C, facts.ContextLent(request="r", attempt=1, sender=B, first_page=0, pages=(0,)))
    pool.sent(B, A, facts.ClaimReleased(sender=B, pages=(0,)))


BROKEN: list[tuple[Callable[[Pool], None], str]] = [
    (break_one_writer, "one writer"),
    (break_claim, "sealed page written"),
    (break_offer, "sealed page written"),
    (read_without_claim, "read without a claim"),
    (read_after_release, "read without a claim"),
    (read_stale, "stale page"),
    (offer_unsealed, "unsealed page offered"),
    (offer_foreign, "offer of another's page"),
    (claim_unoffered, "claim without an offer"),
    (pay_too_little, "wrong payment"),
    (pay_with_foreign, "gift of another's page"),
    (grant_owned, "two owners"),
    (grant_claimed, "claimed page granted"),
    (grant_on_its_way, "two owners"),
    (inherit_foreign, "foreign inheritance"),
    (claim_on_the_dead, "claim on the dead"),
    (state_foreign, "false statement"),
    (skip_a_slot, "gap in page"),
    (release_under_a_reader, "release under a reader"),
]


@pytest.mark.parametrize(("breaks", "rule"), BROKEN, ids=lambda value: getattr(value, "__name__", ""))
def test_the_pool_catches(pool: Pool, breaks: Callable[[Pool], None], rule: str) -> None:
    with pytest.raises(Violation) as caught:
        breaks(pool)
    assert caught.value.rule == rule


def test_what_is_offered_may_be_passed_on_before_its_answer_has_left(pool: Pool) -> None:
    """While an estate is settled answers wait; the owner keeps what it offers so long."""
    offer(pool, 0)
    pool.alive.add(C)
    pool.sent(B, C, facts.ContextLent(request="r", attempt=1, sender=B, first_page=0, pages=(0,)))
    pool.read(C, 0, 4, 77)
    again = facts.PagesOffered(request="s", attempt=2, sender=B, first_page=0, pages=(0,))
    pool.sent(B, C, again)
    with pytest.raises(Violation, match="loan of another's page"):
        pool.sent(B, C, facts.ContextLent(request="r", attempt=1, sender=B, first_page=0, pages=(1,)))


def test_an_orderly_handoff_is_no_violation(pool: Pool) -> None:
    claimed(pool)
    pool.read(B, 0, 4, 77)
    pool.sent(B, A, facts.ClaimReleased(sender=B, pages=(0,)))
    gift = facts.PagesGiven(sender=A, pages=(4,), serial=2)
    pool.sent(A, B, gift)
    pool.delivered(A, B, gift)
    assert (pool.owned(A), pool.owned(B)) == ({0, 1, 2, 3}, {4, 5, 6, 7})


# ---- the door -------------------------------------------------------------------------------------


class Outside:
    def __init__(self) -> None:
        self.sent: list[facts.Fact] = []

    def at(self, at_ns: int, sender: str, receiver: str, event: Any) -> None:
        raise AssertionError("nothing is scheduled here")

    def send(self, sender: str, to: str, fact: facts.Fact, payload: object = None) -> None:
        self.sent.append(fact)

    def last_arrival_ns(self, sender: str, receiver: str) -> int:
        return 0


@pytest.fixture
def door() -> Door:
    door = Door("door-0", 4, Outside(), lambda client: None)
    plan = RequestPlan(request="r", at_ns=0, prompt=(("text", 6),), lengths=(5,), tokens_max=8)
    door.receive(0, "clients", Arrival(plan), None)
    return door


def frame(door: Door, first: int, count: int, *, attempt: int = 1, wrong: bool = False) -> Frame:
    """Tokens as an honest step loop would send them, whatever the door has so far."""
    client = door.clients["r"]
    context = Context(client.payload.salt, client.payload.prompt, INT8)
    for index in range(first + count):
        context.extend((context.next_token(0, index),))
    tokens = tuple(context.tokens[6 + first :])
    return Frame("r", attempt, 0, first, (tokens[0] + 1, *tokens[1:]) if wrong else tokens, INT8, None)


def test_tokens_that_go_on_are_taken_and_doubled_or_early_ones_are_not(door: Door) -> None:
    for first, count in ((0, 2), (0, 2), (1, 1), (3, 1), (2, 1)):
        door.receive(0, "w@1", frame(door, first, count), None)
    assert len(door.clients["r"].tokens[0]) == 3


def test_tokens_of_a_drained_attempt_are_late(door: Door) -> None:
    door.receive(0, "w@1", frame(door, 0, 2, attempt=5), None)
    door.clients["r"].drained = 5
    door.receive(0, "w@1", frame(door, 2, 2, attempt=5), None)
    assert len(door.clients["r"].tokens[0]) == 2


def test_a_wrong_token_is_caught(door: Door) -> None:
    with pytest.raises(Violation, match="wrong token"):
        door.receive(0, "w@1", frame(door, 0, 1, wrong=True), None)


def test_tokens_depend_on_prompt_recipe_and_history() -> None:
    tokens = tuple(range(9))
    contexts = [
        Context("model/", tokens, INT8),
        Context("model/", tokens, join(("int4", OPEN_END))),
        Context("model/", tokens, join(("int8", 4), ("int4", OPEN_END))),
        Context("model/tenant", tokens, INT8),
        Context("model/", (*tokens[:-1], 99), INT8),
    ]
    assert len({context.stamps[-1] for context in contexts}) == len(contexts)
    grown = Context("model/", tokens[:3], INT8)
    grown.extend(tokens[3:])
    assert grown.stamps == contexts[0].stamps
