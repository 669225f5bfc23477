"""What is put down to messages, doors and pauses is what the requests were timed with."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from diptych.engine.scripted import ScriptedCost, ScriptedEngine
from diptych.sim.costs import neighbours
from diptych.sim.costs.file import HostCosts, LinkCosts
from diptych.sim.costs.free_fleet import Timed
from diptych.sim.costs.measured import MeasuredCosts
from diptych.sim.costs.model import DecodePoint, PromptPoint
from diptych.sim.costs.neighbours import slowdown
from diptych.sim.costs.paths import (
    LONG_TOKENS,
    SHORT_TOKENS,
    Samples,
    pause_ns,
    simulated_ttft_ns,
    solve,
)
from diptych.sim.costs.profiling import Bench, Grid, MeasuredDoor

ENGINE = MeasuredCosts(
    prompt=(PromptPoint(1, 0, 100_000), PromptPoint(512, 0, 200_000)),
    decode=(DecodePoint(1, 1, 150_000), DecodePoint(8, 1, 900_000)),
    sample_ns=20_000,
)
PAGE_NS = 40
STEP_NS, PAUSE_NS = 150_000, 230_000


def timed(tokens: int, link: LinkCosts, host: HostCosts, noise_ns: int = 0) -> Timed:
    """A request as the simulator itself serves it with these costs."""
    client_ns = round(simulated_ttft_ns(tokens, ENGINE, link, host)) + noise_ns
    door_ns = client_ns - host.request_ns - tokens * host.prompt_token_ns
    return Timed(tokens, client_ns, door_ns, (client_ns,), apart=True)


def stream(runs: int, jitter_ns: int = 0) -> Timed:
    """Its first token, then runs of 32 with a pause in front of each but the first."""
    at, pieces = 0, []
    for token in range(32 * runs):
        at += STEP_NS + (PAUSE_NS if token and token % 32 == 0 else 0) + jitter_ns * (token % 3)
        pieces.append(at)
    return Timed(SHORT_TOKENS, 0, 0, tuple(pieces), apart=True)


def test_costs_are_found_again_in_requests_that_had_them() -> None:
    link = LinkCosts(latency_ns=310_000, page_ns=PAGE_NS)
    host = HostCosts(request_ns=1_700_000, prompt_token_ns=600, token_ns=44_000, turnaround_ns=PAUSE_NS)
    samples = Samples(
        short=tuple(timed(SHORT_TOKENS, link, host, noise) for noise in (-90_000, 0, 0, 0, 400_000)),
        long=tuple(timed(LONG_TOKENS, link, host, noise) for noise in (0, 0, 0)),
        streams=(stream(6), stream(6), stream(6)),
        door_token_ns=44_000,
    )
    found_link, found = solve(samples, ENGINE, PAGE_NS)
    assert found_link.latency_ns == pytest.approx(310_000, rel=0.01)
    assert found_link.page_ns == PAGE_NS
    assert found.request_ns == pytest.approx(1_700_000, rel=0.01)
    assert found.prompt_token_ns == pytest.approx(600, rel=0.02)
    assert found.turnaround_ns == PAUSE_NS
    assert found.token_ns == 44_000


def test_requests_that_one_worker_served_alone_say_nothing_of_messages() -> None:
    link, host = LinkCosts(latency_ns=310_000, page_ns=PAGE_NS), HostCosts(request_ns=1_700_000)
    usual = timed(SHORT_TOKENS, link, host)
    alone = Timed(SHORT_TOKENS, 1, 1, (1,), apart=False)
    samples = Samples(
        short=(alone, alone, alone, usual), long=(timed(LONG_TOKENS, link, host),), streams=(stream(2),),
        door_token_ns=0,
    )  # fmt: skip
    found_link, _ = solve(samples, ENGINE, PAGE_NS)
    assert found_link.latency_ns > 250_000


def test_the_pause_is_found_wherever_runs_begin() -> None:
    whole = stream(6)
    later = Timed(SHORT_TOKENS, 0, 0, whole.pieces_ns[5:], apart=True)
    assert pause_ns([whole, whole]) == pause_ns([later]) == PAUSE_NS
    assert pause_ns([stream(6, jitter_ns=1000)]) == pytest.approx(PAUSE_NS, abs=2000)
    even = Timed(SHORT_TOKENS, 0, 0, tuple(STEP_NS * at for at in range(200)), apart=True)
    assert pause_ns([even]) == 0


@pytest.fixture
def bench() -> Iterator[Bench]:
    engine = ScriptedEngine(cost=ScriptedCost(step_ns=200_000))
    door = MeasuredDoor()
    yield Bench(engine, Grid(tokens=(1, 16), contexts=(0, 64), sequences=(1, 4), rounds=1), door)
    door.close()


def test_neighbours_compute_and_are_gone_afterwards(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    allowed = os.sched_getaffinity(0)
    assert slowdown(bench, [min(allowed)]) == 1.0
    monkeypatch.setattr(neighbours, "_ROUNDS", 1)
    # Both "cores" may be one: the engine sleeps.
    assert slowdown(bench, [min(allowed), max(allowed)]) >= 1.0
    assert os.sched_getaffinity(0) == allowed
    with neighbours._others(bench, [min(allowed)]) as others:
        for other in others:
            os.kill(other, 0)
    for other in others:
        with pytest.raises(ProcessLookupError):
            os.kill(other, 0)
