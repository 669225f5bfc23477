"""The explorer's world: one event at a time, performed on real machines, doors, step loops and agents.

What is between two parties is a list: a socket keeps what one tells the other in order, and neither
doubles nor loses it while both live, so the head of any list can be the next to arrive and nothing else.
The world holds the parts of one state while an event is performed, and forgets them afterwards.
"""

from __future__ import annotations

from functools import partial
from typing import Any, cast

import msgspec

from diptych.core import actions, facts
from diptych.core.config import WorkerConfig
from diptych.core.control import ControlPlane
from diptych.core.control.router import Router
from diptych.core.ids import CONTROL, Incarnation, RequestId, incarnation, worker_name
from diptych.core.worker import Worker
from diptych.sim import events
from diptych.sim.door import Client, Door
from diptych.sim.driver import Happening
from diptych.sim.events import Payload, Violation
from diptych.sim.explorer.choices import Choices, FreeChunks
from diptych.sim.explorer.configuration import NEVER_NS, Configuration
from diptych.sim.explorer.rules import check_control, check_worker
from diptych.sim.pool import Pool
from diptych.sim.scenario import WorkerPlan
from diptych.sim.step_loop import StepLoop
from diptych.sim.supervisor import SUPERVISOR, Supervisor
from diptych.sim.world import worker_config

DOOR = "door-0"
POOL = "pool"
START_NS = 1_000_000_000
STALL_NS = 1 << 50


class Message(msgspec.Struct, frozen=True):
    what: Happening | actions.FenceWorker
    payload: object = None
    echo: bool = False
    """It was delivered once already."""


class Seat:
    """A worker and its step loop: one process."""

    def __init__(self, config: WorkerConfig, loop: StepLoop) -> None:
        self.worker = Worker(config)
        self.loop = loop
        self.ending = False
        """The run in hand was told to end at the next border."""


class Desk:
    """Control and its port."""

    def __init__(self, control: ControlPlane) -> None:
        self.control = control
        self.payloads: dict[RequestId, Payload] = {}


class World:
    """Implements what doors and agents ask of their surroundings."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.scenario = configuration.scenario
        self.plans = {plan.name: plan for plan in self.scenario.workers}
        self.now_ns = START_NS
        self.parts: dict[str, object] = {}
        """Parts at hand, by name."""
        self.sent: list[tuple[str, str, Message]] = []
        """What the event made the parties say, in order."""
        self.died: list[Incarnation] = []
        self.hung_up = False
        """Control died, with all that was on the way to it."""
        self.choices = Choices()
        budgets = configuration.budgets
        lives = 2 + budgets.deaths + budgets.suspicions + budgets.expiries + budgets.stalls
        self._everybody = [incarnation(name, life + 1) for life in range(lives) for name in self.plans]
        """All incarnations that there can be, and more."""
        self._asked_after = ""

    def forget(self, now_ns: int) -> None:
        """Before an event: nothing is at hand, nothing was said."""
        self.now_ns = now_ns
        self.parts, self.sent, self.died, self.hung_up = {}, [], [], False

    # ---- parts --------------------------------------------------------------------------------------

    @property
    def pool(self) -> Pool:
        pool = self.parts[POOL]
        assert isinstance(pool, Pool)
        return pool

    @property
    def desk(self) -> Desk:
        desk = self.parts[CONTROL]
        assert isinstance(desk, Desk)
        return desk

    def seat(self, worker: Incarnation) -> Seat:
        seat = self.parts[worker]
        assert isinstance(seat, Seat)
        return seat

    def begin(self) -> None:
        """The parts of a fleet whose processes have just been started."""
        pages = sum(plan.pages for plan in self.scenario.workers)
        self.parts[POOL] = Pool(self.scenario.workers[0].host, pages, self.scenario.page_tokens)
        self.parts[CONTROL] = self._new_control(1)
        self.parts[DOOR] = Door(DOOR, self.scenario.page_tokens, self, self.client_closed)
        agent = Supervisor(self.scenario, self)
        self.parts[SUPERVISOR] = agent
        self.push(CONTROL, SUPERVISOR, events.ControlUp(1))
        self.push(CONTROL, DOOR, events.ControlUp(1))
        agent.begin()
        for number, plan in enumerate(self.scenario.requests):
            self.push(f"client {number}", DOOR, events.Arrival(plan))

    def _new_control(self, epoch: int) -> Desk:
        control = ControlPlane(msgspec.structs.replace(self.scenario.control, epoch=epoch))
        if self.configuration.choices:
            vars(control.requests.dispatch.router).update(route=self.route, replan=self.replan)
        return Desk(control)

    def client_closed(self, client: Client) -> None:
        follow = client.plan.follow
        if follow is not None and client.complete() and not client.gone:
            history = client.payload.prompt + tuple(client.tokens[0])
            self.push(f"client of {follow.request}", DOOR, events.Arrival(follow, history))

    # ---- what parties ask for -----------------------------------------------------------------------

    def push(
        self, sender: str, to: str, what: Happening | actions.FenceWorker, payload: object = None
    ) -> None:
        self.sent.append((sender, to, Message(what, payload)))

    def at(self, at_ns: int, sender: str, receiver: str, event: Happening) -> None:
        """A door's drain comes behind all that the worker sent it; an agent's own steps come some time."""
        if isinstance(event, events.Started) and not self.configuration.restart:
            return
        if isinstance(event, events.DrainRead):
            sender = self._asked_after
        self.push(sender, receiver, event)

    def last_arrival_ns(self, sender: str, receiver: str) -> int:
        self._asked_after = sender
        return 0

    def send(self, sender: str, to: str, fact: facts.Fact, payload: object = None) -> None:
        self.push(sender, to, fact, payload)

    def emit(self, worker: Incarnation, frame: events.Frame | events.PauseFrame) -> None:
        self.push(worker, DOOR, frame)

    def start(self, worker: Incarnation, plan: WorkerPlan) -> None:
        self.pool.alive.add(worker)
        loop = StepLoop(worker, plan, self.pool, partial(self.emit, worker))
        loop.loaded = True
        self.parts[worker] = Seat(worker_config(self.scenario, worker, plan), loop)
        self.push(CONTROL, worker, facts.ControlJoined(epoch=1))

    def kill(self, worker: Incarnation) -> bool:
        """Its frames up to the last whole step are in the socket; the step in hand leaves torn pages."""
        self.seat(worker).loop.died(0)
        self._gone(worker)
        return True

    def _gone(self, worker: Incarnation) -> None:
        self.pool.died(worker)
        self.died.append(worker)
        self.push(worker, CONTROL, facts.ConnectionLost(peer=worker))

    # ---- events -------------------------------------------------------------------------------------

    def perform(self, event: tuple[str, ...] | tuple[str, str, int], message: Message | None) -> None:
        match event:
            case ("arrive" | "twice", str(sender), str(to)):
                assert message is not None
                self.deliver(sender, to, message)
            case ("run", str(worker), int(steps)):
                self.end_run(worker, steps)
            case ("die", str(worker), int(done)):
                self.die(worker, bool(done))
            case ("leave", str(request)):
                self.leave(request)
            case ("suspect", str(worker)):
                self.suspect(worker)
            case ("evict", str(worker)):
                self.evict(worker)
            case ("stall",):
                self.stall()
            case ("restart",):
                self.restart()
            case ("expire",):
                self.expire()
            case _:
                raise ValueError(f"nobody can perform {event}")

    def deliver(self, sender: str, to: str, message: Message) -> None:
        part = self.parts[to]
        what = message.what
        match part:
            case Door():
                assert not isinstance(what, actions.FenceWorker)
                if sender == CONTROL:
                    # What an earlier control said comes before word of its end.
                    sender = f"{CONTROL}#{part.joined or 1}"
                part.receive(self.now_ns, sender, what, message.payload)
            case Supervisor() if isinstance(what, actions.FenceWorker):
                part.fence(self.now_ns, what.worker)
            case Supervisor():
                assert not isinstance(what, actions.FenceWorker)
                part.receive(self.now_ns, sender, what, message.payload)
            case Desk():
                assert isinstance(what, facts.Fact)
                self._attach(part, what, message.payload)
                self.step_control(what)
            case Seat():
                assert isinstance(what, facts.Fact)
                self.pool.delivered(sender, to, what)
                payload = message.payload
                assert payload is None or isinstance(payload, Payload)
                part.loop.told(what, payload)
                self._step_worker(to, part, what)
            case _:
                raise Violation("nobody there", to)

    def _attach(self, desk: Desk, fact: facts.Fact, payload: object) -> None:
        if isinstance(payload, dict):
            desk.payloads.update(payload)
        elif isinstance(payload, Payload):
            assert isinstance(fact, facts.RequestArrived | facts.StreamDrained)
            # A door's word of a request that has ended meanwhile is late.
            if isinstance(fact, facts.RequestArrived) or fact.request in desk.payloads:
                desk.payloads[fact.request] = payload

    # ---- choices ------------------------------------------------------------------------------------

    def route(self, need: Any, *more: Any) -> Any:
        router = self.desk.control.requests.dispatch.router
        self.choices.advise_route(router, need)
        return Router.route(router, need, *more)

    def replan(self, target: Any, held_tokens: int, need: Any, *more: Any) -> Any:
        router = self.desk.control.requests.dispatch.router
        self.choices.advise_replan(router, target, held_tokens, need)
        return Router.replan(router, target, held_tokens, need, *more)

    # ---- steps --------------------------------------------------------------------------------------

    def step_control(self, fact: facts.Fact) -> None:
        desk = self.desk
        for action in desk.control.step(self.now_ns, fact):
            match action:
                case actions.Send(to, facts.TargetRequested() | facts.PrefillRequested() as ask):
                    self.push(CONTROL, to, ask, desk.payloads[ask.request])
                case actions.Send():
                    if isinstance(action.fact, facts.RequestEnded | facts.RequestRejected):
                        desk.payloads.pop(action.fact.request, None)
                    self.push(CONTROL, action.to, action.fact)
                case actions.FenceWorker():
                    self.push(CONTROL, SUPERVISOR, action)
                case _:
                    raise Violation("control cannot ask for it", repr(action))
        for request in desk.control.requests.open.values():
            # What it asked of workers' figures is asked again: they are chosen anew each time.
            request.need = None
            if hasattr(request, "supply"):
                request.supply = None
        check_control(desk.control)

    def _step_worker(self, name: Incarnation, seat: Seat, fact: facts.Fact) -> None:
        config = seat.worker.config
        if self.configuration.choices and not isinstance(fact, facts.PagesGranted):
            seat.worker.config = cast(WorkerConfig, FreeChunks(config, self.choices))
        asked = seat.worker.step(self.now_ns, fact)
        seat.worker.config = config
        for action in asked:
            match action:
                case actions.Send():
                    self.pool.sent(name, action.to, action.fact)
                    self.push(name, action.to, action.fact)
                case actions.RunSteps():
                    seat.loop.start(self.now_ns, action)
                case actions.EndRun():
                    seat.ending = seat.loop.run is not None
                case actions.DropRequest():
                    seat.loop.drop(action.request, action.attempt)
                case actions.PauseStream():
                    seat.loop.pause(action.request, action.attempt)
                case _:
                    raise Violation("a worker cannot ask for it", repr(action))
        check_worker(name, seat.worker, self.pool)

    def end_run(self, worker: Incarnation, steps: int) -> None:
        """The step loop answers; durations are as predicted, so that rates stay what they were."""
        seat = self.seat(worker)
        run = seat.loop.run
        assert run is not None
        run.steps = steps
        seat.ending = False
        ran = seat.loop.finish(run.end_ns(), run.action.run, steps)
        assert ran is not None
        self._step_worker(worker, seat, ran)

    def die(self, worker: Incarnation, done: bool) -> None:
        """The process dies of itself, before or after the steps of its run are done."""
        seat = self.seat(worker)
        agent = self.parts[SUPERVISOR]
        assert isinstance(agent, Supervisor)
        if done and seat.loop.run is not None:
            seat.loop.died(NEVER_NS)
        agent.killed(self.now_ns, worker)

    def leave(self, request: RequestId) -> None:
        door = self.parts[DOOR]
        assert isinstance(door, Door)
        door.receive(self.now_ns, "client", events.Departure(request), None)

    def suspect(self, worker: Incarnation) -> None:
        """Its lease ends, or the time in which it should have joined; nobody else's."""
        control = self.desk.control
        for name, view in control.fleet.workers.items():
            view.heard_ns = self.now_ns - (control.config.lease_ns if name == worker else 0)
        if worker in control.loading:
            control.loading[worker] = self.now_ns
        self.step_control(facts.DeadlinePassed())

    def stall(self) -> None:
        """Control stands still for longer than a lease: it hears nobody, and nobody is at fault."""
        control = self.desk.control
        self.now_ns += STALL_NS
        for view in control.fleet.workers.values():
            view.heard_ns = self.now_ns - control.config.lease_ns
        self.step_control(facts.DriverStalled(duration_ns=STALL_NS))
        self.step_control(facts.DeadlinePassed())
        fenced = [m.what for _, _, m in self.sent if isinstance(m.what, actions.FenceWorker)]
        if fenced:
            raise Violation("fenced for the silence of control", repr(fenced))

    def restart(self) -> None:
        """Control dies, and the next one comes. What it has said arrives before word of its end."""
        epoch = self.desk.control.config.epoch + 1
        self.hung_up = True
        self.parts[CONTROL] = self._new_control(epoch)
        for party in (DOOR, SUPERVISOR):
            self.push(CONTROL, party, events.ControlDown(epoch - 1))
            self.push(CONTROL, party, events.ControlUp(epoch))
        for worker in self._everybody:
            self.push(CONTROL, worker, facts.ControlLost())
            self.push(CONTROL, worker, facts.ControlJoined(epoch=epoch))

    def evict(self, worker: Incarnation) -> None:
        """Others used all the pages that were to be had, and gave them back."""
        seat = self.seat(worker)
        ledger = seat.worker.ledger
        taken = ledger.take(ledger.available())
        if taken:
            ledger.free_private(taken)
        self._step_worker(worker, seat, facts.DriverStalled(duration_ns=0))

    def deadline_ns(self) -> int | None:
        time_ns = self.desk.control.next_deadline_ns()
        return None if time_ns is None or time_ns > NEVER_NS // 8 else time_ns

    def expire(self) -> None:
        time_ns = self.deadline_ns()
        assert time_ns is not None
        self.now_ns = max(self.now_ns, time_ns)
        self.step_control(facts.DeadlinePassed())


def plan_of(world: World, worker: Incarnation) -> WorkerPlan:
    return world.plans[worker_name(worker)]
