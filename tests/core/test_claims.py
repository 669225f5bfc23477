"""Claims that end in payment for others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diptych.core import facts

P, Q = "prefill-0@1", "prefill-1@1"


def only(told: list[facts.Fact], kind: type[facts.Fact]) -> Any:
    found = [fact for fact in told if isinstance(fact, kind)]
    assert len(found) == 1, f"{kind.__name__} in {told}"
    return found[0]


def claimed_and_cached(bench: Any, name: str, first: int) -> facts.OfferAnswered:
    """A short answer behind two claimed prompt pages, which stay in the cache."""
    bench.ask(name, tokens=10, tokens_max=1)
    bench.fix(name, split=8, source=P)
    answer: facts.OfferAnswered = only(bench.offer((first, first + 1), name), facts.OfferAnswered)
    bench.finish(name, emitted=1)
    return answer


def test_old_claims_pay_for_new_ones_when_pages_are_short(table: Callable[..., Any]) -> None:
    bench = table(pages=16)
    answers = [claimed_and_cached(bench, f"r{n}", 100 + 2 * n) for n in range(9)]
    assert [len(answer.deposit) + len(answer.released) for answer in answers] == [2] * 9
    assert (answers[0].released, len(answers[0].deposit)) == ((), 2)
    assert answers[-1].released != ()
    released = [page for answer in answers for page in answer.released]
    assert len(released) == len(set(released))
    assert released[:2] == [100, 101] or released[:2] == [101, 100]
    assert bench.home()


def test_no_claim_pays_for_another_while_an_estate_is_settled(table: Callable[..., Any]) -> None:
    bench = table(pages=16)
    for n in range(9):
        answer = claimed_and_cached(bench, f"r{n}", 100 + 2 * n)
    assert answer.released != ()
    bench.ask("last", tokens=10, tokens_max=1)
    bench.fix("last", split=8, source=P)
    bench.say(facts.PeerLost(worker=Q))
    bench.offer((150, 151), "last")
    settled = bench.say(facts.EstateSettled(lost=Q, inherited=()))
    assert only(settled, facts.OfferAnswered).released == ()
