"""What is simulated, as a value."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from diptych.sim.costs.file import HostCosts, LinkCosts
from diptych.sim.costs.model import StepCosts
from diptych.sim.scenario import Scenario


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A fleet and what it costs."""

    scenario: Scenario
    """Workers, control and pages; its requests and faults are not used."""
    costs: Mapping[str, StepCosts]
    """By worker name."""
    link: LinkCosts = LinkCosts()
    host: HostCosts = HostCosts()
    cores: Mapping[str, int | None] = {}
    """By worker name: where those that compute do it."""
    page_bytes: int = 0
    steps_max: int | None = None
