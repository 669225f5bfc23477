"""Settling the pages of the dead: by hand, one case each."""

from __future__ import annotations

from typing import Any

from diptych.core import facts
from diptych.core.control.estate import Estate
from diptych.core.facts import EstateSettled, HostStated, OwnershipStated, PagesGiven, PagesGranted, PeerLost

A, B, C = "a@1", "b@1", "c@1"


def sent(estate: Estate, kind: type[facts.Fact]) -> dict[str, Any]:
    """Facts of a kind that went out, by worker; the outbox is empty afterwards."""
    found = {send.to: send.fact for send in estate.outbox if isinstance(send.fact, kind)}
    estate.outbox = [send for send in estate.outbox if not isinstance(send.fact, kind)]
    return found


def settled(*workers: str, pages: int = 10) -> Estate:
    """A host whose workers own `pages` each, in order."""
    estate = Estate()
    shares = tuple((worker.partition("@")[0], pages) for worker in workers)
    estate.state(HostStated(host="h", pool_pages=pages * len(workers), workers=workers, shares=shares))
    for worker in workers:
        estate.join(worker, 0, ())
    granted = sent(estate, PagesGranted)
    assert [granted[worker].pages for worker in workers] == [
        ((pages * n, pages),) for n in range(len(workers))
    ]
    estate.outbox.clear()
    return estate


def state(estate: Estate, worker: str, lost: str, owned: Any, **more: Any) -> None:
    fields = {"claimed": (), "short": 0} | more
    estate.stated(OwnershipStated(worker=worker, lost=lost, owned=owned, **fields))


def test_the_pages_of_the_dead_go_to_its_next_incarnation() -> None:
    estate = settled(A, B)
    estate.lose(A)
    assert set(sent(estate, PeerLost)) == {B}
    state(estate, B, A, ((10, 10),))
    assert sent(estate, EstateSettled)[B].inherited == ()
    estate.join("a@2", 0, ())
    assert sent(estate, PagesGranted)["a@2"].pages == ((0, 10),)


def test_nothing_is_granted_before_every_survivor_has_spoken() -> None:
    estate = settled(A, B, C)
    estate.lose(A)
    estate.join("a@2", 0, ())
    state(estate, B, A, ((10, 10),))
    assert sent(estate, PagesGranted) == {}
    state(estate, C, A, ((20, 10),))
    assert sent(estate, PagesGranted)["a@2"].pages == ((0, 10),)


def test_the_first_claimant_inherits_and_the_others_claim_from_it() -> None:
    estate = settled(A, B, C)
    estate.lose(A)
    state(estate, B, A, ((11, 9),), claimed=((3, 1),))
    state(estate, C, A, ((22, 8),), claimed=((3, 2),))
    words = sent(estate, EstateSettled)
    assert (words[B].inherited, words[B].lent) == (((3, 1),), ((C, ((3, 1),)),))
    assert (words[C].inherited, words[C].moved) == (((4, 1),), ((B, ((3, 1),)),))
    assert sum(count for _, count in words[B].deposits) == 1
    assert words[C].deposits == ()


def test_pages_that_the_dead_had_lent_on_stay_their_owners() -> None:
    """A claimed page 15 of B and lent it on to C, which reads it still."""
    estate = settled(A, B, C)
    estate.lose(A)
    state(estate, B, A, ((10, 10),))
    state(estate, C, A, ((21, 9),), claimed=((15, 1),))
    words = sent(estate, EstateSettled)
    assert (words[B].inherited, words[B].lent) == ((), ((C, ((15, 1),)),))
    assert (words[C].inherited, words[C].moved) == ((), ((B, ((15, 1),)),))


def test_what_the_dead_owed_is_made_good() -> None:
    estate = settled(A, B)
    estate.lose(A)
    state(estate, B, A, ((10, 7),), short=3)
    granted = sent(estate, PagesGranted)[B]
    assert (sum(count for _, count in granted.pages), granted.room) == (3, 0)


def test_debts_to_the_dead_are_paid_to_whoever_is_short() -> None:
    estate = settled(A, B)
    estate.lose(A)
    state(estate, B, A, ((2, 18),))
    estate.join("a@2", 0, ())
    assert sent(estate, PagesGranted)["a@2"].room == 2
    estate.give(PagesGiven(sender=B, pages=(2, 3, 4, 5, 6, 7, 8, 9), serial=4))
    assert sent(estate, PagesGranted)["a@2"].room == 8


def test_a_survivor_that_dies_too_is_not_waited_for() -> None:
    estate = settled(A, B, C)
    estate.lose(A)
    state(estate, C, A, ((20, 10),))
    estate.lose(B)
    assert sent(estate, EstateSettled) == {}
    state(estate, C, B, ((20, 10),))
    assert set(sent(estate, EstateSettled)) == {C}
    estate.join("b@2", 0, ())
    assert sum(n for _, n in sent(estate, PagesGranted)["b@2"].pages) == 10


def test_a_new_control_asks_before_it_grants() -> None:
    estate = Estate()
    shares = (("a", 10), ("b", 10))
    estate.state(HostStated(host="h", pool_pages=20, workers=(A, "b@2"), shares=shares))
    estate.join(A, 10, ())
    assert sent(estate, PagesGranted) == {}
    estate.join("b@2", 0, ())
    assert set(sent(estate, PeerLost)) == {A}
    state(estate, A, "", ((5, 10),))
    assert sent(estate, PagesGranted)["b@2"].pages == ((0, 5), (15, 5))


def test_a_late_statement_changes_nothing() -> None:
    estate = settled(A, B)
    state(estate, A, "x@1", ())
    assert estate.outbox == []


def test_a_gift_on_its_way_between_the_living_is_nobodys_estate() -> None:
    estate = settled(A, B, C)
    estate.lose(A)
    state(estate, B, A, ((12, 8),), given=((C, 7, ((10, 2),)),), received=((C, 3),))
    state(estate, C, A, ((20, 10),), received=((B, 6),))
    estate.join("a@2", 0, ())
    assert sent(estate, PagesGranted)["a@2"].pages == ((0, 10),)


def test_a_gift_that_arrived_and_was_given_on_to_the_dead_is() -> None:
    """Its first giver has no receipt yet, its receiver gave it away since: nobody else would list it."""
    estate = settled(A, B, C)
    estate.lose(A)
    state(estate, B, A, ((12, 8),), given=((C, 7, ((10, 2),)),))
    state(estate, C, A, ((20, 10),), received=((B, 7),))
    estate.join("a@2", 0, ())
    assert sent(estate, PagesGranted)["a@2"].pages == ((0, 10),)
    estate.join("d@1", 0, ())
    estate.shares["d"] = 5
    estate.give(PagesGiven(sender=B, pages=(), serial=9))
    assert sent(estate, PagesGranted)["d@1"].pages == ((10, 2),)
