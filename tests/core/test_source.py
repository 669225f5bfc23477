"""A worker as a source of pages: every fact in every state of a prefill, by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from diptych.core import facts

D, P = "decode-0@1", "prefill-0@1"


def only(told: list[facts.Fact], kind: type[facts.Fact]) -> Any:
    found = [fact for fact in told if isinstance(fact, kind)]
    assert len(found) == 1, f"{kind.__name__} in {told}"
    return found[0]


def answered(
    bench: Any, offer: facts.PagesOffered, deposit: tuple[int, ...] | None = None
) -> list[facts.Fact]:
    """The target keeps what was offered and pays with pages 100, 101, ..."""
    paid = tuple(100 + page for page in offer.pages) if deposit is None else deposit
    return bench.say(
        facts.OfferAnswered(
            request=offer.request,
            attempt=offer.attempt,
            sender=D,
            first_page=offer.first_page,
            kept=offer.pages if paid else (),
            deposit=paid,
            serial=offer.first_page + 1,
        )
    )


def absent(bench: Any) -> None:
    """A worker that has not heard of the request."""


def asking(bench: Any) -> None:
    only(bench.prefill(held=8), facts.ContextNeeded)


def computing(bench: Any) -> None:
    bench.prefill()
    assert bench.run is not None


def between_chunks(bench: Any) -> None:
    bench.prefill()
    only(bench.ran(), facts.PagesOffered)


def offering(bench: Any) -> None:
    between_chunks(bench)
    bench.ran()
    assert bench.run is None


def closing(bench: Any) -> None:
    computing(bench)
    bench.release()
    assert bench.dropped == []


STATES = [absent, asking, computing, between_chunks, offering, closing]


def end(bench: Any) -> None:
    """Runs end, the target refuses what it was offered, lent context goes back."""
    while bench.run is not None:
        bench.ran()
    for (request, attempt), first in list(bench.machine.sources.offers):
        offer = facts.PagesOffered(request=request, attempt=attempt, sender=P, first_page=first, pages=())
        answered(bench, offer, ())


@pytest.mark.parametrize("enter", STATES)
def test_a_release_in_any_state_brings_all_pages_home(
    table: Callable[..., Any], enter: Callable[..., None]
) -> None:
    bench = table(P)
    enter(bench)
    bench.release()
    end(bench)
    assert bench.home()
    assert bench.dropped.count(("r", 1)) == (enter is not absent)
    assert bench.release() == []


@pytest.mark.parametrize("enter", STATES)
def test_the_death_of_the_target_ends_the_prefill_in_any_state(
    table: Callable[..., Any], enter: Callable[..., None]
) -> None:
    bench = table(P)
    enter(bench)
    only(bench.say(facts.PeerLost(worker=D)), facts.OwnershipStated)
    while bench.run is not None:
        bench.ran()
    bench.say(facts.EstateSettled(lost=D, inherited=()))
    assert bench.home()


@pytest.mark.parametrize("enter", STATES)
def test_the_loss_of_control_ends_the_prefill_in_any_state(
    table: Callable[..., Any], enter: Callable[..., None]
) -> None:
    bench = table(P)
    enter(bench)
    bench.say(facts.ControlLost())
    end(bench)
    assert bench.home()


@pytest.mark.parametrize("enter", STATES[1:])
def test_a_repeated_request_changes_nothing(table: Callable[..., Any], enter: Callable[..., None]) -> None:
    bench = table(P)
    enter(bench)
    before, run = bench.machine.pages(), bench.run
    assert bench.prefill() == []
    assert (bench.machine.pages(), bench.run) == (before, run)


@pytest.mark.parametrize("enter", STATES)
@pytest.mark.parametrize("attempt", [0, 2])
def test_facts_about_another_attempt_change_nothing(
    table: Callable[..., Any], enter: Callable[..., None], attempt: int
) -> None:
    bench = table(P)
    enter(bench)
    before, run = bench.machine.pages(), bench.run
    assert bench.release(attempt=attempt) == []
    lent = facts.ContextLent(request="r", attempt=attempt, sender=D, first_page=0, pages=(90, 91))
    assert bench.say(lent) == []
    assert (bench.machine.pages(), bench.run) == (before, run)


def test_chunks_are_offered_as_they_seal_and_pages_come_back_as_payment(table: Callable[..., Any]) -> None:
    bench = table(P)
    bench.prefill(split=16)
    first = only(bench.ran(), facts.PagesOffered)
    assert (first.first_page, len(first.pages)) == (0, 2)
    assert first.taken == 0
    assert answered(bench, first) == []
    second = only(bench.ran(), facts.PagesOffered)
    assert (second.first_page, len(second.pages), second.taken) == (2, 2, 1)
    done = only(answered(bench, second), facts.PrefillFinished)
    assert (done.computed_tokens, done.cached_tokens, done.handoff_pages) == (16, 0, 4)
    assert bench.home()


def decoding_beside(bench: Any) -> None:
    """Something decodes here, so that chunks are small."""
    bench.ask("d", tokens=5, tokens_max=40)
    bench.fix("d")
    while bench.run.prompts:
        bench.ran()


def test_small_chunks_are_offered_together(table: Callable[..., Any]) -> None:
    bench = table(P, chunk_tokens=8, mixed_chunk_tokens=4)
    decoding_beside(bench)
    told = [*bench.prefill(split=12), *bench.ran(steps=1)]
    offers = []
    while not (told and offers and offers[-1].first_page == 2):
        assert [span.count for span in bench.run.prompts] == [4]
        told = bench.ran()
        offers += [fact for fact in told if isinstance(fact, facts.PagesOffered)]
    assert [(offer.first_page, len(offer.pages)) for offer in offers] == [(0, 2), (2, 1)]


def test_what_is_sealed_is_offered_when_pages_are_short(table: Callable[..., Any]) -> None:
    """The target's payment is what the rest is computed into."""
    bench = table(P, pages=6, chunk_tokens=64)
    bench.prefill(split=40)
    assert [(span.first, span.count) for span in bench.run.prompts] == [(0, 24)]
    offer = only(bench.ran(), facts.PagesOffered)
    assert (len(offer.pages), bench.run) == (6, None)
    answered(bench, offer)
    assert [(span.first, span.count) for span in bench.run.prompts] == [(24, 16)]


def test_a_long_prompt_passes_through_a_small_pool(table: Callable[..., Any]) -> None:
    """P full of pages that wait for D would stop here, were they not paid for as they are claimed."""
    bench = table(P, pages=6)
    told = bench.prefill(split=80)
    serials = 0
    for _ in range(60):
        for offer in [fact for fact in told if isinstance(fact, facts.PagesOffered)]:
            serials += 1
            told += answered(
                bench, offer, tuple(1000 + offer.first_page + n for n in range(len(offer.pages)))
            )
        if any(isinstance(fact, facts.PrefillFinished) for fact in told):
            break
        told = bench.ran() if bench.run is not None else []
    assert only(told, facts.PrefillFinished).computed_tokens == 80
    assert serials >= 10


def test_a_claim_that_ends_is_paid_back_and_the_page_is_cached(table: Callable[..., Any]) -> None:
    bench = table(P)
    bench.prefill(split=8)
    offer = only(bench.ran(), facts.PagesOffered)
    answered(bench, offer)
    paid = only(bench.say(facts.ClaimReleased(sender=D, pages=offer.pages)), facts.PagesGiven)
    assert len(paid.pages) == 2
    assert bench.home()
    assert bench.machine.pages().cached == 2


def test_a_claimed_page_is_neither_free_nor_evicted(table: Callable[..., Any]) -> None:
    bench = table(P, pages=6)
    bench.prefill("a", split=8)
    offer = only(bench.ran(), facts.PagesOffered)
    answered(bench, offer)
    for name in "bcd":
        bench.prefill(name, split=16)
        rounds = 0
        while bench.run is not None and rounds < 8:
            assert not set(offer.pages) & {page for part in bench.run.tables for page in part.pages}
            for other in bench.ran():
                if isinstance(other, facts.PagesOffered):
                    answered(bench, other, ())
            rounds += 1
        assert 0 < rounds < 8


def test_what_it_has_already_is_offered_at_once(table: Callable[..., Any]) -> None:
    bench = table(P)
    bench.prefill(split=8)
    answered(bench, only(bench.ran(), facts.PagesOffered), ())
    offer = only(bench.prefill(attempt=2, split=8), facts.PagesOffered)
    assert len(offer.pages) == 2
    done = only(answered(bench, offer, ()), facts.PrefillFinished)
    assert (done.computed_tokens, done.cached_tokens) == (0, 8)


def test_lent_context_is_read_and_given_back(table: Callable[..., Any]) -> None:
    bench = table(P)
    need = only(bench.prefill(held=8, split=16), facts.ContextNeeded)
    assert (need.first_page, need.end_page) == (0, 2)
    bench.say(facts.ContextLent(request="r", attempt=1, sender=D, first_page=0, pages=(90, 91)))
    assert bench.run.tables[0].pages[:2] == (90, 91)
    assert [(span.first, span.count) for span in bench.run.prompts] == [(8, 8)]
    offer = only(bench.ran(), facts.PagesOffered)
    assert offer.first_page == 2
    told = answered(bench, offer)
    only(told, facts.ContextReturned)
    assert bench.home()


def test_without_the_context_it_computes_from_the_start(table: Callable[..., Any]) -> None:
    bench = table(P)
    bench.prefill(held=8, split=16)
    bench.say(facts.ContextLent(request="r", attempt=1, sender=D, first_page=0, pages=()))
    assert [(span.first, span.count) for span in bench.run.prompts] == [(0, 8)]


def sub_lent(bench: Any) -> tuple[int, ...]:
    """It claims two pages of another worker and lends them on to a target."""
    bench.ask("c", tokens=10)
    bench.fix("c", split=8, source=D)
    claim = facts.PagesOffered(request="c", attempt=1, sender="owner@1", first_page=0, pages=(90, 91))
    only(bench.say(claim), facts.OfferAnswered)
    bench.release("c")
    while bench.run is not None:
        bench.ran()
    offer = only(bench.prefill("c", attempt=2, split=8), facts.PagesOffered)
    assert offer.pages == (90, 91)
    answered(bench, offer)
    return offer.pages


def test_what_was_lent_on_goes_back_to_its_owner_and_is_never_free_here(table: Callable[..., Any]) -> None:
    bench = table(P, pages=16)
    pages = sub_lent(bench)
    bench.prefill("big", split=64)
    while bench.run is not None:
        assert not set(pages) & {page for part in bench.run.tables for page in part.pages}
        told = bench.ran()
        end(bench)
    bench.release("big")
    end(bench)
    told = bench.say(facts.ClaimReleased(sender=D, pages=pages))
    bench.prefill("bigger", split=64)
    assert not set(bench.machine.ledger.at_hand()) & set(pages)
    assert not any(set(fact.pages) & set(pages) for fact in told if isinstance(fact, facts.PagesGiven))


def test_pages_lent_to_the_dead_stay_as_they_are_until_the_settlement(table: Callable[..., Any]) -> None:
    """The dead may have lent them on, and that reader reads on."""
    bench = table(P)
    bench.prefill(split=8)
    offer = only(bench.ran(), facts.PagesOffered)
    answered(bench, offer)
    bench.say(facts.PeerLost(worker=D))
    assert bench.machine.ledger.tree.lent_pages == 2
    lent = (("reader@1", ((min(offer.pages), 2),)),)
    bench.say(facts.EstateSettled(lost=D, inherited=(), lent=lent, deposits=((100, 2),)))
    assert bench.machine.ledger.tree.lent_to("reader@1") != ()
    assert bench.machine.ledger.tree.lent_to(D) == ()


def test_a_statement_about_a_dead_lender_waits_for_the_run_that_reads_its_pages(
    table: Callable[..., Any],
) -> None:
    bench = table(P)
    bench.prefill(held=8, split=16)
    bench.say(facts.ContextLent(request="r", attempt=1, sender=D, first_page=0, pages=(90, 91)))
    assert bench.run is not None
    assert bench.say(facts.PeerLost(worker=D)) == []
    only(bench.ran(), facts.OwnershipStated)
    bench.say(facts.EstateSettled(lost=D, inherited=()))
    assert bench.home()


def test_a_new_control_hears_of_everybody_whose_answer_is_waited_for(table: Callable[..., Any]) -> None:
    """A target that dies while control is down would keep the pages it was offered for ever."""
    bench = table(P)
    bench.prefill(split=8)
    only(bench.ran(), facts.PagesOffered)
    bench.say(facts.ControlLost())
    assert bench.machine.pages().held == 2
    joined = only(bench.say(facts.ControlJoined(epoch=2)), facts.WorkerJoined)
    assert joined.peers == (D,)
    bench.say(facts.PeerLost(worker=D))
    bench.say(facts.EstateSettled(lost=D, inherited=()))
    assert bench.home()


def test_a_claim_that_pays_for_another_leaves_no_debt(table: Callable[..., Any]) -> None:
    bench = table(P)
    bench.prefill("a", split=8)
    old = only(bench.ran(), facts.PagesOffered)
    answered(bench, old)
    bench.prefill("b", split=8)
    new = only(bench.ran(), facts.PagesOffered)
    told = bench.say(
        facts.OfferAnswered(
            request="b", attempt=1, sender=D, first_page=0, kept=new.pages, deposit=(), serial=9,
            released=old.pages,
        )
    )  # fmt: skip
    assert not any(isinstance(fact, facts.PagesGiven) for fact in told)
    assert set(bench.machine.ledger.tree.lent_to(D)) == set(new.pages)
    assert bench.machine.pages().cached == 2
    assert bench.home()
