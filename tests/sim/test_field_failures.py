"""Failures that users of other systems reported, staged under virtual time with every checker on.
`docs/field-failures.md` says which test stands for which report."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from diptych.core import facts
from diptych.core.actions import Action, RunSteps
from diptych.core.config import ControlConfig
from diptych.sim.checkers import Checkers
from diptych.sim.door import Client
from diptych.sim.driver import Seat
from diptych.sim.run import SETTLE_NS
from diptych.sim.scenario import Fault, RequestPlan, Scenario, WorkerPlan
from diptych.sim.world import World

MS = 1_000_000
LEASE_NS = 200 * MS
LAST_NS = 4_000_000 * MS
PREFILL: dict[str, Any] = {"name": "prefill-0", "role": "prefill", "prefill_ns_per_token": 100_000}
DECODE: dict[str, Any] = {
    "name": "decode-0",
    "role": "decode",
    "numerics": ("int4", "int8"),
    "prefill_ns_per_token": 400_000,
}


def pair(prefill: dict[str, Any] | None = None, decode: dict[str, Any] | None = None) -> dict[str, Any]:
    """A fleet that notices deaths soon; every field of both workers may be another."""
    workers = (WorkerPlan(**(PREFILL | (prefill or {}))), WorkerPlan(**(DECODE | (decode or {}))))
    control = ControlConfig(lease_ns=LEASE_NS, overrun_ns=LEASE_NS)
    return {"workers": workers, "control": control, "beat_ns": 50 * MS}


def ask(name: str, at_ms: float, tokens: int = 30, length: int = 4) -> RequestPlan:
    prompt = ((name, tokens),)
    return RequestPlan(
        request=name, at_ns=int(at_ms * MS), prompt=prompt, lengths=(length,), tokens_max=length
    )


class Stage:
    """A world that was played to its end under all checkers, and what its machines heard and asked."""

    def __init__(self, scenario: Scenario) -> None:
        self.heard: list[tuple[int, str, facts.Fact]] = []
        self.runs: list[tuple[str, RunSteps]] = []
        self.world = world = World(scenario)
        checkers = Checkers(world)
        world.observers = [self._watch, checkers]
        assert world.driver.run(world.idle, LAST_NS), "a request is stuck"
        world.driver.run(lambda: False, world.driver.now_ns + SETTLE_NS)
        checkers.at_quiet()
        self.clients: dict[str, Client] = {client.plan.request: client for client in world.done}

    def _watch(self, now_ns: int, seat: Seat, _: str, fact: facts.Fact, asked: tuple[Action, ...]) -> None:
        self.heard.append((now_ns, seat.name, fact))
        self.runs += [(seat.name, action) for action in asked if isinstance(action, RunSteps)]

    def wait_ns(self, name: str) -> int:
        """To the first token; the request must have got its whole answer."""
        client = self.clients[name]
        assert client.complete()
        assert client.failure is None
        assert client.first_ns is not None
        return client.first_ns - client.plan.at_ns

    def lives(self) -> dict[str, int]:
        return {name: epoch for agent in self.world.agents.values() for name, epoch in agent.epochs.items()}


def test_clients_that_leave_in_mid_handoff_hold_nothing_up() -> None:
    """120 of them, in every stage from the line to the stream; then one that stays."""
    leavers = [ask(f"r{n}", 50 + 4 * n, length=60) for n in range(120)]
    leaves = [
        Fault(at_ns=plan.at_ns + n * 7 % 40 * MS, kind="leave", target=plan.request)
        for n, plan in enumerate(leavers)
    ]
    small = {"pages": 32}
    fresh = Stage(Scenario(requests=(ask("stays", 50),), **pair(small, small)))
    stage = Stage(
        Scenario(requests=(*leavers, ask("stays", 580)), faults=tuple(leaves), **pair(small, small))
    )
    left = [client for client in stage.clients.values() if client.gone]
    assert len(left) == 120
    assert 20 < sum(bool(client.tokens[0]) for client in left) < 100
    assert any(name == "prefill-0@1" for name, _ in stage.runs)
    assert stage.wait_ns("stays") <= fresh.wait_ns("stays") + 10 * MS
    assert stage.lives() == {"prefill-0": 1, "decode-0": 1}


@pytest.mark.parametrize("kind", ["kill", "pause"])
def test_a_source_lost_at_any_moment_keeps_nobody_waiting(kind: str) -> None:
    """Neither the stream it served nor the next one waits for more than the lease."""
    slow = {"prefill_ns_per_token": MS, "chunk_tokens": 8}, {"prefill_ns_per_token": 4 * MS}
    outcomes: list[str] = []
    for after_ms in range(0, 34, 2):
        fault = Fault(at_ns=(100 + after_ms) * MS, kind=kind, target="prefill-0", duration_ns=10_000 * MS)
        requests = (ask("served", 100), ask("next", 180))
        stage = Stage(Scenario(requests=requests, faults=(fault,), **pair(*slow)))
        for name in ("served", "next"):
            assert stage.wait_ns(name) < LEASE_NS + 300 * MS, f"{name}, fault after {after_ms} ms"
        assert stage.lives()["prefill-0"] == 2
        record = stage.clients["served"].record
        assert record is not None
        outcomes.append(record.attempts[0].outcome)
    assert outcomes.count("source lost") > 10


@pytest.mark.parametrize("victim", ["prefill-0", "decode-0"])
def test_a_worker_that_came_back_is_used_again(victim: str) -> None:
    fault = Fault(at_ns=104 * MS, kind="kill", target=victim)
    stage = Stage(Scenario(requests=(ask("disturbed", 100), ask("later", 1000)), faults=(fault,), **pair()))
    stage.wait_ns("disturbed")
    record = stage.clients["later"].record
    assert record is not None
    (attempt,) = record.attempts
    lives = {"prefill-0": 1, "decode-0": 1} | {victim: 2}
    assert {attempt.source, attempt.target} == {f"{name}@{life}" for name, life in lives.items()}


def test_a_long_queue_at_the_source_is_no_failure() -> None:
    """What waits for a busy source waits without a clock running against it."""
    requests = tuple(ask(f"r{n}", 50, tokens=33) for n in range(16))
    stage = Stage(
        Scenario(
            requests=requests,
            **pair({"prefill_ns_per_token": 5 * MS}, {"prefill_ns_per_token": 500 * MS, "pages": 256}),
        )
    )
    waits = [stage.wait_ns(request.request) for request in requests]
    assert max(waits) > 10 * LEASE_NS
    records = [client.record for client in stage.clients.values()]
    assert {(record.prefill_worker, len(record.attempts)) for record in records if record} == {
        ("prefill-0", 1)
    }
    assert stage.lives() == {"prefill-0": 1, "decode-0": 1}


def test_after_an_idle_quarter_hour_a_request_is_served_as_the_first_was() -> None:
    fleet = pair() | {"control": ControlConfig(), "beat_ns": 1000 * MS}
    stage = Stage(Scenario(requests=(ask("first", 100), ask("last", 900_000)), **fleet))
    assert stage.wait_ns("last") == stage.wait_ns("first")
    assert stage.lives() == {"prefill-0": 1, "decode-0": 1}


def test_a_stream_that_reads_for_minutes_keeps_the_pages_it_claims() -> None:
    """Its source writes its few pages over and over meanwhile. The pool proves every read, the door
    every token."""
    crowd = [ask(f"r{n}", 2000 + 2000 * n, length=1) for n in range(60)]
    slow = {"decode_ns_per_step": 1000 * MS, "quantum_tokens": 2}
    stage = Stage(Scenario(requests=(ask("slow", 50, length=90), *crowd), **pair({"pages": 16}, slow)))
    ends = [
        at for at, _, fact in stage.heard if isinstance(fact, facts.StreamEnded) and fact.request == "slow"
    ]
    assert ends[0] > 60_000 * MS
    record = stage.clients["slow"].record
    assert record is not None
    assert record.handoff_pages == 7
    assert len(record.attempts) == 1
    written = [span for name, run in stage.runs if name == "prefill-0@1" for span in run.prompts]
    assert sum(span.count for span in written) > 5 * 16 * 4
    assert all(stage.wait_ns(request.request) for request in crowd)


def test_the_last_of_many_requests_is_as_right_as_the_first() -> None:
    """300 requests with prefixes in common through two small pools: the door proves every token, and at
    the end both workers have the pages they were granted."""
    requests = []
    for n in range(300):
        plan = ask(f"r{n}", 50 + 4 * n, length=1 + n % 9)
        prompt = ((f"system {n % 3}", 13), (plan.request, 5 + n % 20))
        requests.append(msgspec.structs.replace(plan, prompt=prompt))
    stage = Stage(Scenario(requests=tuple(requests), **pair({"pages": 20}, {"pages": 24})))
    records = [client.record for client in stage.clients.values() if client.failure is None]
    assert len(records) == 300
    assert sum(record.cached_tokens > 0 for record in records if record) > 100
    assert sum(record.handoff_pages for record in records if record) > 10 * 20
    assert stage.lives() == {"prefill-0": 1, "decode-0": 1}


def test_every_prompt_token_is_computed_once() -> None:
    requests = tuple(ask(f"r{n}", 50 + 20 * n) for n in range(8))
    stage = Stage(Scenario(requests=requests, **pair()))
    computed = dict.fromkeys(stage.clients, 0)
    for _, run in stage.runs:
        for span in run.prompts:
            computed[span.request] += span.count
    assert set(computed.values()) == {30}
    assert {client.record.split for client in stage.clients.values() if client.record} == {28}


def test_a_burst_is_not_left_to_one_prefill_worker() -> None:
    requests = tuple(ask(f"r{n}", 50, tokens=60, length=1) for n in range(60))
    roomy = {"pages": 2048}
    stage = Stage(Scenario(requests=requests, **pair(roomy, roomy)))
    alone_ns = 60 * 60 * 100_000
    assert max(stage.wait_ns(request.request) for request in requests) < 0.95 * alone_ns
