"""Copies between pools, by hand: the reader believes what the owner confirms, and nothing else; the owner
lends for a lease; whatever a port still writes is nobody else's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from diptych.core import actions, facts
from diptych.core.facts import Fact
from diptych.core.recipe import OPEN_END, join

D, P = "decode-0@1", "prefill-0@1"
PAGE = 4
INT8 = join(("int8", OPEN_END))
LEASE_NS = 50_000_000


Side = Any
"""A worker on a table (`conftest.Table`), whose pool is its own."""


def only(told: list[Fact], kind: type[Fact]) -> Any:
    found = [fact for fact in told if isinstance(fact, kind)]
    assert len(found) == 1, f"{kind.__name__} in {told}"
    return found[0]


def hashes(name: str, tokens: int) -> tuple[bytes, ...]:
    return tuple(f"{name}{page}".encode() for page in range(tokens // PAGE))


@pytest.fixture
def apart(table: Callable[..., Side]) -> Callable[..., Side]:
    def make(worker: str, pages: int = 40) -> Side:
        return table(worker, pages, transports=("tcp",), claim_lease_ns=LEASE_NS, beat_ns=20_000_000)

    return make


@pytest.fixture
def reader(apart: Callable[..., Side]) -> Side:
    """D, with a recipe whose first four pages come from another pool."""
    side = apart(D)
    side.ask(tokens=18)
    side.fix(split=16, source=P)
    return side


def offered(side: Side, claim: int, first: int, *pages: int) -> list[Fact]:
    return side.say(
        facts.PagesOffered(request="r", attempt=1, sender=P, first_page=first, pages=pages, claim=claim)
    )


def pulled(side: Side, claim: int, failure: str = "") -> list[Fact]:
    return side.say(
        facts.PagesPulled(request="r", attempt=1, source=P, claim=claim, bytes_moved=100, failure=failure)
    )


def confirmed(side: Side, claim: int, *, held: bool = True) -> list[Fact]:
    return side.say(facts.PullConfirmed(sender=P, claim=claim, held=held))


@pytest.fixture
def owner(apart: Callable[..., Side]) -> Side:
    """P, that has computed two chunks for a target in another pool."""
    side = apart(P)
    prefill(side)
    return side


def prefill(side: Side, name: str = "r", *, split: int = 16, held: int = 0) -> list[Fact]:
    return side.say(
        facts.PrefillRequested(
            request=name,
            attempt=1,
            model="model",
            page_hashes=hashes(name, split),
            held_tokens=held,
            split=split,
            recipe=INT8,
            target=D,
            shares_pool=False,
        )
    )


# ---- the reader -----------------------------------------------------------------------------------------


def test_a_copy_counts_when_its_owner_says_the_claim_held(reader: Side) -> None:
    offered(reader, 7, 0, 50, 51, 52, 53)
    (pull,) = reader.ordered(actions.PullPages)
    assert (pull.source, pull.claim, pull.pages) == (P, 7, (50, 51, 52, 53))
    assert only(pulled(reader, 7), facts.PullEnded).claim == 7
    assert reader.run is None, "the copy was believed unconfirmed"
    told = confirmed(reader, 7)
    assert reader.run is not None
    started = only(told, facts.StreamStarted)
    assert (started.bytes_moved, started.pulled_pages) == (100, 4)
    assert reader.run.prompts[0].first == 16


def test_a_copy_whose_claim_lapsed_is_worth_nothing(reader: Side) -> None:
    offered(reader, 7, 0, 50, 51, 52, 53)
    pulled(reader, 7)
    told = confirmed(reader, 7, held=False)
    assert reader.run is None
    failed = only(told, facts.FetchFailed)
    assert (failed.source, failed.worker) == (P, D)
    reader.release()
    assert reader.machine.pages().cached == 0, "pages that nobody may believe are in the cache"
    assert reader.home()


@pytest.mark.parametrize("failure", ["a checksum differs", "link: cut"])
def test_a_failed_copy_is_told_and_its_claim_ended(reader: Side, failure: str) -> None:
    offered(reader, 7, 0, 50, 51)
    told = pulled(reader, 7, failure)
    assert only(told, facts.PullEnded).claim == 7
    assert only(told, facts.FetchFailed).why == failure
    assert not confirmed(reader, 7)
    reader.release()
    assert reader.home()


def test_copies_are_sealed_in_prompt_order_however_they_arrive(reader: Side) -> None:
    offered(reader, 1, 0, 50, 51)
    offered(reader, 2, 2, 52, 53)
    pulled(reader, 2)
    confirmed(reader, 2)
    assert reader.run is None
    pulled(reader, 1)
    confirmed(reader, 1)
    assert reader.run is not None
    assert reader.run.prompts[0].first == 16


def test_pages_under_a_port_stay_its_until_it_lets_go(reader: Side) -> None:
    offered(reader, 7, 0, 50, 51, 52, 53)
    (pull,) = reader.ordered(actions.PullPages)
    reader.release()
    assert [cancel.claim for cancel in reader.ordered(actions.CancelPull)] == [7]
    assert not set(pull.into) & set(reader.machine.ledger.free)
    assert reader.machine.pages().held == len(pull.into)
    told = pulled(reader, 7, "cancelled")
    assert only(told, facts.PullEnded).claim == 7
    assert reader.home()


def test_a_lost_sources_copies_are_waited_for(reader: Side) -> None:
    offered(reader, 7, 0, 50, 51)
    told = reader.say(facts.SourceLost(request="r", attempt=1))
    assert not told, "pages that are still written were promised to the next source"
    told = pulled(reader, 7, "the source is gone")
    assert only(told, facts.TargetReserved).held_tokens == 0
    assert not [fact for fact in told if isinstance(fact, facts.FetchFailed)]


def test_what_nobody_wants_is_let_go_of_at_once(reader: Side) -> None:
    assert only(offered(reader, 7, 2, 50), facts.PullEnded).claim == 7
    reader.release()
    assert only(offered(reader, 8, 0, 50), facts.PullEnded).claim == 8


def test_an_owner_that_never_answers_is_not_believed(reader: Side) -> None:
    offered(reader, 7, 0, 50, 51, 52, 53)
    pulled(reader, 7)
    assert "did not confirm" in only(reader.wait(LEASE_NS), facts.FetchFailed).why
    assert not confirmed(reader, 7), "too late"
    assert reader.run is None


def test_claims_in_use_are_renewed_at_every_beat(reader: Side) -> None:
    offered(reader, 7, 0, 50, 51)
    told = reader.wait(20_000_000)
    assert only(told, facts.ClaimsRenewed).claims == (7,)
    pulled(reader, 7)
    assert not [fact for fact in reader.wait(20_000_000) if isinstance(fact, facts.ClaimsRenewed)]


# ---- the owner ------------------------------------------------------------------------------------------


def test_an_offer_to_another_pool_opens_a_claim_first(owner: Side) -> None:
    offer = only(owner.ran(), facts.PagesOffered)
    (claim,) = owner.ordered(actions.OpenClaim)
    assert (claim.claim, claim.reader, claim.pages) == (offer.claim, D, offer.pages)


def test_the_owner_confirms_once_and_lets_go(owner: Side) -> None:
    offer = only(owner.ran(), facts.PagesOffered)
    told = owner.say(facts.PullEnded(sender=D, claim=offer.claim))
    assert only(told, facts.PullConfirmed).held
    assert [close.claim for close in owner.ordered(actions.CloseClaim)] == [offer.claim]
    again = owner.say(facts.PullEnded(sender=D, claim=offer.claim))
    assert not only(again, facts.PullConfirmed).held


def test_a_stranger_ends_no_claim_and_gets_no_yes(owner: Side) -> None:
    offer = only(owner.ran(), facts.PagesOffered)
    told = owner.say(facts.PullEnded(sender="thief@1", claim=offer.claim))
    assert not only(told, facts.PullConfirmed).held
    assert not owner.ordered(actions.CloseClaim)


def test_a_silent_reader_loses_its_claim_and_the_request_goes_back(owner: Side) -> None:
    offer = only(owner.ran(), facts.PagesOffered)
    told = owner.wait(LEASE_NS)
    assert "silent" in only(told, facts.FetchFailed).why
    assert [close.claim for close in owner.ordered(actions.CloseClaim)] == [offer.claim]
    late = owner.say(facts.PullEnded(sender=D, claim=offer.claim))
    assert not only(late, facts.PullConfirmed).held


def test_a_reader_that_renews_keeps_its_claim(owner: Side) -> None:
    offer = only(owner.ran(), facts.PagesOffered)
    for _ in range(4):
        owner.now_ns += LEASE_NS // 2
        owner.say(facts.ClaimsRenewed(sender=D, claims=(offer.claim,)))
        owner.say(facts.DeadlinePassed())
    assert only(owner.say(facts.PullEnded(sender=D, claim=offer.claim)), facts.PullConfirmed).held


def test_an_owner_that_stood_still_blames_nobody(owner: Side) -> None:
    offer = only(owner.ran(), facts.PagesOffered)
    owner.now_ns += 10 * LEASE_NS
    owner.say(facts.DriverStalled(duration_ns=10 * LEASE_NS))
    owner.say(facts.DeadlinePassed())
    assert only(owner.say(facts.PullEnded(sender=D, claim=offer.claim)), facts.PullConfirmed).held


def test_a_release_ends_the_claims_of_the_attempt(owner: Side) -> None:
    offer = only(owner.ran(), facts.PagesOffered)
    owner.ran()
    owner.release()
    assert offer.claim in [close.claim for close in owner.ordered(actions.CloseClaim)]
    assert owner.home()


def test_a_source_waits_for_room_for_the_whole_prefix(apart: Callable[..., Side]) -> None:
    side = apart(P, pages=9)
    prefill(side, "a", split=24)
    prefill(side, "b", split=24)
    assert {key[0] for key in side.machine.sources.tasks} == {"a", "b"}
    assert side.machine.ledger.private == 6, "two prefixes were begun that cannot both be finished"
    told = side.wait(LEASE_NS)
    assert "no pages" in only(told, facts.FetchFailed).why
    assert ("b", 1) in side.dropped


def test_context_is_copied_from_the_target_and_computed_where_it_is_not_believed(
    apart: Callable[..., Side],
) -> None:
    for failure, first in (("", 8), ("a checksum differs", 0)):
        side = apart(P)
        needed = only(prefill(side, held=8), facts.ContextNeeded)
        assert (needed.pull, needed.first_page, needed.end_page) == (True, 0, 2)
        side.say(facts.ContextLent(request="r", attempt=1, sender=D, first_page=0, pages=(70, 71), claim=3))
        side.say(facts.PagesPulled(request="r", attempt=1, source=D, claim=3, bytes_moved=9, failure=failure))
        if not failure:
            side.say(facts.PullConfirmed(sender=D, claim=3, held=True))
        assert side.run is not None
        assert side.run.prompts[0].first == first
        offer = only(side.ran(steps=1), facts.PagesOffered) if not failure else None
        assert offer is None or offer.first_page == 2


def test_a_target_lends_context_by_a_claim(apart: Callable[..., Side]) -> None:
    side = apart(D)
    side.ask(tokens=18)
    side.fix(split=0)
    side.ran()
    side.finish(emitted=1, tokens=18)
    side.ask(tokens=18, attempt=2)
    needed = facts.ContextNeeded(request="r", attempt=2, sender=P, first_page=0, end_page=4, pull=True)
    lent = only(side.say(needed), facts.ContextLent)
    (claim,) = side.ordered(actions.OpenClaim)
    assert (lent.claim, lent.pages) == (claim.claim, claim.pages)
    assert len(lent.pages) == 16 // PAGE
    released = msgspec.structs.replace(needed, attempt=1)
    assert only(side.say(released), facts.ContextLent).claim == 0
