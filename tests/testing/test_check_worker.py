"""`check_worker` passes our own machine, and fails workers that break each of its promises."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from diptych.core import facts
from diptych.core.actions import Action, Send
from diptych.core.config import WorkerConfig
from diptych.core.facts import Fact
from diptych.core.worker import Worker
from diptych.testing import MachineSeat, check_worker

Actions = tuple[Action, ...]


def config(page_tokens: int = 16) -> WorkerConfig:
    return WorkerConfig(
        worker="examined@1",
        host="host",
        role="both",
        engine="scripted",
        models=("model",),
        numerics=("int8", "int4"),
        formats=("int8", "int4"),
        context_tokens_max=4096,
        page_tokens=page_tokens,
        chunk_tokens=2 * page_tokens,
    )


@pytest.mark.parametrize("page_tokens", [4, 16, 512])
def test_our_own_worker_passes(page_tokens: int) -> None:
    check_worker(lambda: MachineSeat(Worker(config(page_tokens))), model="model")


class Broken:
    """A worker whose facts or actions are tampered with. It holds one, for a compiled one has no heirs."""

    def __init__(self, tamper: Callable[[Fact, Actions], Actions], deaf: type[Fact] | None = None) -> None:
        self.worker = Worker(config())
        self.config = self.worker.config
        self.pages = self.worker.pages
        self.check = self.worker.check
        self.tamper = tamper
        self.deaf = deaf

    def step(self, now_ns: int, fact: Fact) -> Actions:
        if self.deaf is not None and isinstance(fact, self.deaf):
            return ()
        return self.tamper(fact, self.worker.step(now_ns, fact))


def without(kind: type[Fact]) -> Callable[[Fact, Actions], Actions]:
    """Never says facts of one kind."""

    def tamper(_: Fact, actions: Actions) -> Actions:
        return tuple(a for a in actions if not (isinstance(a, Send) and isinstance(a.fact, kind)))

    return tamper


def changed(kind: type[Fact], **fields: Any) -> Callable[[Fact, Actions], Actions]:
    """Says facts of one kind with other values."""

    def tamper(_: Fact, actions: Actions) -> Actions:
        return tuple(
            Send(to=action.to, fact=msgspec.structs.replace(action.fact, **fields))
            if isinstance(action, Send) and isinstance(action.fact, kind)
            else action
            for action in actions
        )

    return tamper


def untouched(_: Fact, actions: Actions) -> Actions:
    return actions


@pytest.mark.parametrize(
    ("tamper", "deaf", "failing"),
    [
        (without(facts.WorkerJoined), None, "introduces_itself"),
        (changed(facts.WorkerJoined, room=7), None, "introduces_itself"),
        (without(facts.StreamEnded), None, "serves_alone"),
        (changed(facts.TargetReserved, held_tokens=16), None, "serves_alone"),
        (without(facts.TargetRefused), None, "refuses_what_never_fits"),
        (changed(facts.OfferAnswered, deposit=()), None, "reads_offered_pages_where_they_lie"),
        (changed(facts.OfferAnswered, deposit=(70, 71)), None, "reads_offered_pages_where_they_lie"),
        (changed(facts.PagesOffered, first_page=0), None, "offers_every_page_once"),
        (changed(facts.PagesGiven, taken=0), None, "pays_deposits_back"),
        (without(facts.PagesGiven), None, "pays_deposits_back"),
        (untouched, facts.RequestReleased, "lets_go_in_every_state"),
        (untouched, facts.RequestReleased, "drops_a_prefill_that_waits_for_context"),
        (without(facts.OfferAnswered), None, "answers_late_offers"),
        (changed(facts.OwnershipStated, claimed=()), None, "survives_its_peer"),
        (changed(facts.OwnershipStated, owned=((0, 64),)), None, "survives_its_peer"),
        (untouched, facts.PeerLost, "trades_nothing_while_an_estate_is_open"),
        (untouched, facts.ControlLost, "streams_on_without_control"),
    ],
)
def test_a_broken_promise_is_found(
    tamper: Callable[[Fact, Actions], Actions], deaf: type[Fact] | None, failing: str
) -> None:
    with pytest.raises(AssertionError, match=failing):
        check_worker(lambda: MachineSeat(Broken(tamper, deaf)), model="model")


class Believer(Broken):
    """A worker that forgets at once who is dead."""

    def __init__(self) -> None:
        super().__init__(untouched)

    def step(self, now_ns: int, fact: Fact) -> Actions:
        self.worker.ledger.lost.clear()
        return super().step(now_ns, fact)


def test_a_worker_that_believes_the_dead_is_found() -> None:
    with pytest.raises(AssertionError, match="believes_nothing_of_the_dead"):
        check_worker(lambda: MachineSeat(Believer()), model="model")


def test_properties_may_be_left_out_by_name_only() -> None:
    from diptych.testing.worker_rows import introduces_itself

    tamper = changed(facts.WorkerJoined, models=("another",))
    check_worker(lambda: MachineSeat(Broken(tamper)), model="model", without=(introduces_itself,))
