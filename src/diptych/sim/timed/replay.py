"""Runs a workload through a simulated fleet to its end and keeps what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from diptych.sim.driver import Happening
from diptych.sim.events import Violation
from diptych.sim.timed.events import Asked, Tick
from diptych.sim.timed.meter import Meter, Tracer
from diptych.sim.timed.plan import Plan
from diptych.sim.timed.served import Sample
from diptych.sim.timed.stream import Stream
from diptych.sim.timed.world import TimedWorld
from diptych.sim.workloads.ask import SECOND_NS, Ask, Workload

CLIENTS = "clients"
START_LIMIT_NS = 3600 * SECOND_NS
STUCK_NS = 3600 * SECOND_NS
"""So long without a run or an end, and the simulation is given up."""
FOREVER_NS = 1 << 62

Progress = Callable[[int, int], None]
"""Called with (requests ended, virtual ns since the workload began)."""


class Clients:
    """The party that asks: one arrival ahead, and again after answers; it also looks at the fleet."""

    def __init__(self, world: TimedWorld, workload: Workload, progress: Progress | None) -> None:
        self.world = world
        self.workload = workload
        self.progress = progress
        self.base_ns = world.driver.now_ns
        self.waiting = 0
        """Requests that will be asked for certain."""
        self.open = 0
        self._asks: Iterator[Ask] = workload.asks()
        self._seen = (0, 0)
        self._seen_ns = self.base_ns
        world.driver.parties[CLIENTS] = self
        world.on_closed = self._closed
        self._feed()
        self._tick()
        self._stop_if_done()

    def _stop_if_done(self) -> None:
        if not (self.open or self.waiting):
            self.world.driver.stop()

    def receive(self, now_ns: int, sender: str, event: Happening, payload: object) -> None:
        if isinstance(event, Asked):
            self.waiting -= 1
            self.open += 1
            if sender == CLIENTS:
                self._feed()
            self.world.ask(now_ns, event.ask)
        elif isinstance(event, Tick):
            self.look(now_ns)
            self._tick()
        else:
            raise Violation("clients cannot take it", repr(event))

    def _feed(self) -> None:
        ask = next(self._asks, None)
        if ask is not None:
            self._plan(ask, CLIENTS)

    def _plan(self, ask: Ask, sender: str) -> None:
        self.waiting += 1
        self.world.at(self.base_ns + ask.at_ns, sender, CLIENTS, Asked(ask))

    def _closed(self, stream: Stream) -> None:
        self.open -= 1
        since_ns = self.world.driver.now_ns - self.base_ns
        after = self.workload.ended(stream.ask, since_ns, served=stream.failure is None)
        if after is not None:
            self._plan(after, stream.ask.request)
        self._stop_if_done()
        if self.progress is not None and len(self.world.meter.served) % 64 == 0:
            self.progress(len(self.world.meter.served), since_ns)

    def _tick(self) -> None:
        at_ns = self.world.driver.now_ns + self.world.meter.sample_every_ns
        self.world.at(at_ns, CLIENTS, CLIENTS, Tick())

    def look(self, now_ns: int) -> None:
        world, counts = self.world, self.world.requests()
        world.meter.sample(
            Sample(
                at_ns=now_ns - self.base_ns,
                queued=counts["queued"],
                reserving=counts["reserving"],
                prefilling=counts["prefilling"],
                decoding=counts["streaming"],
                pages=world.pages(),
            )
        )
        seen = (world.meter.runs, len(world.meter.served))
        if seen != self._seen or not self.open:
            self._seen, self._seen_ns = seen, now_ns
        elif now_ns - self._seen_ns > STUCK_NS:
            raise Violation("stuck", f"open: {sorted(world.streams)[:8]}")


def replay(
    plan: Plan, workload: Workload, *, tracer: Tracer | None = None, progress: Progress | None = None
) -> TimedWorld:
    """The world at the end of the workload, with everything in its meter.

    Raises `Violation` where the fleet does not start or requests are stuck."""
    world = started(plan, tracer)
    serve(world, workload, progress)
    return world


def serve(world: TimedWorld, workload: Workload, progress: Progress | None = None) -> None:
    """The workload through a fleet that has started, to its end."""
    clients = Clients(world, workload, progress)
    world.driver.run(None, FOREVER_NS)
    clients.look(world.driver.now_ns)
    if progress is not None:
        progress(len(world.meter.served), world.driver.now_ns - clients.base_ns)


def started(plan: Plan, tracer: Tracer | None = None) -> TimedWorld:
    """A world whose workers all serve."""
    meter = Meter(plan.link.latency_ns, tracer, token_ns=plan.host.token_ns)
    world = TimedWorld(
        plan.scenario,
        plan.costs,
        plan.link,
        meter,
        host=plan.host,
        cores=plan.cores,
        page_bytes=plan.page_bytes,
        steps_max=plan.steps_max,
    )
    if not world.driver.run(world.ready, START_LIMIT_NS):
        raise Violation("the fleet does not start", repr(world.control.machine))
    meter.base_ns = world.driver.now_ns
    return world
