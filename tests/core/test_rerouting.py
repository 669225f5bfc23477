"""When a target is given up for another: only where it holds less than it was chosen for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diptych.core import facts
from diptych.core.facts import Fact
from diptych.core.recipe import join

P, D, OTHER = "prefill-0@1", "decode-0@1", "decode-1@1"


def three_workers(new_desk: Callable[..., Any], other_host: str = "host") -> Any:
    desk = new_desk()
    for host, names in (("host", ("prefill-0", "decode-0")), (other_host, ("decode-1",))):
        workers, shares = tuple(f"{name}@1" for name in names), tuple((name, 32) for name in names)
        desk.say(facts.HostStated(host=host, pool_pages=96, workers=workers, shares=shares))
    for worker, host in ((P, "host"), (D, "host"), (OTHER, other_host)):
        desk.say(
            facts.WorkerJoined(
                worker=worker, host=host, role=worker.partition("-")[0], engine="scripted", room=32,
                models=("model",), numerics=("int8",), formats=("int8",), page_tokens=4,
                context_tokens_max=512, prefill_ns_per_token=1_000_000, decode_ns_per_step=1_000_000,
            )
        )  # fmt: skip
    desk.say(facts.DoorJoined(door="door-0"))
    return desk


def kinds(told: dict[str, list[Fact]]) -> dict[str, list[str]]:
    return {to: [type(fact).__name__ for fact in said] for to, said in told.items()}


def reserved(desk: Any, request: str, worker: str, attempt: int, held: int) -> dict[str, list[str]]:
    fact = facts.TargetReserved(
        request=request, attempt=attempt, worker=worker, held_tokens=held, held=join(("int8", held))
    )
    return kinds(desk.say(fact))


def test_requests_that_arrive_together_stay_where_they_were_sent(new_desk: Callable[..., Any]) -> None:
    """Each makes the others dearer than they were when they were routed, on whichever worker."""
    desk = three_workers(new_desk)
    targets = []
    for number in range(6):
        told = desk.arrive(f"r{number}")
        targets.append((next(iter(told)), desk.attempt))
    for number, (worker, attempt) in enumerate(targets):
        told = reserved(desk, f"r{number}", worker, attempt, 0)
        assert told[worker][0] == "RecipeFixed"
        assert not any("RequestReleased" in said for said in told.values())


def remembered(desk: Any, *workers: str) -> tuple[bytes, ...]:
    """Hashes of a prompt that these workers are taken to hold."""
    hashes = tuple(f"r{page}".encode() for page in range(10))
    for worker in workers:
        desk.machine.fleet.workers[worker].remember(hashes, 100)
    return hashes


def test_a_target_that_has_forgotten_the_prompt_is_given_up_for_one_that_has_it(
    new_desk: Callable[..., Any],
) -> None:
    desk = three_workers(new_desk, other_host="far")
    hashes = remembered(desk, D, OTHER)
    assert list(desk.arrive()) == [D]
    told = reserved(desk, "r", D, desk.attempt, 0)
    assert told == {D: ["RequestReleased"], OTHER: ["TargetRequested"]}
    assert desk.machine.fleet.workers[D].held_pages(hashes) == 0
    # Nobody holds it: a second time it stays, whatever that costs.
    told = reserved(desk, "r", OTHER, desk.attempt, 0)
    assert told[OTHER] == ["RecipeFixed"]


def test_a_target_that_has_forgotten_the_prompt_keeps_it_where_nobody_else_has_it(
    new_desk: Callable[..., Any],
) -> None:
    desk = three_workers(new_desk)
    hashes = remembered(desk, D)
    assert list(desk.arrive()) == [D]
    told = reserved(desk, "r", D, desk.attempt, 8)
    assert told[D] == ["RecipeFixed"]
    assert desk.machine.fleet.workers[D].held_pages(hashes) == 10, "it will have them again"
