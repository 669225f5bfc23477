"""Random fleets, traffic and faults under all checkers; every failure is one command that reproduces."""

from __future__ import annotations

import pytest

from diptych.sim import __main__ as program
from diptych.sim.run import Failed, Outcome, simulate
from diptych.sim.seeds.mixed import random_scenario

SEEDS = 60
BLOCK = 10


def run(seed: int, *, faultless: bool = False) -> Outcome:
    try:
        return simulate(random_scenario(seed, faultless=faultless))
    except Failed as failure:
        again = " --faultless" if faultless else ""
        pytest.fail(f"{failure.reason}\n  python -m diptych.sim --seed {seed}{again}")


@pytest.mark.parametrize("first", range(0, SEEDS, BLOCK))
def test_no_seed_breaks_a_promise(first: int) -> None:
    outcomes = [run(seed) for seed in range(first, first + BLOCK)]
    assert sum(outcome.whole for outcome in outcomes) > 0


def test_without_faults_nothing_is_lost() -> None:
    outcomes = [run(seed, faultless=True) for seed in range(SEEDS, SEEDS + 15)]
    ends = {reason for outcome in outcomes for reason in outcome.failures}
    assert ends <= {"too_long", "overloaded", "deadline", "unavailable", "unknown_model"}
    splits = {name for outcome in outcomes for name, count in outcome.splits.items() if count}
    assert splits == {"aggregated", "partial", "full"}
    assert sum(outcome.resumed for outcome in outcomes) > 0, "no stream was ever preempted"


def test_the_program_reports_and_says_how_to_repeat(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.main(["--seeds", "2"]) == 0
    assert "2 seeds passed, 0 failed" in capsys.readouterr().out

    def broken(scenario: object) -> Outcome:
        raise Failed(7, "Violation: for show", ["last line"])

    monkeypatch.setattr(program, "simulate", broken)
    assert program.main(["--seed", "7"]) == 1
    printed = capsys.readouterr().out
    assert "last line" in printed
    assert "python -m diptych.sim --seed 7" in printed
