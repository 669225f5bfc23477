"""What a dead worker said before its end and what comes after the end of a task: heard, and not believed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from diptych.core import facts

D, P = "decode-0@1", "prefill-0@1"


def answers(told: list[facts.Fact]) -> list[facts.OfferAnswered]:
    return [fact for fact in told if isinstance(fact, facts.OfferAnswered)]


def bury(bench: Any, worker: str) -> None:
    bench.say(facts.PeerLost(worker=worker))
    bench.say(facts.EstateSettled(lost=worker, inherited=()))


def test_pages_offered_by_a_source_that_died_meanwhile_are_not_claimed(table: Callable[..., Any]) -> None:
    """The target has been told of the death and waits for another recipe when the offer comes."""
    bench = table(D)
    bench.ask(tokens=18)
    bench.fix(split=16, source=P)
    bury(bench, P)
    bench.say(facts.SourceLost(request="r", attempt=1))
    bench.offer((90, 91, 92, 93))
    told = bench.fix(split=16, source="prefill-1@1")
    assert [answer for answer in answers(told) if answer.kept] == []
    bench.release()
    assert bench.home()


def test_an_early_offer_is_refused_when_its_task_ends(table: Callable[..., Any]) -> None:
    """Its source pins the pages until it hears so."""
    bench = table(D)
    bench.ask(tokens=18)
    assert bench.offer((90, 91)) == []
    (answer,) = answers(bench.release())
    assert (answer.first_page, answer.kept, answer.deposit) == (0, (), ())
    assert bench.home()


def test_pages_given_by_the_dead_are_its_estate(table: Callable[..., Any]) -> None:
    """A target had claimed pages; their owner gives its deposit back and dies."""
    bench = table(D)
    bench.ask(tokens=18)
    bench.fix(split=16, source=P)
    (answer,) = answers(bench.offer((90, 91, 92, 93)))
    assert len(answer.deposit) == 4
    bench.say(facts.PeerLost(worker=P))
    before = bench.machine.pages()
    assert bench.say(facts.PagesGiven(sender=P, pages=(0, 1), serial=9)) == []
    assert bench.machine.pages() == before


@pytest.mark.parametrize("settled", [False, True])
def test_claims_that_the_dead_gave_up_are_settled_once(table: Callable[..., Any], settled: bool) -> None:
    """A source has lent pages; their claimant lets go of them and dies."""
    bench = table(P)
    bench.prefill(split=8)
    (offer,) = (fact for fact in bench.ran() if isinstance(fact, facts.PagesOffered))
    bench.say(
        facts.OfferAnswered(
            request="r",
            attempt=1,
            sender=D,
            first_page=0,
            kept=offer.pages,
            deposit=(100, 101),
            serial=1,
        )
    )
    bench.say(facts.PeerLost(worker=D))
    if settled:
        bench.say(facts.EstateSettled(lost=D, inherited=()))
    before = bench.machine.pages()
    assert bench.say(facts.ClaimReleased(sender=D, pages=offer.pages)) == []
    assert bench.machine.pages() == before


def test_what_was_owed_to_the_dead_is_paid_to_its_estate(table: Callable[..., Any]) -> None:
    """A claim ends while another estate is being settled, so its deposit is still here at the death."""
    bench = table(P)
    bench.prefill(split=8)
    (offer,) = (fact for fact in bench.ran() if isinstance(fact, facts.PagesOffered))
    bench.say(
        facts.OfferAnswered(
            request="r",
            attempt=1,
            sender=D,
            first_page=0,
            kept=offer.pages,
            deposit=(100, 101),
            serial=1,
        )
    )
    bench.say(facts.PeerLost(worker="other@1"))
    assert bench.say(facts.ClaimReleased(sender=D, pages=offer.pages)) == []
    bench.say(facts.PeerLost(worker=D))
    bench.say(facts.EstateSettled(lost="other@1", inherited=()))
    told = bench.say(facts.EstateSettled(lost=D, inherited=()))
    assert [len(fact.pages) for fact in told if isinstance(fact, facts.PagesGiven)] == [2]
    assert bench.home()


def test_a_loan_ends_with_its_reader(table: Callable[..., Any]) -> None:
    """The source of a second turn reads what the target has cached, and dies."""
    bench = table(D, pages=16, chunk_tokens=16)
    bench.ask(tokens=18)
    bench.fix()
    while bench.run is not None and bench.run.prompts:
        bench.ran()
    bench.finish(emitted=1, tokens=18)
    bench.ask(attempt=2, tokens=30)
    bench.fix(attempt=2, split=28, source=P)
    bench.say(facts.ContextNeeded(request="r", attempt=2, sender=P, first_page=0, end_page=4))
    bench.release(attempt=2)
    assert bench.machine.pages().held == 4
    bury(bench, P)
    assert bench.home()


@pytest.mark.parametrize("source", ["prefill-1@1", None])
def test_context_that_the_dead_asked_for_is_not_lent(table: Callable[..., Any], source: str | None) -> None:
    """Word of the source's death overtakes its question: nobody would ever return the loan."""
    bench = table(D, pages=16, chunk_tokens=16)
    bench.ask(tokens=18)
    bench.fix()
    while bench.run is not None and bench.run.prompts:
        bench.ran()
    bench.finish(emitted=1, tokens=18)
    bench.ask(attempt=2, tokens=30)
    bench.fix(attempt=2, split=28, source=P)
    bury(bench, P)
    bench.say(facts.SourceLost(request="r", attempt=2))
    bench.fix(attempt=2, split=28 if source else 16, source=source)
    question = facts.ContextNeeded(request="r", attempt=2, sender=P, first_page=0, end_page=4)
    assert bench.say(question) == []
    bench.release(attempt=2)
    if bench.run is not None:
        bench.ran()
    assert bench.home()


def test_a_prefill_ends_with_the_control_plane_that_asked_for_it(table: Callable[..., Any]) -> None:
    """The next one will ask again, under another attempt."""
    bench = table(P)
    bench.prefill(split=16)
    bench.say(facts.ControlLost())
    bench.ran()
    assert bench.run is None
    assert bench.dropped == [("r", 1)]
    assert bench.home()


def test_prompt_pages_that_are_to_be_scored_are_computed_again(table: Callable[..., Any]) -> None:
    """The cache has pages and no logits: only those before the first scored token are taken from it."""
    bench = table(D, chunk_tokens=16)
    bench.ask(tokens=18)
    bench.fix()
    while bench.run is not None and bench.run.prompts:
        bench.ran()
    bench.finish(emitted=1, tokens=18)
    for attempt, logits_from, held in ((2, None, 16), (3, 6, 4), (4, 0, 0)):
        told = bench.ask(attempt=attempt, tokens=18, logits_from=logits_from)
        assert [fact.held_tokens for fact in told if isinstance(fact, facts.TargetReserved)] == [held]
        bench.release(attempt=attempt)
