"""Engines that compute at the same time on one host: they share its memory, and some share a core."""

from __future__ import annotations

from collections.abc import Mapping

from diptych.core.ids import Incarnation, worker_name
from diptych.sim.costs.file import HostCosts
from diptych.sim.timed.step_loop import FULL_SPEED, Run, StepLoop


class Cores:
    """Sets the pace of every run that is under way, anew whenever one begins or ends."""

    def __init__(self, costs: HostCosts, core_of: Mapping[str, int | None]) -> None:
        """`core_of`: each worker's core by its name; None, or none named: it computes nothing."""
        self._costs = costs
        self._core_of = core_of
        self._running: dict[Incarnation, tuple[int, StepLoop]] = {}

    def began(self, now_ns: int, loop: StepLoop) -> list[tuple[StepLoop, Run]]:
        """Runs whose ends have moved, the loop's own one aside."""
        core = self._core_of.get(worker_name(loop.worker))
        if core is None:
            return []
        self._running[loop.worker] = (core, loop)
        return self._paced(now_ns, loop)

    def ended(self, now_ns: int, loop: StepLoop) -> list[tuple[StepLoop, Run]]:
        if self._running.pop(loop.worker, None) is None:
            return []
        return self._paced(now_ns, loop)

    def _paced(self, now_ns: int, cause: StepLoop) -> list[tuple[StepLoop, Run]]:
        on_core: dict[int, int] = {}
        for core, _ in self._running.values():
            on_core[core] = on_core.get(core, 0) + 1
        others = len(on_core) - 1
        beside = (self._costs.slowdown - 1.0) * others / max(1, self._costs.cores - 1)
        moved = []
        for core, loop in self._running.values():
            run = loop.run
            pace = round(FULL_SPEED * on_core[core] * (1.0 + beside))
            if run is not None and run.set_pace(now_ns, pace) and loop is not cause:
                moved.append((loop, run))
        return moved
