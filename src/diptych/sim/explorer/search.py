"""Breadth first over every event of every state, each state once; the shortest path to a broken rule."""

from __future__ import annotations

import time
from collections.abc import Callable

import msgspec

from diptych.core.errors import DiptychError
from diptych.core.ids import CONTROL
from diptych.sim.door import Door
from diptych.sim.events import Violation
from diptych.sim.explorer.cells import Cells
from diptych.sim.explorer.configuration import Configuration
from diptych.sim.explorer.rules import check_quiet
from diptych.sim.explorer.state import Event, Post, Prospect, State, key_of, next_events
from diptych.sim.explorer.world import DOOR, POOL, Desk, Seat, World
from diptych.sim.supervisor import SUPERVISOR

BROKEN = (Violation, DiptychError, AssertionError, LookupError, ValueError, TypeError)
FAULTS = {"die": 0, "suspect": 1, "leave": 2}
WARM_UP_MAX = 10_000


class Counterexample(msgspec.Struct, frozen=True):
    reason: str
    events: tuple[Event, ...]


class Result(msgspec.Struct, kw_only=True):
    configuration: str
    states: int = 0
    transitions: int = 0
    depth: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    quiet: int = 0
    """States in which nothing can come any more."""
    cut: dict[str, int] = {}
    """Successors beyond the budget of that name, not explored."""
    complete: bool = False
    """The frontier was exhausted: every state within the budgets was checked."""
    counterexample: Counterexample | None = None


class Effect(msgspec.Struct, frozen=True):
    """What an event did to the parts it touched."""

    parts: tuple[tuple[str, int], ...]
    died: tuple[str, ...]
    sent: tuple[tuple[str, str, int], ...]


class Tree:
    """States seen, and by which event from which state each was first reached."""

    def __init__(self, root: bytes) -> None:
        self.seen = {root}
        self.level: set[object] = set()
        """States of the level in the making, as they are: most are reached more than once, and finding
        that out is cheaper than their key."""
        self._parents = [-1]
        self._events: list[Event] = [("begin",)]

    def add(self, key: bytes, parent: int, event: Event) -> int:
        self.seen.add(key)
        self._parents.append(parent)
        self._events.append(event)
        return len(self._parents) - 1

    def path(self, number: int) -> list[Event]:
        events: list[Event] = []
        while number > 0:
            events.append(self._events[number])
            number = self._parents[number]
        return events[::-1]


class Explorer:
    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.world = World(configuration)
        self.cells = Cells(self.world)
        self.post = Post(self.cells)
        self.prospects: dict[int, Prospect] = {}
        self.attempts: dict[int, int] = {}
        """Attempts that a control has made."""
        self._effects: dict[tuple[object, ...], Effect] = {}
        self._quiet: set[tuple[int, ...]] = set()
        self._tried: Event = ("begin",)
        """The event that is being performed."""
        self.start = self._warm_up(self._first())

    # ---- states -------------------------------------------------------------------------------------

    def _first(self) -> State:
        self.world.parts, self.world.sent, self.world.died = {}, [], []
        self.world.begin()
        return self._apply(State({}, {}), self._freeze(set(self.world.parts)))

    def _warm_up(self, state: State) -> State:
        """The fleet joins, and requests of the past run to their end, in one order."""
        past = {f"client {number}" for number in range(self.configuration.history)}
        for _ in range(WARM_UP_MAX):
            moves, _ = next_events(state, self.configuration, self.prospects)
            moves = [m for m in moves if m[0] != "expire"]
            moves = [m for m in moves if m[1] in past or not str(m[1]).startswith("client")]
            if not moves:
                return state
            state = self.follow(state, moves[0])
        raise Violation("warm-up does not end", self.configuration.name)

    def follow(self, state: State, event: Event) -> State:
        """The state after the event."""
        return self._apply(state, self._effect(state, event), event)

    def _apply(self, state: State, effect: Effect, event: Event = ("begin",)) -> State:
        parts = {**state.parts, **dict(effect.parts)}
        for name in effect.died:
            parts.pop(name, None)
        channels = dict(state.channels)
        if event[0] == "arrive":
            channel = (event[1], str(event[2]))
            rest = channels[channel][1:]
            if rest:
                channels[channel] = rest
            else:
                del channels[channel]
        if effect.died:
            channels = {c: m for c, m in channels.items() if c[1] not in effect.died}
        for sender, to, number in effect.sent:
            if to in parts:
                channels[sender, to] = (*channels.get((sender, to), ()), number)
        used = state.used
        kind = FAULTS.get(event[0])
        if kind is not None:
            used = (*used[:kind], used[kind] + 1, *used[kind + 1 :])  # type: ignore[assignment]
        elif event[0] == "expire" and self._busy(state):
            used = (*used[:3], used[3] + 1)
        return State(parts, channels, used)

    def _busy(self, state: State) -> bool:
        return bool(state.channels) or any(self.prospects[cell].steps for cell in state.parts.values())

    # ---- effects ------------------------------------------------------------------------------------

    def _effect(self, state: State, event: Event) -> Effect:
        touched = self._touched(state, event)
        number = state.channels[event[1], str(event[2])][0] if event[0] == "arrive" else -1
        key = (event, number, *(state.parts[name] for name in touched))
        effect = self._effects.get(key)
        if effect is None:
            effect = self._effects[key] = self._perform(state, event, number, touched)
        return effect

    def _touched(self, state: State, event: Event) -> list[str]:
        match event:
            case ("arrive", _, to) if to == SUPERVISOR:
                return [SUPERVISOR, POOL, *sorted(name for name in state.parts if "@" in name)]
            case ("arrive", _, to):
                return [str(to), POOL] if "@" in str(to) else [str(to)]
            case ("run", str(worker), _):
                return [worker, POOL]
            case ("die", str(worker), _):
                return [worker, POOL, SUPERVISOR]
            case ("leave", _):
                return [DOOR]
            case _:
                return [CONTROL]

    def _perform(self, state: State, event: Event, number: int, touched: list[str]) -> Effect:
        world = self.world
        world.sent, world.died = [], []
        self._thaw(state, touched)
        match event:
            case ("arrive", str(sender), str(to)):
                world.deliver(sender, to, self.post.messages[number])
            case ("run", str(worker), int(steps)):
                world.end_run(worker, steps)
            case ("die", str(worker), int(done)):
                world.die(worker, bool(done))
            case ("leave", str(request)):
                world.leave(request)
            case ("suspect", str(worker)):
                world.suspect(worker)
            case _:
                world.expire()
        return self._freeze(set(touched))

    def _thaw(self, state: State, names: list[str]) -> None:
        world = self.world
        world.parts = {}
        control = self.cells.cells[state.parts[CONTROL]]
        world.now_ns = control.now_ns
        pool = self.cells.thaw(state.parts[POOL], None) if POOL in names else None
        for name in names:
            world.parts[name] = pool if name == POOL else self.cells.thaw(state.parts[name], pool)

    def _freeze(self, names: set[str]) -> Effect:
        world = self.world
        frozen = []
        for name in sorted(world.parts):
            if name in world.died:
                continue
            cell = self.cells.freeze(world.parts[name], world.now_ns)
            frozen.append((name, cell))
            if cell not in self.prospects:
                self.prospects[cell] = self._prospect(cell, world.parts[name])
        sent = tuple((s, to, self.post.number(message, world.now_ns)) for s, to, message in world.sent)
        return Effect(tuple(frozen), tuple(world.died), sent)

    def _prospect(self, cell: int, part: object) -> Prospect:
        match part:
            case Seat():
                run = part.loop.run
                if run is None:
                    return Prospect()
                return Prospect(steps=tuple(range(1, run.steps + 1)) if part.ending else (run.steps,))
            case Door():
                clients = part.clients.values()
                return Prospect(
                    open=tuple(c.plan.request for c in clients if not c.gone and not c.complete())
                )
            case Desk():
                self.attempts[cell] = part.control.requests.dispatch._attempts % (1 << 20)
                return Prospect(waits=self.world.deadline_ns() is not None)
            case _:
                return Prospect()

    def check_quiet(self, state: State) -> None:
        cells = tuple(state.parts.values())
        if cells not in self._quiet:
            self._thaw(state, list(state.parts))
            check_quiet(self.world)
            self._quiet.add(cells)

    # ---- the search ---------------------------------------------------------------------------------

    def beyond(self, state: State) -> str:
        budgets = self.configuration.budgets
        if self.attempts[state.parts[CONTROL]] > budgets.attempts + self.configuration.history:
            return "attempts"
        if sum(len(numbers) for numbers in state.channels.values()) > budgets.messages:
            return "messages"
        return ""

    def run(
        self,
        states_max: int | None = None,
        seconds_max: float | None = None,
        progress: Callable[[Result, int], None] = lambda result, frontier: None,
    ) -> Result:
        """Explores until the frontier is exhausted, a rule is broken or a limit is met."""
        result = Result(configuration=self.configuration.name, states=1)
        begun, cpu_begun = time.monotonic(), time.process_time()
        tree = Tree(key_of(self.start, self.cells, self.post))
        frontier = [(0, self.start)]
        while frontier:
            following: list[tuple[int, State]] = []
            for done, (number, state) in enumerate(frontier):
                result.seconds = time.monotonic() - begun
                late = seconds_max is not None and result.seconds >= seconds_max
                if late or (states_max is not None and result.states >= states_max):
                    return result
                if done % 256 == 0:
                    result.cpu_seconds = time.process_time() - cpu_begun
                    progress(result, len(frontier) - done + len(following))
                reason = self._expand(result, tree, number, state, following)
                if reason:
                    result.counterexample = Counterexample(reason, (*tree.path(number), self._tried))
                    return result
            frontier = following
            tree.level.clear()
            result.depth += bool(following)
        result.cpu_seconds = time.process_time() - cpu_begun
        result.complete = True
        return result

    def _expand(
        self, result: Result, tree: Tree, number: int, state: State, following: list[tuple[int, State]]
    ) -> str:
        """Every event of one state; says what broke, if anything did."""
        self._tried = ("quiet",)
        try:
            moves, faults = next_events(state, self.configuration, self.prospects)
            if not moves:
                result.quiet += 1
                self.check_quiet(state)
            for self._tried in (*moves, *faults):
                result.transitions += 1
                after = self.follow(state, self._tried)
                exact = after.exact()
                if exact in tree.level:
                    continue
                tree.level.add(exact)
                key = key_of(after, self.cells, self.post)
                if key in tree.seen:
                    continue
                beyond = self.beyond(after)
                if beyond:
                    result.cut[beyond] = result.cut.get(beyond, 0) + 1
                    continue
                result.states += 1
                following.append((tree.add(key, number, self._tried), after))
        except BROKEN as error:
            return f"{type(error).__name__}: {error}"
        return ""
