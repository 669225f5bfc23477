"""The worker machine by hand: what each fact means in each state, and that pages always come home."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from diptych.core import facts
from diptych.core.actions import EndRun
from diptych.core.errors import ImpossibleFact
from diptych.core.ids import SHARED
from diptych.core.recipe import OPEN_END, join

D, P, Q = "decode-0@1", "prefill-0@1", "prefill-1@1"
FOREIGN_PAGES = (100, 101)
INT8 = join(("int8", OPEN_END))


def only(told: list[facts.Fact], kind: type[facts.Fact]) -> Any:
    found = [fact for fact in told if isinstance(fact, kind)]
    assert len(found) == 1, f"{kind.__name__} in {told}"
    return found[0]


# ---- ways into each state of a target -------------------------------------------------------------


def absent(table: Any) -> None:
    """A worker that has not heard of the request."""


def waiting(table: Any) -> None:
    table.ask("big", tokens=110, tokens_max=4)
    assert table.ask() == []


def reserved(table: Any) -> None:
    only(table.ask(), facts.TargetReserved)


def fetching(table: Any) -> None:
    reserved(table)
    table.fix(split=8, source=P)


def running(table: Any) -> None:
    reserved(table)
    table.fix()
    assert table.run is not None


def decoding(table: Any) -> None:
    running(table)
    table.ran()
    while any(span.request == "r" for span in table.run.prompts):
        table.ran()


def closing(table: Any) -> None:
    running(table)
    table.release()
    assert table.dropped == []


TARGET_STATES = [absent, waiting, reserved, fetching, running, decoding, closing]

IDLE_FACTS = [
    facts.DeadlinePassed(),
    facts.DriverStalled(duration_ns=10**9),
    facts.StepsRan(run=999, steps=1, duration_ns=1),
    facts.EstateSettled(lost="none@1", inherited=()),
]


def end(table: Any) -> None:
    """The run in hand, if any, comes to its end; so does whatever made others wait."""
    table.release("big")
    while table.run is not None:
        table.ran()


@pytest.mark.parametrize("enter", TARGET_STATES)
def test_a_release_in_any_state_brings_all_pages_home(
    table: Callable[..., Any], enter: Callable[..., None]
) -> None:
    bench = table()
    enter(bench)
    bench.release()
    end(bench)
    assert bench.home()
    assert bench.dropped.count(("r", 1)) == (enter is not absent)
    bench.release()
    assert bench.home()


@pytest.mark.parametrize("enter", TARGET_STATES)
@pytest.mark.parametrize("attempt", [0, 2])
def test_facts_about_another_attempt_change_nothing(
    table: Callable[..., Any], enter: Callable[..., None], attempt: int
) -> None:
    bench = table()
    enter(bench)
    before, run = bench.machine.pages(), bench.run
    assert bench.release(attempt=attempt) == []
    assert bench.fix(attempt=attempt) == []
    assert bench.say(facts.SourceLost(request="r", attempt=attempt)) == []
    answer = only(bench.offer(FOREIGN_PAGES, attempt=attempt), facts.OfferAnswered)
    assert (answer.kept, answer.deposit) == ((), ())
    assert (bench.machine.pages(), bench.run) == (before, run)


@pytest.mark.parametrize("enter", TARGET_STATES[1:])
def test_a_repeated_request_changes_nothing(table: Callable[..., Any], enter: Callable[..., None]) -> None:
    bench = table()
    enter(bench)
    before, run = bench.machine.pages(), bench.run
    assert bench.ask() == []
    assert (bench.machine.pages(), bench.run) == (before, run)


@pytest.mark.parametrize("enter", TARGET_STATES)
def test_the_loss_of_control_keeps_streams_and_drops_the_rest(
    table: Callable[..., Any], enter: Callable[..., None]
) -> None:
    bench = table()
    enter(bench)
    bench.say(facts.ControlLost())
    joined = only(bench.say(facts.ControlJoined(epoch=2)), facts.WorkerJoined)
    assert joined.streams == ((("r", 1),) if enter in (running, decoding) else ())
    bench.release()
    end(bench)
    assert bench.home()


@pytest.mark.parametrize("enter", TARGET_STATES)
def test_the_death_of_the_source_is_survived_in_any_state(
    table: Callable[..., Any], enter: Callable[..., None]
) -> None:
    bench = table()
    enter(bench)
    stated = only(bench.say(facts.PeerLost(worker=P)), facts.OwnershipStated)
    assert stated.owned == ((0, 32),)
    assert (stated.claimed, stated.short) == ((), 0)
    late = bench.offer(FOREIGN_PAGES)
    assert not any(isinstance(fact, facts.OfferAnswered) and fact.kept for fact in late)
    bench.say(facts.EstateSettled(lost=P, inherited=()))
    bench.release()
    end(bench)
    assert bench.home()


@pytest.mark.parametrize("enter", TARGET_STATES)
@pytest.mark.parametrize("fact", IDLE_FACTS, ids=lambda fact: type(fact).__name__)
def test_late_and_idle_facts_are_rows_in_every_state(
    table: Callable[..., Any], enter: Callable[..., None], fact: facts.Fact
) -> None:
    bench = table()
    enter(bench)
    before, run = bench.machine.pages(), bench.run
    bench.say(fact)
    assert (bench.machine.pages(), bench.run) == (before, run)


def test_a_fact_that_is_not_for_workers_names_machine_and_fact(table: Callable[..., Any]) -> None:
    with pytest.raises(ImpossibleFact, match=r"decode-0@1.*ClientGone"):
        table().say(facts.ClientGone(request="r"))


# ---- the walk -------------------------------------------------------------------------------------


def test_a_stream_runs_to_its_end_and_leaves_its_pages_cached(table: Callable[..., Any]) -> None:
    bench = table()
    decoding(bench)
    ended = only(bench.finish(emitted=5), facts.StreamEnded)
    assert (ended.outputs, ended.reasons) == (((0, 5),), ("stop_token",))
    assert bench.home()
    assert bench.machine.pages().cached == (10 + 5 - 1) // 4


def test_the_next_turn_holds_what_the_last_one_left(table: Callable[..., Any]) -> None:
    bench = table()
    decoding(bench)
    bench.finish(emitted=5)
    held = only(bench.ask(attempt=2, tokens=20), facts.TargetReserved)
    assert held.held_tokens == 12


def test_a_request_that_cannot_fit_is_refused_with_the_limit(table: Callable[..., Any]) -> None:
    refused = only(table(pages=8).ask(tokens=100, tokens_max=10), facts.TargetRefused)
    assert (refused.reason, refused.needed_tokens) == ("too_long", 112)
    assert refused.limit_tokens <= 32


def test_offered_pages_are_claimed_and_paid_for(table: Callable[..., Any]) -> None:
    bench = table()
    fetching(bench)
    before = bench.machine.pages()
    answer = only(bench.offer(FOREIGN_PAGES), facts.OfferAnswered)
    assert answer.kept == FOREIGN_PAGES
    assert len(set(answer.deposit)) == 2
    assert bench.machine.pages().total == before.total
    assert bench.run.tables[0].pages[:2] == FOREIGN_PAGES


def test_an_offer_before_the_recipe_waits_for_it(table: Callable[..., Any]) -> None:
    bench = table()
    reserved(bench)
    assert bench.offer(FOREIGN_PAGES) == []
    answer = only(bench.fix(split=8, source=P), facts.OfferAnswered)
    assert answer.kept == FOREIGN_PAGES


def test_a_claim_ends_with_a_message_and_its_deposit_comes_back(table: Callable[..., Any]) -> None:
    bench = table(pages=8)
    fetching(bench)
    answer = only(bench.offer(FOREIGN_PAGES), facts.OfferAnswered)
    bench.finish(emitted=1)
    assert bench.home()
    released = only(bench.ask("other", tokens=22, tokens_max=1), facts.ClaimReleased)
    assert set(released.pages) <= set(FOREIGN_PAGES)
    back = answer.deposit[: len(released.pages)]
    bench.say(facts.PagesGiven(sender=P, pages=back, serial=5))
    assert only(bench.offer((102,), "late"), facts.OfferAnswered).taken == 5


def test_the_death_of_an_owner_is_told_with_what_was_claimed(table: Callable[..., Any]) -> None:
    bench = table()
    fetching(bench)
    answer = only(bench.offer(FOREIGN_PAGES), facts.OfferAnswered)
    stated = only(bench.say(facts.PeerLost(worker=P)), facts.OwnershipStated)
    assert stated.claimed == ((100, 2),)
    assert not set(answer.deposit) & {p for first, n in stated.owned for p in range(first, first + n)}
    bench.say(facts.EstateSettled(lost=P, inherited=((100, 2),)))
    bench.release()
    end(bench)
    assert bench.home()


def test_a_frozen_worker_gives_nothing_away(table: Callable[..., Any]) -> None:
    bench = table()
    fetching(bench)
    bench.say(facts.PeerLost(worker=Q))
    told = bench.offer(FOREIGN_PAGES)
    assert not any(isinstance(fact, facts.OfferAnswered) for fact in told)
    settled = bench.say(facts.EstateSettled(lost=Q, inherited=()))
    assert only(settled, facts.OfferAnswered).kept == FOREIGN_PAGES


# ---- batches --------------------------------------------------------------------------------------


def test_a_newcomer_ends_a_long_run(table: Callable[..., Any]) -> None:
    bench = table()
    decoding(bench)
    assert bench.run.steps_max > 1
    long = bench.run
    bench.ask("new")
    fixed = facts.RecipeFixed(request="new", attempt=1, recipe=INT8, split=0)
    asked = bench.machine.step(bench.now_ns, fixed)
    assert [action for action in asked if isinstance(action, EndRun)] == [EndRun(run=long.run)]
    assert bench.run is long


def test_prompt_work_beside_decoding_is_bounded(table: Callable[..., Any]) -> None:
    bench = table(mixed_chunk_tokens=4, chunk_tokens=8, pages=64)
    decoding(bench)
    bench.ask("new", tokens=30)
    bench.fix("new")
    bench.ran(steps=1)
    assert [span.count for span in bench.run.prompts] == [4]
    assert bench.run.steps_max == 1


def test_sequences_share_the_prompt_and_compute_their_own_tails(table: Callable[..., Any]) -> None:
    bench = table(chunk_tokens=64)
    bench.ask(sequences=2)
    bench.fix()
    spans = [(span.sequence, span.first, span.count, span.sample) for span in bench.run.prompts]
    assert spans == [(SHARED, 0, 8, False), (0, 8, 2, True), (1, 8, 2, True)]
    first, second = (part.pages for part in bench.run.tables if part.sequence != SHARED)
    assert first[:2] == second[:2]
    assert first[2:] != second[2:]


def test_the_last_admitted_gives_way_when_pages_run_out(table: Callable[..., Any]) -> None:
    bench = table(pages=10, quantum_tokens=1, chunk_tokens=64)
    told: list[facts.Fact] = []
    for name in ("first", "second"):
        bench.ask(name, tokens=10, tokens_max=20)
        bench.fix(name)
    for _ in range(30):
        told += bench.ran()
        if any(isinstance(fact, facts.StreamPaused) for fact in told):
            break
    assert only(told, facts.StreamPaused).request == "second"
    assert bench.dropped == [("second", 1)]


def test_a_page_may_be_offered_back_before_word_of_its_arrival(table: Callable[..., Any]) -> None:
    """The new owner is frozen: it offers, and calls nothing received."""
    bench = table()
    bench.ask(tokens=14)
    bench.fix(split=12, source=P)
    paid = only(bench.offer((100, 101)), facts.OfferAnswered)
    answer = only(bench.offer(paid.deposit[:1], first=2), facts.OfferAnswered)
    assert answer.kept == paid.deposit[:1]
    assert not set(bench.machine.ledger.at_hand()) & set(paid.deposit)


def test_gifts_are_stated_until_word_of_their_arrival(table: Callable[..., Any]) -> None:
    bench = table(pages=64)
    for name, first in (("a", 100), ("b", 110)):
        bench.ask(name, tokens=18)
        bench.fix(name, split=16, source=P)
        only(bench.offer((first, first + 1), name), facts.OfferAnswered)
    gifts = only(bench.say(facts.PeerLost(worker=Q)), facts.OwnershipStated).given
    bench.say(facts.EstateSettled(lost=Q, inherited=()))
    assert [receiver for receiver, _, _ in gifts] == [P, P]
    word = facts.PagesOffered(
        request="a", attempt=1, sender=P, first_page=2, pages=(102, 103), taken=gifts[0][1]
    )
    paid = only(bench.say(word), facts.OfferAnswered)
    still = only(bench.say(facts.PeerLost(worker="prefill-2@1")), facts.OwnershipStated).given
    assert [serial for _, serial, _ in still] == [gifts[1][1], paid.serial]


def test_nothing_is_called_received_while_an_estate_is_settled(table: Callable[..., Any]) -> None:
    """The giver may still have to state the gift: this worker's statement came before its arrival."""
    bench = table(P)
    bench.prefill(split=16)
    first = only(bench.ran(), facts.PagesOffered)
    bench.say(facts.PeerLost(worker=Q))
    bench.say(
        facts.OfferAnswered(
            request="r", attempt=1, sender=D, first_page=0, kept=first.pages, deposit=(50, 51), serial=3
        )
    )
    assert only(bench.ran(), facts.PagesOffered).taken == 0


def test_pages_that_turn_out_to_be_there_already_are_tabled_anew(table: Callable[..., Any]) -> None:
    """Two requests compute the same prompt in one step: one of them reads the other's pages from then on."""
    bench = table(chunk_tokens=64, mixed_chunk_tokens=64)
    bench.ask("busy")
    bench.fix("busy")
    for attempt in (1, 2):
        bench.ask(attempt=attempt, tokens=9, tokens_max=3)
        bench.fix(attempt=attempt)
    bench.ran()
    assert {span.attempt for span in bench.run.prompts if span.request == "r"} == {1, 2}
    computed = {part.attempt: part.pages for part in bench.run.tables if part.sequence == SHARED}
    bench.ran()
    anew = [part for part in bench.run.tables if part.request == "r" and part.start == 0]
    assert len(anew) == 1
    assert anew[0].pages[:2] == computed[3 - anew[0].attempt]
