"""The simulated fleet without contents: it performs the machines' actions and tells what came of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from diptych.core import actions, facts
from diptych.core.control import ControlPlane
from diptych.core.facts import Fact
from diptych.core.ids import CONTROL, Incarnation, RequestId, worker_name
from diptych.core.worker import Worker
from diptych.sim import events
from diptych.sim.costs.file import HostCosts, LinkCosts
from diptych.sim.costs.model import PS_PER_NS, StepCosts
from diptych.sim.driver import Driver, Happening
from diptych.sim.events import Violation
from diptych.sim.scenario import Scenario, WorkerPlan
from diptych.sim.supervisor import SUPERVISOR, Supervisor
from diptych.sim.timed.cores import Cores
from diptych.sim.timed.door import DOOR, Door
from diptych.sim.timed.links import Links
from diptych.sim.timed.meter import Meter
from diptych.sim.timed.seat import TimedSeat, Watch
from diptych.sim.timed.step_loop import Run, StepLoop
from diptych.sim.timed.stream import Stream
from diptych.sim.workloads.ask import Ask
from diptych.sim.world import worker_config

_NO_HOST_COSTS = HostCosts()
_NO_CORES: Mapping[str, int | None] = {}


class TimedWorld:
    """`costs`: of each worker by name. The scenario's own requests and faults are not looked at."""

    def __init__(
        self,
        scenario: Scenario,
        costs: Mapping[str, StepCosts],
        link: LinkCosts,
        meter: Meter,
        *,
        host: HostCosts = _NO_HOST_COSTS,
        cores: Mapping[str, int | None] = _NO_CORES,
        page_bytes: int = 0,
        steps_max: int | None = None,
        watch: Watch | None = None,
    ) -> None:
        self.scenario = scenario
        self.costs = costs
        self.latency_ns = link.latency_ns
        self.host = host
        self._cores = Cores(host, cores)
        self.computing = any(core is not None for core in cores.values())
        """Whether any worker computes on a core that others may share."""
        self.meter = meter
        self.steps_max = steps_max
        self.watch = watch
        self.driver = Driver(link.latency_ns)
        self.links = Links(self.driver, link, page_bytes)
        self.streams: dict[RequestId, Stream] = {}
        self.workers: dict[Incarnation, TimedSeat] = {}
        self.loops: dict[Incarnation, StepLoop] = {}
        self._perform: dict[type[actions.Action], Callable[..., None]] = {
            actions.RunSteps: self._run_steps,
            actions.EndRun: self._end_run,
            actions.DropRequest: self._drop,
            actions.PauseStream: self._pause,
            actions.FenceWorker: self._fence,
        }
        self.on_closed: Callable[[Stream], None] = lambda stream: None
        self.door = Door(
            scenario.workers[0].models[0], scenario.page_tokens, self.streams, self, self._closed
        )
        self.driver.parties[DOOR] = self.door
        self.supervisor = Supervisor(scenario, self)
        self.driver.parties[SUPERVISOR] = self.supervisor
        self.control = self._seat(CONTROL, ControlPlane(scenario.control))
        for name in (SUPERVISOR, DOOR):
            self.at(self.latency_ns, CONTROL, name, events.ControlUp(scenario.control.epoch))
        self.supervisor.begin()

    def _seat(self, name: str, machine: Worker | ControlPlane) -> TimedSeat:
        # What a worker tells another one may bring pages along.
        plain = name == CONTROL or self.links.latency_only
        send = self.driver.post if plain else self._send_on
        seat = TimedSeat(name, machine, self.driver, send, self._perform)
        seat.watch = self.watch
        self.driver.parties[name] = seat
        return seat

    def ready(self) -> bool:
        """Every worker serves."""
        status = self._control().status()
        served = sum(worker.state == "ready" for worker in status.workers)
        return served == len(self.scenario.workers)

    def _control(self) -> ControlPlane:
        machine = self.control.machine
        assert isinstance(machine, ControlPlane)
        return machine

    def ask(self, now_ns: int, ask: Ask) -> None:
        """A client sends its request."""
        delay_ns = self.host.request_ns + self.host.prompt_token_ns * ask.text.tokens
        self.door.ask(now_ns, ask, delay_ns)

    # ---- messages -----------------------------------------------------------------------------------

    def at(self, at_ns: int, sender: str, receiver: str, event: Happening) -> None:
        self.driver.at(at_ns, sender, receiver, event)

    def last_arrival_ns(self, sender: str, receiver: str) -> int:
        """Every message but those between workers takes as long, so none is still under way then."""
        return self.driver.now_ns + self.latency_ns

    def send(self, sender: str, to: str, fact: Fact, payload: object = None) -> None:
        self.driver.post(sender, to, fact)

    # ---- actions ------------------------------------------------------------------------------------

    def _send_on(self, sender: str, to: str, fact: Fact) -> None:
        if to in self.workers:
            self.links.send(sender, to, fact)
        else:
            self.driver.post(sender, to, fact)

    def _run_steps(self, now_ns: int, seat: TimedSeat, action: actions.RunSteps) -> None:
        loop = self.loops[seat.name]
        run = loop.start(now_ns, action)
        if self.computing:
            self._plan_moved(self._cores.began(now_ns, loop))
        self._plan_border(loop, run)

    def run_over(self, now_ns: int, loop: StepLoop) -> None:
        """The loop's run has ended, or its worker."""
        self._plan_moved(self._cores.ended(now_ns, loop))

    def _plan_moved(self, moved: list[tuple[StepLoop, Run]]) -> None:
        for loop, run in moved:
            self._plan_border(loop, run)

    def _end_run(self, now_ns: int, seat: TimedSeat, action: actions.EndRun) -> None:
        loop = self.loops[seat.name]
        run = loop.end_early(now_ns, action.run)
        if run is not None:
            self._plan_border(loop, run)

    def _plan_border(self, loop: StepLoop, run: Run) -> None:
        border = events.RunBorder(run.action.run, run.steps)
        self.driver.at(run.end_ps // PS_PER_NS, loop.worker, loop.name, border)

    def _drop(self, now_ns: int, seat: TimedSeat, action: actions.DropRequest) -> None:
        self.loops[seat.name].drop(action.request, action.attempt)

    def _pause(self, now_ns: int, seat: TimedSeat, action: actions.PauseStream) -> None:
        self.loops[seat.name].pause(action.request, action.attempt)
        frame = events.PauseFrame(action.request, action.attempt)
        self.at(now_ns + self.latency_ns, seat.name, DOOR, frame)

    def _fence(self, now_ns: int, seat: TimedSeat, action: actions.FenceWorker) -> None:
        self.at(now_ns + self.latency_ns, CONTROL, SUPERVISOR, events.FenceAsked(action.worker))

    def _closed(self, stream: Stream) -> None:
        stream.end_ns = self.driver.now_ns
        self.meter.closed(stream, self.driver.now_ns)
        self.on_closed(stream)

    # ---- processes ----------------------------------------------------------------------------------

    def start(self, worker: Incarnation, plan: WorkerPlan) -> None:
        self.workers[worker] = seat = self._seat(worker, Worker(worker_config(self.scenario, worker, plan)))
        self.loops[worker] = loop = StepLoop(
            worker,
            self.costs[plan.name],
            self.scenario.page_tokens,
            self.streams,
            self.meter,
            self.steps_max,
        )
        self.driver.parties[loop.name] = LoopSeat(loop, seat, self)
        self.at(self.driver.now_ns + plan.load_ns, worker, loop.name, events.Started(worker))

    def kill(self, worker: Incarnation) -> bool:
        seat = self.workers[worker]
        if not seat.alive:
            return False
        seat.alive = False
        for name in (worker, self.loops[worker].name):
            del self.driver.parties[name]
        self.loops[worker].died(self.driver.now_ns)
        self.run_over(self.driver.now_ns, self.loops[worker])
        self.send(worker, CONTROL, facts.ConnectionLost(peer=worker))
        return True

    def pages(self) -> tuple[tuple[int, int], ...]:
        """(held, cached) of each planned worker."""
        counts = []
        for plan in self.scenario.workers:
            worker = self.supervisor.running.get(plan.name)
            machine = self.workers[worker].machine if worker is not None else None
            pages = machine.pages() if isinstance(machine, Worker) else None
            counts.append((pages.held, pages.cached) if pages is not None else (0, 0))
        return tuple(counts)

    def requests(self) -> dict[str, int]:
        """How many requests are in which state at control."""
        return self._control().requests.counts()

    def restarts(self) -> int:
        """Worker processes that were started beyond the first of each."""
        return sum(epoch - 1 for epoch in self.supervisor.epochs.values())

    def alive(self, name: str) -> bool:
        return any(seat.alive for worker, seat in self.workers.items() if worker_name(worker) == name)


class LoopSeat:
    """The inbox of a worker's step loop: the process's own start and the borders of its runs."""

    def __init__(self, loop: StepLoop, seat: TimedSeat, world: TimedWorld) -> None:
        self.loop = loop
        self.seat = seat
        self.name = loop.name
        self.world = world

    def receive(self, now_ns: int, sender: str, event: Happening, payload: object) -> None:
        seat = self.seat
        if isinstance(event, events.RunBorder):
            ran = self.loop.finish(now_ns, event.run, event.steps)
            if ran is None:
                return
            if self.world.computing:
                self.world.run_over(now_ns, self.loop)
            turnaround_ns = self.world.host.turnaround_ns
            if turnaround_ns:
                self.world.at(now_ns + turnaround_ns, self.name, seat.name, ran)
            else:
                seat.receive(now_ns, self.name, ran, None)
        elif isinstance(event, events.Started):
            joined = facts.ControlJoined(epoch=1)
            self.world.at(now_ns + self.world.latency_ns, CONTROL, seat.name, joined)
        else:
            raise Violation("step loop cannot take it", repr(event))
