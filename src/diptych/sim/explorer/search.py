"""Performs on the real machines what the compiled search asks for, and names what it finds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec

from diptych.core.errors import DiptychError
from diptych.core.ids import CONTROL
from diptych.sim.door import Door
from diptych.sim.events import Violation
from diptych.sim.explorer._search import Graph
from diptych.sim.explorer.cells import Cells
from diptych.sim.explorer.configuration import Configuration
from diptych.sim.explorer.graph import QUIET, Event, Numbers
from diptych.sim.explorer.rules import check_quiet
from diptych.sim.explorer.world import POOL, START_NS, Desk, Message, Seat, World

if TYPE_CHECKING:
    from diptych.sim.explorer._search import Outcome

BROKEN = (Violation, DiptychError, AssertionError, LookupError, ValueError, TypeError)
WARM_UP_MAX = 10_000
UNLIMITED = 1 << 62


class Step(msgspec.Struct, frozen=True):
    """One event of a path."""

    event: Event
    message: Message | None
    sent: tuple[tuple[str, str, Message], ...]
    """What was said then."""


class Prospect(msgspec.Struct, frozen=True):
    """What can happen to a part while it is as it is."""

    moves: tuple[Event, ...] = ()
    """By itself."""
    faults: tuple[Event, ...] = ()
    waits: bool = False
    """It has a deadline."""
    attempts: int = 0
    """Attempts that it has made, if it is control."""


class Counterexample(msgspec.Struct, frozen=True):
    reason: str
    steps: tuple[Step, ...]


class Result(msgspec.Struct, kw_only=True):
    configuration: str
    states: int = 0
    transitions: int = 0
    depth: int = 0
    cpu_seconds: float = 0.0
    quiet: int = 0
    """States in which nothing can come any more."""
    cut: dict[str, int] = {}
    """Successors beyond the budget of that name, not explored."""
    cells: int = 0
    effects: int = 0
    """Different events on different parts: so often the machines themselves were run."""
    complete: bool = False
    """Every state within the budgets was checked."""
    counterexample: Counterexample | None = None


class Explorer:
    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.world = World(configuration)
        self.cells = Cells(self.world)
        self.graph = Graph()
        self.numbers = Numbers(self.graph, self.cells)
        self.prospects: dict[int, Prospect] = {}
        self._checked: dict[tuple[int, ...], str] = {}
        self.start = self._warm_up()
        self.numbers.allow(configuration.budgets, configuration.history)

    # ---- the beginning ------------------------------------------------------------------------------

    def _warm_up(self) -> list[int]:
        """The fleet joins, and requests of the past run to their end, in one order."""
        self.world.forget(START_NS)
        self.world.begin()
        parts, _, sent, _ = self._frozen()
        by_slot = dict(parts)
        state = self.graph.begin([by_slot.get(slot, 0) for slot in range(max(by_slot) + 1)], sent)
        past = {f"client {number}" for number in range(self.configuration.history)}
        for _ in range(WARM_UP_MAX):
            events = [number for number, _ in self.graph.enabled(state)]
            events = [number for number in events if self._of_the_past(self.numbers.events[number], past)]
            if not events:
                return state
            state = self.graph.follow(self, state, events[0], 0)
        raise Violation("warm-up does not end", self.configuration.name)

    def _of_the_past(self, event: Event, past: set[str]) -> bool:
        match event:
            case ("arrive", str(sender), _):
                return sender in past or not sender.startswith("client")
            case ("run", _, _):
                return True
            case _:
                return False

    # ---- what the search asks -----------------------------------------------------------------------

    def _message(self, number: int) -> Message | None:
        return None if number < 0 else self.numbers.messages[number]

    def touched(self, event: int, message: int) -> list[int]:
        names = self.numbers.touched(self.numbers.events[event], self._message(message))
        return [self.numbers.slot(name) for name in names]

    def perform(self, event: int, message: int, slots: list[int], cells: list[int]) -> list[Outcome] | str:
        """Once for each way through the machines' choices."""
        here = {self.numbers.names[s]: cell for s, cell in zip(slots, cells, strict=True) if cell}
        choices = self.world.choices
        outcomes: list[Outcome] = []
        script: list[int] | None = []
        try:
            while script is not None:
                self._thaw(here)
                choices.begin(script)
                self.world.perform(self.numbers.events[event], self._message(message))
                script = choices.following()
                outcome = self._frozen()
                if outcome not in outcomes:
                    outcomes.append(outcome)
        except BROKEN as error:
            return f"{type(error).__name__}: {error}"
        return outcomes

    def quiet(self, cells: list[int]) -> str:
        key = tuple(cells)
        if key not in self._checked:
            self._thaw({self.numbers.names[slot]: cell for slot, cell in enumerate(cells) if cell})
            try:
                check_quiet(self.world)
                self._checked[key] = ""
            except BROKEN as error:
                self._checked[key] = f"{type(error).__name__}: {error}"
        return self._checked[key]

    def _thaw(self, cells: dict[str, int]) -> None:
        """Makes the parts; the time is control's own, for nobody else acts by it."""
        world = self.world
        world.forget(self.cells.cells[cells[CONTROL]].now_ns if CONTROL in cells else START_NS)
        pool = self.cells.thaw(cells[POOL], None) if POOL in cells else None
        for name, cell in cells.items():
            world.parts[name] = pool if name == POOL else self.cells.thaw(cell, pool)

    def _frozen(self) -> Outcome:
        world, numbers = self.world, self.numbers
        parts = []
        for name, part in world.parts.items():
            if name in world.died:
                continue
            cell, fresh = self.cells.freeze(self.graph, name, part, world.now_ns)
            if fresh:
                self._tell_prospect(cell, name, part)
            parts.append((numbers.slot(name), cell))
        sent = [(numbers.channel(s, to), numbers.message(m, world.now_ns)) for s, to, m in world.sent]
        return parts, [numbers.slot(name) for name in world.died], sent, world.hung_up

    def _tell_prospect(self, cell: int, name: str, part: object) -> None:
        numbers, known = self.numbers, self._prospect(name, part)
        self.prospects[cell] = known
        moves = [numbers.event(event) for event in known.moves]
        faults = [numbers.fault(event) for event in known.faults]
        self.graph.set_prospects(cell, moves, faults, known.waits, known.attempts)

    def _prospect(self, name: str, part: object) -> Prospect:
        match part:
            case Seat():
                return _prospect_of_worker(name, part)
            case Door():
                here = (c for c in part.clients.values() if not c.gone and not c.complete())
                return Prospect(faults=tuple(("leave", client.plan.request) for client in here))
            case Desk():
                attempts = part.control.requests.dispatch._attempts % (1 << 20)
                waits = self.world.deadline_ns() is not None
                return Prospect((), (("restart",), ("stall",)), waits, attempts)
            case _:
                return Prospect()

    # ---- the search ---------------------------------------------------------------------------------

    def run(
        self,
        states_max: int | None = None,
        seconds_max: float | None = None,
        progress: Callable[[int, int, int], None] = lambda states, depth, waiting: None,
    ) -> Result:
        """Explores until every state was seen, a rule is broken or a limit is met. A second time the machines
        are not run any more: all that they can do is known."""
        begun, cpu_begun = time.monotonic(), time.process_time()

        def tick(states: int, depth: int, waiting: int) -> bool:
            progress(states, depth, waiting)
            return seconds_max is None or time.monotonic() - begun < seconds_max

        found = self.graph.explore(self, self.start, UNLIMITED if states_max is None else states_max, tick)
        cut = {"messages": found.beyond_messages, "attempts": found.beyond_attempts}
        return Result(
            configuration=self.configuration.name,
            states=found.states,
            transitions=found.transitions,
            depth=found.depth,
            cpu_seconds=time.process_time() - cpu_begun,
            quiet=found.quiet,
            cut={name: count for name, count in cut.items() if count},
            cells=len(self.cells.cells) - 1,
            effects=self.graph.effects,
            complete=found.complete,
            counterexample=self._counterexample(found.broken, found.path) if found.broken else None,
        )

    def _counterexample(self, reason: str, path: list[tuple[int, int]]) -> Counterexample:
        steps = []
        for event, message, sent in self.graph.retrace(self, self.start, path):
            said = tuple((*self.numbers.channels[c], self.numbers.messages[m]) for c, m in sent)
            steps.append(Step(self.numbers.events[event], self._message(message), said))
        if len(steps) < len(path):
            steps.append(Step(QUIET, None, ()))
        return Counterexample(reason, tuple(steps))


def _prospect_of_worker(name: str, seat: Seat) -> Prospect:
    run = seat.loop.run
    moves: tuple[Event, ...] = ()
    faults: list[Event] = [("die", name, 0), ("suspect", name)]
    if seat.worker.ledger.tree.idle_pages:
        faults.append(("evict", name))
    if run is not None:
        faults.append(("die", name, 1))
        first = 1 if seat.ending else run.steps
        moves = tuple(("run", name, steps) for steps in range(first, run.steps + 1))
    return Prospect(moves, tuple(faults))
