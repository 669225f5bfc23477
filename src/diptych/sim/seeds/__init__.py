"""Scenarios from seeds: fleets, traffic and what goes wrong when. `scenario("handoff-7")` makes one."""

from __future__ import annotations

from collections.abc import Callable

from diptych.sim.scenario import Scenario
from diptych.sim.seeds.handoff import handoff_scenario
from diptych.sim.seeds.hosts import hosts_scenario
from diptych.sim.seeds.mixed import random_scenario
from diptych.sim.seeds.network import network_scenario
from diptych.sim.seeds.strain import strain_scenario

__all__ = ["MAKERS", "ROUND", "scenario"]

MAKERS: dict[str, Callable[[int], Scenario]] = {
    "mixed": random_scenario,
    "handoff": handoff_scenario,
    "hosts": hosts_scenario,
    "network": network_scenario,
    "strain": strain_scenario,
    "faultless": lambda seed: random_scenario(seed, faultless=True),
}
"""Kinds of scenario."""
ROUND = ("mixed", "handoff", "hosts", "network", "strain")
"""What `make sim` tries in turn; the seeds of `faultless` are those of `mixed` with nothing going wrong."""


def scenario(name: str) -> Scenario:
    """Raises `ValueError` where there is no such kind or the number is none."""
    kind, _, number = name.partition("-")
    if kind not in MAKERS or not number.isdecimal():
        raise ValueError(f"no scenario {name!r}: a kind ({', '.join(MAKERS)}), a dash and a seed")
    return MAKERS[kind](int(number))
