"""Promises of the whole system, checked on a running world: after each step cheaply, at quiet in full.

The pool itself checks every read, write, offer, claim and gift as it happens (`sim.pool`), the doors
every token and every end (`sim.door`).
"""

from __future__ import annotations

from diptych.core.actions import Action, FenceWorker
from diptych.core.control import ControlPlane
from diptych.core.facts import DeadlinePassed, Fact
from diptych.core.ids import worker_name
from diptych.core.worker import Worker
from diptych.sim.driver import Seat
from diptych.sim.events import Violation
from diptych.sim.world import World


class Checkers:
    """Observer of a world; `every` says after how many steps of a machine its own books are checked."""

    def __init__(self, world: World, every: int = 1) -> None:
        self.world = world
        self.every = every
        self._paused = {fault.target for fault in world.scenario.faults if fault.kind == "pause"}

    def __call__(self, now_ns: int, seat: Seat, sender: str, fact: Fact, asked: tuple[Action, ...]) -> None:
        if seat.steps % self.every:
            return
        seat.machine.check()
        if isinstance(seat.machine, Worker):
            counts = seat.machine.pages()
            if counts.free + counts.held + counts.cached != counts.total:
                raise Violation("pages do not add up", f"{seat.name} {counts}")
            if min(counts.free, counts.held, counts.cached) < 0:
                raise Violation("pages do not add up", f"{seat.name} {counts}")
        elif isinstance(seat.machine, ControlPlane):
            self._in_time(now_ns, seat.machine, fact, asked)

    def _in_time(self, now_ns: int, control: ControlPlane, fact: Fact, asked: tuple[Action, ...]) -> None:
        """No deadline is passed over, and nobody is fenced for silence who was alive and never paused."""
        if isinstance(fact, DeadlinePassed):
            for request in control.requests.open.values():
                if request.deadline_ns is not None and request.deadline_ns <= now_ns:
                    raise Violation("past its deadline", request.arrived.request)
        for action in asked:
            if isinstance(action, FenceWorker) and "silent" in action.why:
                seat = self.world.workers[action.worker]
                if seat.alive and worker_name(action.worker) not in self._paused:
                    raise Violation("healthy worker fenced", action.worker)

    def at_quiet(self) -> None:
        """Nothing is open: every page is home, and control has forgotten every request."""
        world = self.world
        for pool in world.pools.values():
            owners = [page.owner for page in pool.pages]
            homeless = [n for n, owner in enumerate(owners) if owner is None or owner not in pool.alive]
            if homeless:
                pages = [(n, owners[n], pool.pages[n].giver, pool.pages[n].receiver) for n in homeless[:8]]
                raise Violation("page not home", f"{len(homeless)} pages of {pool.host}: {pages}")
            open_offers = [offer for offer in pool.offers() if offer[0] in pool.alive]
            if open_offers:
                raise Violation("offer left open", repr(open_offers))
        for owner, claim in world.transfers.claims:
            raise Violation("claim left open", f"claim {claim} on {owner}")
        for reader, source, _ in world.transfers.moving:
            raise Violation("copy left under way", f"from {source} to {reader}")
        for name, seat in world.workers.items():
            if seat.alive and isinstance(seat.machine, Worker):
                self._worker_at_quiet(name, seat.machine)
        if world.control is not None and isinstance(world.control.machine, ControlPlane):
            status = world.control.machine.status()
            if status.queued or status.prefilling or status.transferring or status.decoding:
                raise Violation("request left in control", repr(status))

    def _worker_at_quiet(self, name: str, worker: Worker) -> None:
        plan = self.world.plans[worker_name(name)]
        counts = worker.pages()
        if counts.held:
            raise Violation("pages held at quiet", f"{name} {counts}")
        pool = self.world.pool_of(name)
        # A page read by two claimants is paid for twice: its owner has the second payment to spare.
        extra = pool.paid_more_than_once(name)
        if counts.total != plan.pages + extra:
            raise Violation("room changed", f"{name} was granted {plan.pages} (+{extra}), has {counts}")
        loop = self.world.loops[name]
        if loop.streams or loop.run is not None:
            raise Violation("stream left in a step loop", f"{name} {sorted(loop.streams)}")
