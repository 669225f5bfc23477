"""The same seed gives the same run, in this process and in others with other hash seeds."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from diptych.sim.run import simulate
from diptych.sim.seeds.mixed import random_scenario

PROGRAM = """
from diptych.sim.seeds.mixed import random_scenario
from diptych.sim.run import simulate
print(*(simulate(random_scenario(seed)).digest for seed in ({seeds})))
"""
SEEDS = (1, 2, 4, 6)


def digests(hash_seed: str) -> list[str]:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    program = PROGRAM.format(seeds=", ".join(map(str, SEEDS)))
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    return done.stdout.split()


@pytest.fixture(scope="module")
def here() -> list[str]:
    return [simulate(random_scenario(seed)).digest for seed in SEEDS]


@pytest.mark.parametrize("hash_seed", ["0", "1", "4242"])
def test_the_hash_seed_of_the_process_changes_nothing(here: list[str], hash_seed: str) -> None:
    assert digests(hash_seed) == here


def test_a_second_run_in_one_process_is_the_same_run(here: list[str]) -> None:
    assert simulate(random_scenario(SEEDS[0])).digest == here[0]


def test_another_seed_is_another_run(here: list[str]) -> None:
    assert len(set(here)) == len(SEEDS)
