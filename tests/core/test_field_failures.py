"""Failures that users of other systems reported, put to our machines by hand. `docs/field-failures.md`
says which test stands for which report."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from diptych.core import facts
from diptych.core.actions import Action, FenceWorker, Send
from diptych.core.config import ControlConfig
from diptych.core.control import ControlPlane
from diptych.core.control.machine import ADOPT_NS
from diptych.core.facts import Fact
from diptych.core.recipe import OPEN_END, join

MS = 1_000_000
P, D, DOOR = "prefill-0@1", "decode-0@1", "door-0"
RECIPE = join(("int8", 40), ("int4", OPEN_END))


def only(told: list[Fact], kind: type[Fact]) -> Any:
    found = [fact for fact in told if isinstance(fact, kind)]
    assert len(found) == 1, f"{kind.__name__} in {told}"
    return found[0]


def used(bench: Any) -> set[int]:
    """Pages that the run in hand writes or reads."""
    return {page for part in bench.run.tables for page in part.pages}


# ---- a worker's pages -----------------------------------------------------------------------------


def test_an_offered_page_is_kept_until_its_answer_comes(table: Callable[..., Any]) -> None:
    """The target may answer at any time, also after the prefill is over and its client is gone."""
    bench = table(P, pages=8)
    bench.prefill("a", split=8)
    offer = only(bench.ran(), facts.PagesOffered)
    bench.release("a")
    for name in "bcde":
        bench.prefill(name, split=16)
        while bench.run is not None:
            assert not set(offer.pages) & used(bench)
            bench.ran()
        bench.release(name)
    assert bench.machine.pages().held >= len(offer.pages)


def test_a_claimed_page_is_kept_until_its_claim_ends(table: Callable[..., Any]) -> None:
    """However long the claimant reads, and whatever else the owner has to compute meanwhile."""
    bench = table(P, pages=8)
    bench.prefill("a", split=8)
    offer = only(bench.ran(), facts.PagesOffered)
    answer = facts.OfferAnswered(
        request="a", attempt=1, sender=D, first_page=0, kept=offer.pages, deposit=(100, 101), serial=1
    )
    only(bench.say(answer), facts.PrefillFinished)
    runs = 0
    for name in "bcde":
        bench.prefill(name, split=16)
        while bench.run is not None:
            assert not set(offer.pages) & used(bench)
            bench.ran()
            runs += 1
        bench.release(name)
        refused = facts.OfferAnswered(
            request=name, attempt=1, sender=D, first_page=0, kept=(), deposit=(), serial=0
        )
        for first in (0, 2):
            bench.say(msgspec.structs.replace(refused, first_page=first))
    assert runs == 8
    told = bench.say(facts.ClaimReleased(sender=D, pages=offer.pages))
    assert not set(only(told, facts.PagesGiven).pages) & set(offer.pages)
    assert bench.home()


def test_lent_context_is_kept_until_it_comes_back(table: Callable[..., Any]) -> None:
    """The second turn: its source reads what the target has cached, and the client leaves meanwhile."""
    bench = table(D, pages=16, chunk_tokens=16)
    bench.ask(tokens=18)
    bench.fix()
    while bench.run is not None and bench.run.prompts:
        bench.ran()
    bench.finish(emitted=1, tokens=18)
    held = only(bench.ask(attempt=2, tokens=30), facts.TargetReserved).held_tokens
    assert held == 16
    bench.fix(attempt=2, split=28, source=P)
    needed = facts.ContextNeeded(request="r", attempt=2, sender=P, first_page=0, end_page=4)
    lent = only(bench.say(needed), facts.ContextLent).pages
    assert len(lent) == 4
    bench.release(attempt=2)
    for name in ("big", "bigger"):
        only(bench.ask(name, tokens=36, tokens_max=1), facts.TargetReserved)
        bench.fix(name)
        assert len(used(bench)) >= 4
        assert not set(lent) & used(bench)
        bench.release(name)
        bench.ran()
    assert bench.machine.pages().held == 4
    bench.say(facts.ContextReturned(request="r", attempt=2, sender=P))
    assert bench.home()


def test_what_the_dead_had_offered_is_not_believed_any_more(table: Callable[..., Any]) -> None:
    """Their last words may arrive behind the news of their death, and behind the settlement."""
    bench = table(D)
    bench.ask(tokens=22)
    bench.fix(split=20, source=P)
    only(bench.say(facts.PeerLost(worker=P)), facts.OwnershipStated)
    assert bench.offer((100, 101)) == []
    assert bench.say(facts.EstateSettled(lost=P, inherited=())) == []
    assert bench.offer((102, 103)) == []
    again = only(bench.say(facts.SourceLost(request="r", attempt=1)), facts.TargetReserved)
    assert again.held_tokens == 0
    bench.fix(split=0)
    assert not {100, 101, 102, 103} & used(bench)


def test_the_target_computes_nothing_that_it_was_handed(table: Callable[..., Any]) -> None:
    bench = table(D)
    bench.ask(tokens=22)
    bench.fix(split=20, source=P)
    bench.offer((100, 101, 102))
    assert bench.run is None, "pages 3 and 4 are still to come"
    bench.offer((103, 104), first=3)
    assert [(span.first, span.count) for span in bench.run.prompts] == [(20, 2)]


def test_the_time_of_a_handoff_is_told(table: Callable[..., Any]) -> None:
    bench = table(P)
    bench.prefill(split=8)
    offer = only(bench.ran(), facts.PagesOffered)
    bench.now_ns += 6 * MS
    answer = facts.OfferAnswered(
        request="r", attempt=1, sender=D, first_page=0, kept=offer.pages, deposit=(100, 101), serial=1
    )
    assert only(bench.say(answer), facts.PrefillFinished).handoff_ns == 7 * MS


# ---- control and time -----------------------------------------------------------------------------


def worker(name: str, role: str, numerics: tuple[str, ...]) -> facts.WorkerJoined:
    return facts.WorkerJoined(
        worker=name, host="host", role=role, engine="scripted", models=("model",), numerics=numerics,
        formats=numerics, page_tokens=4, context_tokens_max=512, prefill_ns_per_token=MS,
        decode_ns_per_step=MS, room=32,
    )  # fmt: skip


def arrived(deadline_ns: int | None = None) -> facts.RequestArrived:
    return facts.RequestArrived(
        request="r", door=DOOR, model="model", prompt_tokens=42,
        page_hashes=tuple(b"%d" % page for page in range(10)), tokens_max=8, deadline_ns=deadline_ns,
    )  # fmt: skip


PAIR = (worker(P, "prefill", ("int8", "int4")), worker(D, "decode", ("int4", "int8")))


def attempt_of(actions: list[tuple[int, Action]]) -> int:
    sent = [action.fact for _, action in actions if isinstance(action, Send)]
    return max(getattr(fact, "attempt", 0) for fact in sent)


def about_a_request(machine: ControlPlane, *kinds: tuple[type[Any], dict[str, Any]]) -> None:
    """The request arrives at a pair, and the facts of `kinds` follow about its attempt."""
    said: list[tuple[int, Action]] = []
    for fact in (*PAIR, arrived(deadline_ns=400 * MS)):
        said += [(0, action) for action in machine.step(0, fact)]
    for kind, fields in kinds:
        said += [(0, a) for a in machine.step(0, kind(request="r", attempt=attempt_of(said), **fields))]


RESERVED = (facts.TargetReserved, {"worker": D, "held_tokens": 0, "held": ()})
STARTED = (facts.StreamStarted, {"worker": D, "waited_ns": 0})
PAUSED = (facts.StreamPaused, {"worker": D})


def in_line(machine: ControlPlane) -> None:
    machine.step(0, arrived(deadline_ns=400 * MS))


def nobody_serves(machine: ControlPlane) -> None:
    machine.step(0, arrived())


def reserving(machine: ControlPlane) -> None:
    about_a_request(machine)


def prefilling(machine: ControlPlane) -> None:
    about_a_request(machine, RESERVED)


def streaming(machine: ControlPlane) -> None:
    about_a_request(machine, RESERVED, STARTED)


def draining(machine: ControlPlane) -> None:
    about_a_request(machine, RESERVED, STARTED, PAUSED)


def silent(machine: ControlPlane) -> None:
    machine.step(0, PAIR[1])


def never_joins(machine: ControlPlane) -> None:
    machine.step(0, facts.WorkerSpawned(worker=D, host="host", limit_ns=700 * MS))


def adopting(machine: ControlPlane) -> None:
    open_request = facts.OpenRequest(arrived(), 3, RECIPE, (facts.SequenceStart(0, 2),))
    machine.step(0, facts.DoorJoined(door=DOOR, open=(open_request,)))


WAITS: list[tuple[Callable[[ControlPlane], None], type[Any], int]] = [
    (in_line, facts.RequestEnded, 400 * MS),
    (reserving, facts.RequestEnded, 400 * MS),
    (prefilling, facts.RequestEnded, 400 * MS),
    (streaming, facts.RequestEnded, 400 * MS),
    (draining, facts.RequestEnded, 400 * MS),
    (nobody_serves, facts.RequestRejected, 900 * MS),
    (silent, FenceWorker, 600 * MS),
    (never_joins, FenceWorker, 700 * MS),
    (adopting, facts.StreamInterrupted, ADOPT_NS),
]


@pytest.mark.parametrize(
    ("enter", "ends_with", "after_ns"), WAITS, ids=[enter.__name__ for enter, _, _ in WAITS]
)
def test_time_alone_ends_every_wait(
    enter: Callable[[ControlPlane], None], ends_with: type[Any], after_ns: int
) -> None:
    """No new request, beat or message comes: the machine itself must have named the moment."""
    machine = ControlPlane(ControlConfig(lease_ns=600 * MS, unavailable_wait_ns=900 * MS))
    enter(machine)
    ends: list[int] = []
    for _ in range(20):
        due_ns = machine.next_deadline_ns()
        if due_ns is None or due_ns > ADOPT_NS:
            break
        for action in machine.step(due_ns, facts.DeadlinePassed()):
            said = action.fact if isinstance(action, Send) else action
            if isinstance(said, ends_with):
                ends.append(due_ns)
    assert ends[:1] == [after_ns]


def test_a_request_that_its_target_refuses_has_cost_no_source_anything() -> None:
    machine = ControlPlane(ControlConfig())
    told: list[Send] = []

    def say(fact: Fact) -> None:
        told.extend(action for action in machine.step(0, fact) if isinstance(action, Send))
        machine.check()

    for fact in (*PAIR, arrived()):
        say(fact)
    asked = only([send.fact for send in told if send.to == D], facts.TargetRequested)
    refusal = {"reason": "too_long", "needed_tokens": 50, "limit_tokens": 32}
    say(facts.TargetRefused(request="r", attempt=asked.attempt, worker=D, **refusal))
    assert only([send.fact for send in told if send.to == DOOR], facts.RequestRejected).limit == 32
    assert [send.fact for send in told if send.to == P and isinstance(send.fact, facts.RequestFact)] == []
    assert not machine.requests.open
