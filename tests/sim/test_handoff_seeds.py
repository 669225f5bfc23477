"""Random fleets whose requests are handed over while clients leave and workers die, under all checkers."""

from __future__ import annotations

import pytest

from diptych.sim.run import Failed, simulate
from diptych.sim.seeds.handoff import handoff_scenario

SEEDS = 40
OPEN_OFFER_WHILE_CONTROL_WAS_DOWN = 147
"""A target died while control was down, and its source had an offer open."""


def test_no_handoff_seed_breaks_a_promise() -> None:
    outcomes = []
    for seed in (*range(SEEDS), OPEN_OFFER_WHILE_CONTROL_WAS_DOWN):
        try:
            outcomes.append(simulate(handoff_scenario(seed)))
        except Failed as failure:
            pytest.fail(f"handoff {failure.seed}: {failure.reason}")
    whole = sum(outcome.whole for outcome in outcomes)
    full = sum(outcome.splits["full"] for outcome in outcomes)
    assert full > whole // 2, "these scenarios are for handoffs"
    assert sum(outcome.resumed for outcome in outcomes) > whole // 10
