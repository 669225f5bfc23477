"""Who may be taken for dead because nothing was heard of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diptych.core.ids import Incarnation

if TYPE_CHECKING:
    from diptych.sim.world import World


class Silence:
    """Since when control has heard nothing of each worker, and what could be the reason."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._heard_ns: dict[Incarnation, int] = {}

    def heard(self, now_ns: int, sender: str) -> None:
        if sender in self.world.workers:
            self._heard_ns[sender] = now_ns

    def excused(self, now_ns: int, worker: Incarnation) -> bool:
        """It is dead, or it or the links between it and control had their troubles meanwhile. Standing still
        together with control, as on one host, is none: control must notice that of itself, unless it woke
        up so soon after the worker's lease that a driver does not take it for a stall."""
        world = self.world
        if not world.workers[worker].alive:
            return True
        since_ns = self._heard_ns.get(worker, 0)
        still = world.injector.stood_still.get(worker, ())
        if any(end_ns >= since_ns and begin_ns <= now_ns for begin_ns, end_ns in still):
            return True
        lease_end_ns = since_ns + world.scenario.control.lease_ns
        frozen = world.injector.frozen.get(worker, ())
        if any(0 <= end_ns - lease_end_ns <= world.scenario.stall_ns for _, end_ns in frozen):
            return True
        machines = (world.network.machine_of(worker), world.scenario.control_host)
        return any(world.network.weather.disturbed(since_ns, machine) for machine in machines)
