"""Where arrivals and faults of a scenario enter the simulated world, each at its planned moment."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diptych.core import facts
from diptych.core.ids import CONTROL, Incarnation, worker_name
from diptych.sim import events
from diptych.sim.driver import Happening, Seat
from diptych.sim.events import Violation
from diptych.sim.scenario import Fault, RequestPlan
from diptych.sim.supervisor import SUPERVISOR

if TYPE_CHECKING:
    from diptych.sim.world import World

INJECTOR = "injector"
CLIENTS = "clients"


class Injector:
    def __init__(self, world: World) -> None:
        self.world = world
        self.waiting = 0
        """Arrivals, faults and returns that are still to come."""

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
                self._strike(now_ns, self.world.scenario.faults[event.number])
            case events.ControlUp():
                if self.world.control is None:
                    self.world.start_control()
            case events.DoorUp():
                if event.door not in self.world.doors:
                    self.world.open_door(event.door)
            case _:
                raise Violation("injector cannot take it", repr(event))

    def _strike(self, now_ns: int, fault: Fault) -> None:
        match fault.kind:
            case "kill" if fault.target == CONTROL:
                self._kill_control(now_ns, fault.duration_ns)
            case "kill":
                for worker in self._incarnations(fault.target):
                    self.world.supervisor.killed(now_ns, worker)
            case "pause":
                self._pause(now_ns, fault)
            case "lose":
                self._lose_door(fault.target)
                self._later(now_ns + fault.duration_ns, events.DoorUp(fault.target))
            case "leave":
                for door in self.world.doors.values():
                    door.receive(now_ns, CLIENTS, events.Departure(fault.target), None)
            case _:
                raise Violation("unknown fault", repr(fault))

    def _incarnations(self, name: str) -> list[Incarnation]:
        return [w for w, seat in self.world.workers.items() if seat.alive and worker_name(w) == name]

    def _pause(self, now_ns: int, fault: Fault) -> None:
        seats: list[Seat] = [self.world.workers[worker] for worker in self._incarnations(fault.target)]
        if fault.target == CONTROL and self.world.control is not None:
            seats = [self.world.control]
        for seat in seats:
            if seat.paused_ns is None:
                seat.pause(now_ns)
                receiver = f"loop {seat.name}" if seat.name in self.world.loops else seat.name
                resumed = events.Resumed(fault.duration_ns)
                self.world.at(now_ns + fault.duration_ns, seat.name, receiver, resumed)

    def _kill_control(self, now_ns: int, absent_ns: int) -> None:
        world = self.world
        if world.control is None:
            return
        dead, world.control = world.control, None
        dead.alive = False
        for name in (SUPERVISOR, *world.doors):
            arrival_ns = world.links.arrival_ns(now_ns, dead.name, name)
            world.at(arrival_ns, dead.name, name, events.ControlDown(world.generation))
        for worker, generation in world.dialed.items():
            if generation == world.generation:
                arrival_ns = world.links.arrival_ns(now_ns, dead.name, worker)
                world.at(arrival_ns, dead.name, worker, facts.ControlLost())
        self._later(now_ns + absent_ns, events.ControlUp(world.generation))

    def _lose_door(self, name: str) -> None:
        world = self.world
        if world.doors.pop(name, None) is not None:
            del world.driver.parties[name]
            world.send(name, CONTROL, facts.DoorLost(door=name))
