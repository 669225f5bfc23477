"""The simulated host agents: they start, kill and reap worker processes, and nothing else."""

from __future__ import annotations

from typing import Protocol

from diptych.core import facts
from diptych.core.config import SECOND_NS
from diptych.core.ids import CONTROL, Incarnation, incarnation, worker_name
from diptych.sim import events
from diptych.sim.driver import Happening, Outside
from diptych.sim.events import Violation
from diptych.sim.network.names import generation_of
from diptych.sim.scenario import Scenario, WorkerPlan

SUPERVISOR = "supervisor"
SPAWN_LIMIT_NS = 10 * SECOND_NS


class Processes(Outside, Protocol):
    """What only the agents may do to the world."""

    def start(self, worker: Incarnation, plan: WorkerPlan) -> None: ...

    def kill(self, worker: Incarnation) -> bool: ...


class Supervisor:
    """The agent of one host, or of all in one; each host's facts are its own."""

    def __init__(
        self, scenario: Scenario, processes: Processes, name: str = SUPERVISOR, host: str | None = None
    ) -> None:
        self.scenario = scenario
        self.processes = processes
        self.name = name
        self.joined: int | None = None
        """The generation of control it has a socket to."""
        self.newest = 0
        """The last one it had; word of an older one is late."""
        mine = [plan for plan in scenario.workers if host in (None, plan.host)]
        self.plans = {plan.name: plan for plan in mine}
        self.epochs = dict.fromkeys(self.plans, 0)
        self.running: dict[str, Incarnation] = {}
        self.dying: set[Incarnation] = set()

    def begin(self) -> None:
        for name in self.plans:
            self._spawn(name)

    def receive(self, now_ns: int, sender: str, event: Happening, payload: object) -> None:
        match event:
            case events.ControlUp():
                if event.generation > self.newest:
                    self._state_hosts(event.generation)
            case events.ControlDown():
                if event.generation == self.joined:
                    self.joined = None
            case events.FenceAsked():
                if generation_of(sender) == self.joined:
                    self.fence(now_ns, event.worker)
            case events.Reaped():
                self._reaped(now_ns, event.worker)
            case events.Started():
                self._started(event.worker)
            case _:
                raise Violation("supervisor cannot take it", repr(event))

    def fence(self, now_ns: int, worker: Incarnation) -> None:
        """Kill the process and reap it. One that is gone already is reported again."""
        if worker in self.dying:
            return
        if self.running.get(worker_name(worker)) == worker:
            self.killed(now_ns, worker)
        else:
            self._tell(facts.WorkerLost(worker=worker))

    def killed(self, now_ns: int, worker: Incarnation) -> None:
        """Also called for a process that died by itself: its agent is the one to notice and reap."""
        if worker in self.dying or self.running.get(worker_name(worker)) != worker:
            return
        self.dying.add(worker)
        self.processes.kill(worker)
        reaped = events.Reaped(worker)
        self.processes.at(now_ns + self.scenario.reap_ns, self.name, self.name, reaped)

    def _reaped(self, now_ns: int, worker: Incarnation) -> None:
        name = worker_name(worker)
        self.dying.discard(worker)
        del self.running[name]
        self._tell(facts.WorkerLost(worker=worker))
        started = events.Started(name)
        self.processes.at(now_ns + self.scenario.backoff_ns, self.name, self.name, started)

    def _started(self, name: str) -> None:
        if name not in self.running:
            self._spawn(name)

    def _spawn(self, name: str) -> None:
        plan = self.plans[name]
        self.epochs[name] += 1
        worker = incarnation(name, self.epochs[name])
        self.running[name] = worker
        self._tell(facts.WorkerSpawned(worker=worker, host=plan.host, limit_ns=SPAWN_LIMIT_NS))
        self.processes.start(worker, plan)

    def _state_hosts(self, generation: int) -> None:
        self.joined = self.newest = generation
        for host in sorted({plan.host for plan in self.plans.values()}):
            mine = [plan for plan in self.plans.values() if plan.host == host]
            alive = [self.running[plan.name] for plan in mine if plan.name in self.running]
            self._tell(
                facts.HostStated(
                    host=host,
                    pool_pages=sum(plan.pages for plan in mine),
                    workers=tuple(alive),
                    shares=tuple((plan.name, plan.pages) for plan in mine),
                )
            )

    def _tell(self, fact: facts.Fact) -> None:
        if self.joined is not None:
            self.processes.send(self.name, CONTROL, fact)
