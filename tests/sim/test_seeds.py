"""Random fleets, traffic and faults under all checkers; every failure is one command that reproduces it."""

from __future__ import annotations

import pytest

from diptych.sim.faults.tally import LABELS, Tally
from diptych.sim.run import Outcome
from diptych.sim.scenario import Fault
from diptych.sim.seeds import MAKERS, ROUND, scenario
from diptych.sim.trials.closing import Totals
from diptych.sim.trials.many import cores, try_all

SEEDS = 60
"""Of each kind."""
FOUND = {
    "handoff-147": "a target died while control was down, and its source had an offer open",
    "handoff-215": "control was replaced twice before anybody had word of the first time",
    "handoff-230": "context was lent to a source that had died",
    "handoff-637": "what was offered was lent on before its answer could leave",
    "handoff-100662": "what was offered was offered back before its answer could leave",
    "strain-271": "a host stood still while its control did already",
    "hosts-329": "pages that were hung elsewhere took their reader's earlier pages along",
    "hosts-300653": "a dead reader had offered a page back to its owner",
    "hosts-100003": "a copy hung after everything else had ended",
    "network-90042": "the word of a pause was lost with the host of the worker that had paused",
    "network-100513": "a request that had been put off named a moment that had passed when nobody was left",
}
"""Seeds that failed once, and on what."""
AFTER_A_FAULT = {
    "mixed": {"worker death", "control death", "client gone", "door death", "deadline"},
    "handoff": {"worker death", "control restart with a new epoch", "client gone"},
    "hosts": {"transfer failure", "corrupted page", "pull that hangs", "pull that outlives its claim"},
    "network": {
        "page reused under a remote reader",
        "pull that outlives its claim",
        "link down",
        "one-way partition",
        "message loss",
        "message delay",
        "message duplication",
        "message reordering",
        "link slow",
    },
    "strain": {
        "page exhaustion",
        "slow client",
        "socket cut",
        "worker pause, longer than the lease",
        "worker pause, shorter than the lease",
        "whole host stands still, longer than the lease",
        "worker's driver stands still, longer than the lease",
        "worker's driver stands still, shorter than the lease",
        "control stands still",
    },
}
"""Kinds of fault that each kind of scenario is there for."""


@pytest.fixture(scope="module")
def outcomes() -> dict[str, list[Outcome]]:
    names = [f"{kind}-{seed}" for seed in range(SEEDS) for kind in ROUND]
    names += [f"faultless-{seed}" for seed in range(SEEDS, SEEDS + 15)]
    found: dict[str, list[Outcome]] = {kind: [] for kind in MAKERS}
    failures = []
    for verdict in try_all([*names, *FOUND], cores()):
        if verdict.outcome is None:
            failures.append(f"{verdict.reason}\n  python -m diptych.sim --seed {verdict.name}")
        else:
            found[verdict.name.partition("-")[0]].append(verdict.outcome)
    assert failures == [], "\n".join(failures)
    return found


@pytest.mark.parametrize("kind", ROUND)
def test_no_seed_breaks_a_promise_and_faults_take_effect(
    outcomes: dict[str, list[Outcome]], kind: str
) -> None:
    totals = Totals()
    for outcome in outcomes[kind]:
        totals.add(outcome)
    assert totals.scenarios >= SEEDS
    assert totals.whole > totals.requests // 3
    assert totals.resumed > 0
    effective = {label for label, count in totals.faults.items() if count.effective}
    assert AFTER_A_FAULT[kind] <= effective


def test_handoff_scenarios_are_for_handoffs(outcomes: dict[str, list[Outcome]]) -> None:
    whole = sum(outcome.whole for outcome in outcomes["handoff"])
    assert sum(outcome.splits["full"] for outcome in outcomes["handoff"]) > whole // 2
    assert sum(outcome.resumed for outcome in outcomes["handoff"]) > whole // 10


def test_without_faults_nothing_is_lost(outcomes: dict[str, list[Outcome]]) -> None:
    ends = {reason for outcome in outcomes["faultless"] for reason in outcome.failures}
    assert ends <= {"too_long", "overloaded", "deadline", "unavailable", "unknown_model"}
    splits = {name for o in outcomes["faultless"] for name, count in o.splits.items() if count}
    assert splits == {"aggregated", "partial", "full"}
    assert sum(outcome.resumed for outcome in outcomes["faultless"]) > 0, "no stream was ever preempted"


def test_every_kind_of_fault_has_a_name_and_is_injected_by_some_kind_of_scenario() -> None:
    tally = Tally(scenario("mixed-0").control)
    injected = {
        fault.kind for kind in ROUND for seed in range(SEEDS) for fault in scenario(f"{kind}-{seed}").faults
    }
    assert injected == {*LABELS, "kill", "cut"}
    labels = {
        tally.label(Fault(at_ns=0, kind=kind, target=target, duration_ns=duration_ns))
        for kind in injected
        for target in ("control", "a>b")
        for duration_ns in (0, 10**10)
    }
    assert len(labels) > len(injected)


@pytest.mark.parametrize("name", ["nothing-1", "mixed", "mixed-x", "mixed--1"])
def test_a_scenario_that_is_none_is_named(name: str) -> None:
    with pytest.raises(ValueError, match=f"no scenario '{name}'"):
        scenario(name)
