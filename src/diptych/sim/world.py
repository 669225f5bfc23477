"""The simulated world: it performs the actions of the real machines and tells them what came of it."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec

from diptych.core import actions, facts
from diptych.core.config import WorkerConfig
from diptych.core.control import ControlPlane
from diptych.core.ids import CONTROL, Incarnation, RequestId, worker_name
from diptych.core.worker import Worker
from diptych.sim import events
from diptych.sim.door import Client, Door
from diptych.sim.driver import Driver, Happening, Port, Seat, plain
from diptych.sim.events import Payload, Violation
from diptych.sim.faults.injector import INJECTOR, Injector
from diptych.sim.faults.tally import Tally
from diptych.sim.network.names import agent_of, generation_of, is_control
from diptych.sim.network.network import Network
from diptych.sim.network.transfers import TRANSFERS, Transfers
from diptych.sim.pool import Pool
from diptych.sim.scenario import Scenario, WorkerPlan
from diptych.sim.step_loop import Run, StepLoop
from diptych.sim.supervisor import Supervisor

Observer = Callable[[int, Seat, str, facts.Fact, tuple[actions.Action, ...]], None]
"""Called when a machine has stepped, before what it asks is done."""
Auditor = Callable[[int, Seat], None]
"""Called when it is done."""


class World:
    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.driver = Driver()
        self.tally = Tally(scenario.control)
        self.network = Network(scenario, self.driver, self.tally)
        self.plans = {plan.name: plan for plan in scenario.workers}
        self.pools = {host: self._make_pool(host) for host in sorted({p.host for p in scenario.workers})}
        self.workers: dict[Incarnation, Seat] = {}
        self.loops: dict[Incarnation, StepLoop] = {}
        self.generation = 0
        self.control: Seat | None = None
        self.connected: dict[Incarnation, int] = {}
        """Which generation of control each worker has a socket to, as far as it knows."""
        self.dialed: dict[Incarnation, int] = {}
        """The same from the moment they dial: news of it may still be under way to them."""
        self.payloads: dict[RequestId, Payload] = {}
        self.doors: dict[str, Door] = {}
        self.done: list[Client] = []
        self.observers: list[Observer] = []
        self.transfers = Transfers(
            scenario.transfers,
            scenario.seed,
            self.driver,
            self.workers,
            self.pool_of,
            self.network,
            self.tally,
        )
        self.driver.parties[TRANSFERS] = self.transfers
        self.auditors: list[Auditor] = []
        self.words = 0
        """Facts that machines were told, beats and passed deadlines left out."""
        self.agents = {host: Supervisor(scenario, self, agent_of(host), host) for host in self.pools}
        self.driver.parties.update({agent_of(host): agent for host, agent in self.agents.items()})
        self.injector = Injector(self)
        self.driver.parties[INJECTOR] = self.injector
        self._begin()

    def _make_pool(self, host: str) -> Pool:
        pages = sum(plan.pages for plan in self.scenario.workers if plan.host == host)
        return Pool(host, pages, self.scenario.page_tokens)

    def _begin(self) -> None:
        for name in self.scenario.doors:
            self.open_door(name)
        self.start_control()
        for agent in self.agents.values():
            agent.begin()
        self.injector.begin()

    def idle(self) -> bool:
        """Nothing is planned any more and every client has its end."""
        return not self.injector.waiting and not any(door.clients for door in self.doors.values())

    def pool_of(self, worker: Incarnation) -> Pool:
        return self.pools[self.plans[worker_name(worker)].host]

    # ---- messages -----------------------------------------------------------------------------------

    def at(self, at_ns: int, sender: str, receiver: str, event: Happening) -> None:
        self.driver.at(at_ns, sender, receiver, event)

    def last_arrival_ns(self, sender: str, receiver: str) -> int:
        return self.network.last_arrival_ns(sender, receiver)

    def agent(self, worker: Incarnation) -> Supervisor:
        return self.agents[self.plans[worker_name(worker)].host]

    def send(self, sender: str, to: str, fact: facts.Fact, payload: object = None) -> None:
        if sender in self.workers:
            self.pool_of(sender).sent(sender, to, fact)
        if to == CONTROL:
            if self.control is None or self._generation(sender) != self.generation:
                return
            receiver = self.control.name
        else:
            receiver = to
            if is_control(sender):
                payload = self._attach(fact)
        self.network.send(self.driver.now_ns, sender, receiver, fact, payload)

    def _generation(self, sender: str) -> int | None:
        """Of the control that the sender has a socket to."""
        if sender in self.workers:
            return self.connected.get(sender)
        party = self.driver.parties[sender]
        assert isinstance(party, Door | Supervisor)
        return party.joined

    def _attach(self, fact: facts.Fact) -> Payload | None:
        match fact:
            case facts.TargetRequested() | facts.PrefillRequested():
                return self.payloads[fact.request]
            case facts.RequestEnded() | facts.RequestRejected():
                self.payloads.pop(fact.request, None)
            case _:
                pass
        return None

    def _deliver(self, now_ns: int, to: str, sender: str, fact: facts.Fact, payload: object) -> None:
        """What ports do with a fact before their machine steps."""
        if is_control(to):
            if isinstance(fact, facts.DoorJoined):
                assert isinstance(payload, dict)
                self.payloads.update(payload)
            elif isinstance(payload, Payload):
                self._keep(fact, payload)
            return
        self.pool_of(to).delivered(sender, to, fact)
        assert payload is None or isinstance(payload, Payload)
        self.loops[to].told(fact, payload)

    def _keep(self, fact: facts.Fact, payload: Payload) -> None:
        """A door's word of a request that has ended meanwhile is late."""
        match fact:
            case facts.RequestArrived():
                self.payloads[fact.request] = payload
            case facts.StreamDrained():
                if fact.request in self.payloads:
                    self.payloads[fact.request] = payload
            case _:
                raise Violation("payload with the wrong fact", repr(fact))

    def _worker_port(self, worker: Incarnation) -> Port:
        """What a worker's sockets make of news about control: a new socket takes the place of the old."""

        newest = 0

        def port(sender: str, event: Happening) -> tuple[facts.Fact, ...]:
            nonlocal newest
            held = self.connected.get(worker)
            match event:
                case events.ControlUp() if event.generation <= newest:
                    return ()
                case events.ControlUp():
                    self.connected[worker] = newest = event.generation
                    joined = facts.ControlJoined(epoch=event.generation)
                    return (joined,) if held is None else (facts.ControlLost(), joined)
                case events.ControlDown():
                    if held != event.generation:
                        return ()
                    del self.connected[worker]
                    return (facts.ControlLost(),)
                case facts.Fact():
                    late = is_control(sender) and generation_of(sender) != held
                    return () if late else (event,)
                case _:
                    raise Violation("machine cannot take it", f"{worker} {event}")

        return port

    # ---- actions ------------------------------------------------------------------------------------

    def perform(
        self, now_ns: int, seat: Seat, sender: str, fact: facts.Fact, asked: tuple[actions.Action, ...]
    ) -> None:
        self.words += not isinstance(fact, facts.WorkerBeat | facts.DeadlinePassed)
        for observe in self.observers:
            observe(now_ns, seat, sender, fact, asked)
        for action in asked:
            match action:
                case actions.Send():
                    self.send(seat.name, action.to, action.fact)
                case actions.RunSteps():
                    self.plan_border(seat.name, self.loops[seat.name].start(now_ns, action))
                case actions.EndRun():
                    self.plan_border(seat.name, self.loops[seat.name].end_early(now_ns, action.run))
                case actions.DropRequest():
                    self.loops[seat.name].drop(action.request, action.attempt)
                case actions.PauseStream():
                    self.loops[seat.name].pause(action.request, action.attempt)
                case actions.FenceWorker():
                    agent = self.agent(action.worker).name
                    self.network.send(now_ns, seat.name, agent, events.FenceAsked(action.worker))
                case actions.OpenClaim() | actions.CloseClaim() | actions.PullPages() | actions.CancelPull():
                    self.transfers.perform(seat.name, action)
                case _:
                    raise Violation("world cannot perform it", repr(action))
        for audit in self.auditors:
            audit(now_ns, seat)

    def plan_border(self, worker: Incarnation, run: Run | None) -> None:
        if run is not None:
            border = events.RunBorder(run.action.run, run.steps)
            self.at(run.end_ns(), worker, f"loop {worker}", border)

    # ---- processes ----------------------------------------------------------------------------------

    def start(self, worker: Incarnation, plan: WorkerPlan) -> None:
        pool = self.pools[plan.host]
        pool.alive.add(worker)
        machine = Worker(worker_config(self.scenario, worker, plan))
        seat = self._seat(worker, machine, self._worker_port(worker))
        self.workers[worker] = seat
        self.loops[worker] = StepLoop(worker, plan, pool, lambda frame: self._emit(worker, frame))
        self.driver.parties[f"loop {worker}"] = LoopSeat(self, seat)
        self.at(self.driver.now_ns + plan.load_ns, worker, f"loop {worker}", events.Started(worker))

    def connect(self, worker: Incarnation) -> None:
        if self.control is not None and self.workers[worker].alive:
            self.dialed[worker] = self.generation
            self._dialed(worker)

    def _dialed(self, name: str) -> None:
        assert self.control is not None
        up = events.ControlUp(self.generation)
        self.network.send(self.driver.now_ns, self.control.name, name, up)

    def kill(self, worker: Incarnation) -> bool:
        seat = self.workers[worker]
        if not seat.alive:
            return False
        seat.alive = False
        loop = self.loops[worker]
        loop.died(self.driver.now_ns if loop.paused_ns is None else loop.paused_ns)
        self.transfers.died(worker)
        self.pool_of(worker).died(worker)
        notices: dict[str, Happening] = dict.fromkeys(self.doors, events.SocketClosed(worker))
        if self.control is not None and self.dialed.get(worker) == self.generation:
            notices[self.control.name] = facts.ConnectionLost(peer=worker)
        self.network.closed(self.driver.now_ns, worker, notices)
        return True

    def _emit(self, worker: Incarnation, frame: events.Frame | events.PauseFrame) -> None:
        for door in self.doors.values():
            if frame.request in door.clients:
                self.network.send(self.driver.now_ns, worker, door.name, frame)

    def _seat(self, name: str, machine: Worker | ControlPlane, port: Port = plain) -> Seat:
        def before(now_ns: int, sender: str, fact: facts.Fact, payload: object) -> None:
            self._deliver(now_ns, name, sender, fact, payload)

        clock = random.Random(f"clock {self.scenario.seed} {name}")
        seat = Seat(
            name,
            machine,
            self.driver,
            before,
            self.perform,
            port=port,
            clock_ahead_ns=clock.randrange(self.scenario.clocks_apart_ns + 1),
            stall_ns=self.scenario.stall_ns,
        )
        self.driver.parties[name] = seat
        return seat

    def start_control(self) -> None:
        self.generation += 1
        self.payloads = {}
        config = msgspec.structs.replace(self.scenario.control, epoch=self.generation)
        self.control = self._seat(f"{CONTROL}#{self.generation}", ControlPlane(config))
        for name in (*map(agent_of, self.agents), *self.doors):
            self._dialed(name)
        for worker, loop in self.loops.items():
            if self.workers[worker].alive and loop.loaded:
                self.connect(worker)

    def open_door(self, name: str) -> None:
        door = Door(name, self.scenario.page_tokens, self, self._client_closed)
        self.doors[name] = door
        self.driver.parties[name] = door
        if self.control is not None:
            self._dialed(name)

    def _client_closed(self, client: Client) -> None:
        self.done.append(client)
        follow = client.plan.follow
        if follow is not None and client.complete() and not client.gone:
            history = client.payload.prompt + tuple(client.tokens[0])
            self.injector.plan(self.driver.now_ns + follow.at_ns, follow, history)


class LoopSeat:
    """The inbox of a worker's step loop: borders of its runs, and the process's own start and pauses."""

    def __init__(self, world: World, seat: Seat) -> None:
        self.world = world
        self.seat = seat

    def receive(self, now_ns: int, sender: str, event: Happening, payload: object) -> None:
        seat = self.seat
        loop = self.world.loops[seat.name]
        if not seat.alive:
            return
        match event:
            case events.Started():
                loop.loaded = True
                self.world.connect(seat.name)
            case events.Resumed():
                moved = loop.stood_still(now_ns)
                seat.receive(now_ns, seat.name, event, None)
                if moved is not None and moved is loop.run:
                    self.world.plan_border(seat.name, moved)
            case events.RunBorder() if loop.paused_ns is None:
                ran = loop.finish(now_ns, event.run, event.steps)
                if ran is not None:
                    seat.receive(now_ns, f"loop {seat.name}", ran, None)
            case _:
                pass


def worker_config(scenario: Scenario, worker: Incarnation, plan: WorkerPlan) -> WorkerConfig:
    return WorkerConfig(
        worker=worker,
        host=plan.host,
        role=plan.role,
        engine="scripted",
        models=plan.models,
        numerics=plan.numerics,
        formats=plan.numerics,
        context_tokens_max=plan.context_tokens_max,
        page_tokens=scenario.page_tokens,
        quantum_tokens=plan.quantum_tokens,
        chunk_tokens=plan.chunk_tokens,
        mixed_chunk_tokens=plan.mixed_chunk_tokens,
        running_max=plan.running_max,
        samples=plan.samples,
        prefill_ns_per_token=plan.prefill_ns_per_token,
        decode_ns_per_step=plan.decode_ns_per_step,
        beat_ns=scenario.beat_ns,
        transports=plan.transports,
        claim_lease_ns=scenario.claim_lease_ns,
    )
