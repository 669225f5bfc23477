"""Where arrivals and faults of a scenario enter the simulated world, each at its planned moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diptych.core import facts
from diptych.core.ids import CONTROL, Incarnation, worker_name
from diptych.sim import events
from diptych.sim.driver import Happening
from diptych.sim.events import Violation
from diptych.sim.network.names import agent_of
from diptych.sim.network.weather import LINK_KINDS
from diptych.sim.scenario import Fault, RequestPlan

if TYPE_CHECKING:
    from diptych.sim.world import World

INJECTOR = "injector"
CLIENTS = "clients"
FLOOD_PROMPT_SHARE = 3
"""A request of a flood has a prompt of so much of the smallest pool, as a divisor."""


class Injector:
    def __init__(self, world: World) -> None:
        self.world = world
        self.waiting = 0
        """Arrivals, faults and returns that are still to come."""
        self.stood_still: dict[Incarnation, list[tuple[int, int]]] = {}
        """When each worker's driver did, without control standing still with it."""
        self.frozen: dict[Incarnation, list[tuple[int, int]]] = {}
        """When both did."""

    def begin(self) -> None:
        for plan in self.world.scenario.requests:
            self.plan(plan.at_ns, plan, ())
        for number, fault in enumerate(self.world.scenario.faults):
            self._later(fault.at_ns, events.Injected(number))

    def plan(self, at_ns: int, plan: RequestPlan, history: tuple[int, ...]) -> None:
        self._later(at_ns, events.Arrival(plan, history))

    def _later(self, at_ns: int, event: events.Event) -> None:
        self.waiting += 1
        self.world.at(at_ns, INJECTOR, INJECTOR, event)

    def receive(self, now_ns: int, sender: str, event: Happening, payload: object) -> None:
        self.waiting -= 1
        match event:
            case events.Arrival():
                door = self.world.doors.get(event.plan.door)
                if door is not None:
                    door.receive(now_ns, CLIENTS, event, None)
            case events.Injected():
                fault = self.world.scenario.faults[event.number]
                self.world.tally.inject(fault)
                self.world.tally.touch(fault, self._strike(now_ns, fault))
            case events.ControlUp():
                if self.world.control is None:
                    self.world.start_control()
            case events.DoorUp():
                if event.door not in self.world.doors:
                    self.world.open_door(event.door)
            case _:
                raise Violation("injector cannot take it", repr(event))

    def _strike(self, now_ns: int, fault: Fault) -> int:
        """How many it met that it could harm; what befalls a link counts its packets itself."""
        match fault.kind:
            case "kill" if fault.target == CONTROL:
                return self._kill_control(now_ns, fault.duration_ns)
            case "kill":
                victims = self._incarnations(fault.target)
                for worker in victims:
                    self.world.agent(worker).killed(now_ns, worker)
                return len(victims)
            case "pause" | "stall":
                return self._pause(now_ns, fault)
            case "freeze":
                return self._freeze(now_ns, fault)
            case "unplug":
                return sum(self._unplug(now_ns, worker) for worker in self._incarnations(fault.target))
            case "lose":
                self._later(now_ns + fault.duration_ns, events.DoorUp(fault.target))
                return self._lose_door(now_ns, fault.target)
            case "leave":
                return sum(door.depart(fault.target) for door in self.world.doors.values())
            case "dawdle":
                doors = self.world.doors.values()
                return sum(door.dawdle(fault.target, fault.delay_ns) for door in doors)
            case "flood":
                return self._flood(now_ns, fault)
            case kind if kind in LINK_KINDS:
                self.world.network.weather.begin(fault)
                return 0
            case _:
                raise Violation("unknown fault", repr(fault))

    def _incarnations(self, name: str) -> list[Incarnation]:
        return [w for w, seat in self.world.workers.items() if seat.alive and worker_name(w) == name]

    def _pause(self, now_ns: int, fault: Fault) -> int:
        if fault.target == CONTROL:
            return self._pause_control(now_ns, fault.duration_ns)
        return sum(self._pause_alone(now_ns, worker, fault) for worker in self._incarnations(fault.target))

    def _pause_control(self, now_ns: int, duration_ns: int) -> int:
        seat = self.world.control
        if seat is None:
            return 0
        seat.pause(now_ns, now_ns + duration_ns)
        self.world.at(now_ns + duration_ns, seat.name, seat.name, events.Resumed())
        return 1

    def _pause_alone(self, now_ns: int, worker: Incarnation, fault: Fault) -> int:
        span = (now_ns, now_ns + fault.duration_ns)
        self.stood_still.setdefault(worker, []).append(span)
        return self._pause_worker(now_ns, worker, fault.duration_ns, whole=fault.kind != "stall")

    def _pause_worker(self, now_ns: int, worker: Incarnation, duration_ns: int, *, whole: bool) -> int:
        """With `whole` the process, otherwise its driver: then the step loop ends the run in hand."""
        seat = self.world.workers[worker]
        seat.pause(now_ns, now_ns + duration_ns)
        receiver = worker
        if whole:
            receiver = f"loop {worker}"
            self.world.loops[worker].pause_process(now_ns, now_ns + duration_ns)
        self.world.at(now_ns + duration_ns, worker, receiver, events.Resumed())
        return 1

    def _freeze(self, now_ns: int, fault: Fault) -> int:
        world, hit = self.world, 0
        together = world.scenario.control_host == fault.target
        for worker, seat in world.workers.items():
            if seat.alive and world.plans[worker_name(worker)].host == fault.target:
                if together:
                    span = (now_ns, now_ns + fault.duration_ns)
                    self.frozen.setdefault(worker, []).append(span)
                    hit += self._pause_worker(now_ns, worker, fault.duration_ns, whole=True)
                else:
                    hit += self._pause_alone(now_ns, worker, fault)
        if together:
            hit += self._pause_control(now_ns, fault.duration_ns)
        return hit

    def _unplug(self, now_ns: int, worker: Incarnation) -> int:
        """Both ends live and find the socket closed."""
        world = self.world
        if world.control is None or world.connected.get(worker) != world.generation:
            return 0
        network, control = world.network, world.control.name
        network.send(now_ns, worker, control, facts.ConnectionLost(peer=worker))
        network.send(now_ns, control, worker, events.ControlDown(world.generation))
        return 1

    def _kill_control(self, now_ns: int, absent_ns: int) -> int:
        world = self.world
        if world.control is None:
            return 0
        dead, world.control = world.control, None
        dead.alive = False
        dialed = [worker for worker, generation in world.dialed.items() if generation == world.generation]
        down = events.ControlDown(world.generation)
        world.network.closed(
            now_ns, dead.name, dict.fromkeys((*map(agent_of, world.agents), *world.doors, *dialed), down)
        )
        self._later(now_ns + absent_ns, events.ControlUp(world.generation))
        world.tally.note("control restart with a new epoch", injected=1, effective=1)
        return 1

    def _lose_door(self, now_ns: int, name: str) -> int:
        world = self.world
        door = world.doors.pop(name, None)
        if door is None:
            return 0
        del world.driver.parties[name]
        notices: dict[str, Happening] = {}
        if world.control is not None and door.joined == world.generation:
            notices[world.control.name] = facts.DoorLost(door=name)
        world.network.closed(now_ns, name, notices)
        return 1

    def _flood(self, now_ns: int, fault: Fault) -> int:
        """So many requests at once that no pool has room for all."""
        scenario = self.world.scenario
        pages = min(plan.pages for plan in scenario.workers if fault.target in plan.models)
        tokens = max(2, pages * scenario.page_tokens // FLOOD_PROMPT_SHARE)
        for number in range(fault.count):
            name = f"flood {fault.at_ns} {number}"
            plan = RequestPlan(
                request=name,
                at_ns=now_ns,
                prompt=((name, tokens),),
                lengths=(tokens // 2,),
                tokens_max=tokens // 2,
                door=scenario.doors[number % len(scenario.doors)],
                model=fault.target,
            )
            self.plan(now_ns, plan, ())
        return fault.count
