"""Makes a failing scenario small: fewer requests, workers and faults, then shorter and simpler ones.

Delta debugging (ddmin: Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input", IEEE
TSE 28(2), 2002): parts are left out in ever smaller groups as long as what remains breaks the same rule.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

import msgspec

from diptych.core.config import SECOND_NS
from diptych.core.ids import CONTROL
from diptych.sim.network.weather import LINK_KINDS
from diptych.sim.scenario import Fault, RequestPlan, Scenario
from diptych.sim.trials.trial import rule_of, try_scenario

HORIZON_NS = 15 * SECOND_NS

Part = TypeVar("Part")
Change = Callable[[Scenario], Scenario]


class Shrinker:
    """`broken` says which rule a scenario breaks, or None; it is asked `tries` times."""

    def __init__(self, rule: str, broken: Callable[[Scenario], str | None], limit_s: float = 60.0) -> None:
        self.rule = rule
        self.broken = broken
        self.tries = 0
        self._until_s = time.monotonic() + limit_s

    def shrink(self, scenario: Scenario) -> Scenario:
        """The smallest found in the time there is; at worst what was given."""
        # A request that is stuck shows after seconds as well as after minutes, and each try is sooner done.
        sooner = msgspec.structs.replace(scenario, horizon_ns=HORIZON_NS)
        if self._fails(sooner):
            scenario = sooner
        while True:
            before = scenario
            scenario = self._parts(scenario)
            scenario = self._simpler(scenario)
            if scenario == before or self._late():
                return scenario

    def _late(self) -> bool:
        return time.monotonic() > self._until_s

    def _fails(self, scenario: Scenario) -> bool:
        if self._late() or not scenario.workers:
            return False
        self.tries += 1
        return self.broken(scenario) == self.rule

    def _parts(self, scenario: Scenario) -> Scenario:
        scenario = self._without(scenario, scenario.faults, with_faults)
        scenario = self._without(scenario, scenario.requests, with_requests)
        names = tuple(plan.name for plan in scenario.workers)
        scenario = self._without(scenario, names, with_workers)
        return self._without(scenario, scenario.doors, with_doors)

    def _without(
        self,
        scenario: Scenario,
        parts: tuple[Part, ...],
        kept: Callable[[Scenario, tuple[Part, ...]], Scenario],
    ) -> Scenario:
        """Leaves out halves, quarters, ... single parts, until none can go."""
        size = max(1, len(parts) // 2)
        while parts:
            smaller = self._first_that_fails(scenario, parts, size, kept)
            if smaller is not None:
                parts = smaller
                scenario = kept(scenario, parts)
            elif size == 1:
                break
            else:
                size = max(1, size // 2)
        return scenario

    def _first_that_fails(
        self,
        scenario: Scenario,
        parts: tuple[Part, ...],
        size: int,
        kept: Callable[[Scenario, tuple[Part, ...]], Scenario],
    ) -> tuple[Part, ...] | None:
        for first in range(0, len(parts), size):
            rest = parts[:first] + parts[first + size :]
            if self._fails(kept(scenario, rest)):
                return rest
        return None

    def _simpler(self, scenario: Scenario) -> Scenario:
        for change in changes(scenario):
            changed = change(scenario)
            if changed != scenario and self._fails(changed):
                scenario = changed
        return scenario


# ---- a scenario with fewer parts ------------------------------------------------------------------


def with_faults(scenario: Scenario, faults: tuple[Fault, ...]) -> Scenario:
    return msgspec.structs.replace(scenario, faults=faults)


def with_requests(scenario: Scenario, requests: tuple[RequestPlan, ...]) -> Scenario:
    return _consistent(msgspec.structs.replace(scenario, requests=requests))


def with_workers(scenario: Scenario, names: tuple[str, ...]) -> Scenario:
    workers = tuple(plan for plan in scenario.workers if plan.name in names)
    return _consistent(msgspec.structs.replace(scenario, workers=workers))


def with_doors(scenario: Scenario, doors: tuple[str, ...]) -> Scenario:
    if not doors:
        return scenario
    requests = tuple(_at_door(plan, doors) for plan in scenario.requests)
    return _consistent(msgspec.structs.replace(scenario, doors=doors, requests=requests))


def _at_door(plan: RequestPlan, doors: tuple[str, ...]) -> RequestPlan:
    follow = None if plan.follow is None else _at_door(plan.follow, doors)
    door = plan.door if plan.door in doors else doors[0]
    return msgspec.structs.replace(plan, door=door, follow=follow)


def _consistent(scenario: Scenario) -> Scenario:
    """Without faults that strike nothing any more; a flood needs a model that is served."""
    models = {model for plan in scenario.workers for model in plan.models}
    known = {CONTROL, *scenario.doors, *(plan.name for plan in scenario.workers), *models}
    known |= {plan.host for plan in scenario.workers} | {scenario.control_host}
    for plan in scenario.requests:
        known.add(plan.request)
        if plan.follow is not None:
            known.add(plan.follow.request)
    faults = tuple(fault for fault in scenario.faults if fault.kind in LINK_KINDS or fault.target in known)
    return msgspec.structs.replace(scenario, faults=faults)


# ---- a scenario that is simpler -------------------------------------------------------------------


def changes(scenario: Scenario) -> Iterator[Change]:
    """Each is tried once, on top of those that held."""
    for index, plan in enumerate(scenario.requests):
        for simpler in _simpler_requests(plan):
            yield _request_changed(index, simpler)
    for field in ("jitter_ns", "between_workers_ns", "clocks_apart_ns"):
        yield _replaced(field, 0)


def _replaced(field: str, value: int) -> Change:
    return lambda scenario: msgspec.structs.replace(scenario, **{field: value})


def _request_changed(index: int, change: Callable[[RequestPlan], RequestPlan]) -> Change:
    def changed(scenario: Scenario) -> Scenario:
        requests = list(scenario.requests)
        requests[index] = change(requests[index])
        return _consistent(msgspec.structs.replace(scenario, requests=tuple(requests)))

    return changed


def _simpler_requests(plan: RequestPlan) -> Iterator[Callable[[RequestPlan], RequestPlan]]:
    replace = msgspec.structs.replace
    if plan.follow is not None:
        yield lambda held: replace(held, follow=None)
    if len(plan.lengths) > 1:
        yield lambda held: replace(held, lengths=held.lengths[:1])
    if len(plan.prompt) > 1:
        yield lambda held: replace(held, prompt=held.prompt[1:])
    yield lambda held: replace(held, priority=0, tenant="", seeded=False, logits_from=None, deadline_ns=None)
    for divisor in (4, 2):
        yield partial(_shorter_prompt, divisor)
        yield partial(_shorter_answer, divisor)


def _shorter_prompt(divisor: int, plan: RequestPlan) -> RequestPlan:
    prompt = tuple((text, max(1, count // divisor)) for text, count in plan.prompt)
    return msgspec.structs.replace(plan, prompt=prompt)


def _shorter_answer(divisor: int, plan: RequestPlan) -> RequestPlan:
    lengths = tuple(max(1, length // divisor) for length in plan.lengths)
    return msgspec.structs.replace(plan, lengths=lengths)


def broken_rule(scenario: Scenario) -> str | None:
    """Tries the scenario in this process."""
    verdict = try_scenario("", scenario)
    return rule_of(verdict.reason) if verdict.outcome is None else None


def size_of(scenario: Scenario) -> str:
    counts = {
        "worker": len(scenario.workers),
        "request": len(scenario.requests),
        "fault": len(scenario.faults),
    }
    return ", ".join(f"{count} {name}{'' if count == 1 else 's'}" for name, count in counts.items())
