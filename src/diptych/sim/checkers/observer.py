"""The observer that checks a world: after each step what it touched, now and then everything."""

from __future__ import annotations

from diptych.core.actions import Action, FenceWorker
from diptych.core.control import ControlPlane
from diptych.core.facts import Fact
from diptych.core.ids import worker_name
from diptych.core.worker import Worker
from diptych.sim.checkers.books import check_counts, check_worker
from diptych.sim.checkers.endings import check_ends, check_in_time
from diptych.sim.checkers.silence import Silence
from diptych.sim.driver import Seat
from diptych.sim.events import Violation
from diptych.sim.world import World

FULL_EVERY = 16
"""Checks of a machine's own books to one of them against everybody's."""


class Checkers:
    """Observer of a world; `every` says after how many steps of a machine its own books are checked."""

    def __init__(self, world: World, every: int = 1) -> None:
        self.world = world
        self.every = every
        self.silence = Silence(world)
        world.auditors.append(self._audit)

    def __call__(self, now_ns: int, seat: Seat, sender: str, fact: Fact, asked: tuple[Action, ...]) -> None:
        machine = seat.machine
        full = seat.steps % self.every == 0
        if isinstance(machine, Worker):
            check_counts(seat.name, machine)
            if full:
                machine.check()
        elif isinstance(machine, ControlPlane):
            self.silence.heard(now_ns, sender)
            self._fences(now_ns, asked)
            if full:
                machine.check()
                check_in_time(machine, now_ns + seat.clock_ahead_ns, fact)

    def _audit(self, now_ns: int, seat: Seat) -> None:
        if isinstance(seat.machine, Worker) and seat.steps % (self.every * FULL_EVERY) == 0:
            check_worker(seat.name, seat.machine, self.world.pool_of(seat.name))

    def _fences(self, now_ns: int, asked: tuple[Action, ...]) -> None:
        for action in asked:
            if (
                isinstance(action, FenceWorker)
                and "silent" in action.why
                and not self.silence.excused(now_ns, action.worker)
            ):
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
            lent = [number for number, page in enumerate(pool.pages) if +page.loans]
            if lent:
                raise Violation("loan left open", f"{[dict(pool.pages[n].loans) for n in lent[:4]]}")
        for owner, claim in world.transfers.claims:
            raise Violation("claim left open", f"claim {claim} on {owner}")
        for reader, source, _ in world.transfers.moving:
            raise Violation("copy left under way", f"from {source} to {reader}")
        for name, seat in world.workers.items():
            if seat.alive and isinstance(seat.machine, Worker):
                self._worker_at_quiet(name, seat.machine)
        if world.control is not None and isinstance(world.control.machine, ControlPlane):
            control = world.control.machine
            control.check()
            status = control.status()
            if status.queued or status.prefilling or status.transferring or status.decoding:
                raise Violation("request left in control", repr(status))
            if world.payloads:
                raise Violation("payload left in control", repr(list(world.payloads)))
        check_ends(world.done)

    def _worker_at_quiet(self, name: str, worker: Worker) -> None:
        plan = self.world.plans[worker_name(name)]
        pool = self.world.pool_of(name)
        check_worker(name, worker, pool)
        counts = worker.pages()
        if counts.held:
            raise Violation("pages held at quiet", f"{name} {counts}")
        # A page read by two claimants is paid for twice: its owner has the second payment to spare.
        extra = pool.paid_more_than_once(name)
        if counts.total != plan.pages + extra:
            raise Violation("room changed", f"{name} was granted {plan.pages} (+{extra}), has {counts}")
        loop = self.world.loops[name]
        if loop.streams or loop.run is not None:
            raise Violation("stream left in a step loop", f"{name} {sorted(loop.streams)}")
