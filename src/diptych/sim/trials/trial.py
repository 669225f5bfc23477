"""One scenario tried: by its name, as a process of its own takes it, or as a value."""

from __future__ import annotations

import msgspec

from diptych.sim.run import Failed, Outcome, simulate
from diptych.sim.scenario import Scenario
from diptych.sim.seeds import scenario


class Verdict(msgspec.Struct, frozen=True):
    name: str
    outcome: Outcome | None
    """None where a promise was broken."""
    reason: str = ""
    lines: tuple[str, ...] = ()
    """The end of the trace of a failure."""


def try_named(name: str) -> Verdict:
    return try_scenario(name, scenario(name))


def try_scenario(name: str, value: Scenario) -> Verdict:
    try:
        return Verdict(name, simulate(value))
    except Failed as failure:
        return Verdict(name, None, failure.reason, tuple(failure.lines))


def rule_of(reason: str) -> str:
    """Which promise was broken, without whose it was: two failures of one rule count as one."""
    kind, _, rest = reason.partition(": ")
    return f"{kind}: {rest.partition(':')[0]}" if kind == "Violation" else kind
