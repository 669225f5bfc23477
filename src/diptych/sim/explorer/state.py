"""One state of the explored system as a value, the key that equal states share, and what can come next."""

from __future__ import annotations

import hashlib
import marshal

import msgspec

from diptych.core.ids import CONTROL, Incarnation
from diptych.sim.explorer.cells import Cells
from diptych.sim.explorer.configuration import Configuration
from diptych.sim.explorer.shapes import Projection
from diptych.sim.explorer.world import POOL, Message

Event = tuple[str, ...] | tuple[str, str, int]
"""("arrive", sender, receiver), ("run", worker, steps), ("die", worker, steps done or not), ("suspect",
worker), ("leave", request) or ("expire",)."""
Channel = tuple[str, str]
Used = tuple[int, int, int, int]
"""Deaths, suspicions, leavers and expiries so far."""


class State(msgspec.Struct, frozen=True):
    parts: dict[str, int]
    """Cells by name; only live workers have one."""
    channels: dict[Channel, tuple[int, ...]]
    """Messages in flight, none of them empty."""
    used: Used = (0, 0, 0, 0)

    def exact(self) -> object:
        return frozenset(self.parts.items()), frozenset(self.channels.items()), self.used


class Post:
    """Messages, each stored once."""

    def __init__(self, cells: Cells) -> None:
        self.messages: list[Message] = []
        self.shapes: list[int] = []
        self.pages: list[tuple[int, ...]] = []
        self._cells = cells
        self._known: dict[bytes, int] = {}

    def number(self, message: Message, now_ns: int) -> int:
        projection = Projection(now_ns)
        shape = self._cells.shape(projection.walk(message))
        pages = tuple(projection.pages)
        key = marshal.dumps((shape, pages))
        number = self._known.get(key)
        if number is None:
            number = self._known[key] = len(self.messages)
            self.messages.append(message)
            self.shapes.append(shape)
            self.pages.append(pages)
        return number


def key_of(state: State, cells: Cells, post: Post) -> bytes:
    """Equal for states that differ in page numbers only (renamed by first use). Attempts, epochs and
    serials count events of the same history and are left as they are: distinct names never merge."""
    names: dict[int, int] = {}
    shapes: list[object] = [state.used]
    order: list[int] = []
    free: list[tuple[int, ...]] = []
    for part in sorted(state.parts):
        cell = cells.cells[state.parts[part]]
        shapes += (part, cell.shape)
        order += [names.setdefault(page, len(names)) for page in cell.pages]
        free.append(cell.free)
    for channel in sorted(state.channels):
        numbers = state.channels[channel]
        shapes.append(channel)
        for number in numbers:
            shapes.append(post.shapes[number])
            order += [names.setdefault(page, len(names)) for page in post.pages[number]]
    pool = cells.cells[state.parts[POOL]]
    told: list[object] = [(pool.books[page], pool.contents[page]) for page in names]
    for pages in free:
        fresh = len(names)
        order += [names.setdefault(page, len(names)) for page in pages]
        told += [pool.books[page] for page in pages if names[page] >= fresh]
    told += sorted(pool.books[page] for page in range(len(pool.books)) if page not in names)
    key = marshal.dumps((shapes, order, told), 2)
    return hashlib.blake2b(key, digest_size=16).digest()


class Prospect(msgspec.Struct, frozen=True):
    """What a part says of what it can do next."""

    steps: tuple[int, ...] = ()
    """After which steps the run in hand may end."""
    open: tuple[str, ...] = ()
    """Requests whose clients may leave."""
    waits: bool = False
    """Control has a deadline."""


def next_events(
    state: State, configuration: Configuration, prospects: dict[int, Prospect]
) -> tuple[list[Event], list[Event]]:
    """(what comes by itself, faults within the budgets)."""
    budgets = configuration.budgets
    deaths, suspicions, leavers, expiries = state.used
    moves: list[Event] = [("arrive", sender, to) for sender, to in state.channels]
    faults: list[Event] = []
    workers: list[Incarnation] = [name for name in state.parts if "@" in name]
    for worker in workers:
        steps = prospects[state.parts[worker]].steps
        moves += [("run", worker, count) for count in steps]
        if deaths < budgets.deaths:
            faults.append(("die", worker, 0))
            if steps:
                faults.append(("die", worker, 1))
        if suspicions < budgets.suspicions:
            faults.append(("suspect", worker))
    for name in state.parts:
        prospect = prospects[state.parts[name]]
        if leavers < budgets.leavers:
            faults += [("leave", request) for request in prospect.open]
    if prospects[state.parts[CONTROL]].waits:
        if not moves:
            moves.append(("expire",))
        elif expiries < budgets.expiries:
            faults.append(("expire",))
    return moves, faults
