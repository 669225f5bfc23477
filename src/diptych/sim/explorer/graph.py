"""What the compiled search knows by number: parts, messages, channels and events, and their names here."""

from __future__ import annotations

import marshal

import msgspec

from diptych.core import actions, facts
from diptych.core.ids import CONTROL
from diptych.sim import events
from diptych.sim.explorer._search import Graph
from diptych.sim.explorer.cells import Cells
from diptych.sim.explorer.configuration import Budgets
from diptych.sim.explorer.shapes import Projection
from diptych.sim.explorer.world import DOOR, POOL, Message

Event = tuple[str, ...] | tuple[str, str, int]
"""("arrive" or "twice", sender, receiver), ("run", worker, steps), ("die", worker, run done or not),
("suspect" or "evict", worker), ("leave", request), ("stall",), ("restart",) or ("expire",)."""
QUIET: Event = ("quiet",)
FAULTS = {
    "die": "deaths",
    "suspect": "suspicions",
    "leave": "leavers",
    "expire": "expiries",
    "restart": "restarts",
    "twice": "doubles",
    "evict": "evictions",
    "stall": "stalls",
}
"""Which budget pays for an event."""
BUDGETS = tuple(FAULTS.values())


class Numbers:
    """Gives numbers to what comes up and tells the graph of it."""

    def __init__(self, graph: Graph, cells: Cells) -> None:
        self.graph = graph
        self.cells = cells
        self.slots: dict[str, int] = {}
        self.names: list[str] = []
        self.events: list[Event] = []
        self.channels: list[tuple[str, str]] = []
        self.messages: list[Message] = []
        self.shapes: list[int] = []
        self.pages: list[tuple[int, ...]] = []
        """Of each message, as cells have them."""
        self._event: dict[Event, int] = {}
        self._channel: dict[tuple[str, str], int] = {}
        self._message: dict[bytes, int] = {}
        expire = self.event(("expire",), budget=False)
        graph.set_places(self.slot(CONTROL), self.slot(POOL), expire)

    def allow(self, budgets: Budgets, history: int) -> None:
        """From now on at most so much may go wrong."""
        faults = [int(getattr(budgets, name)) for name in BUDGETS]
        expiry, twice = BUDGETS.index("expiries"), BUDGETS.index("doubles")
        self.graph.set_budgets(faults, expiry, twice, budgets.messages, budgets.attempts + history)

    def slot(self, name: str) -> int:
        if name not in self.slots:
            self.slots[name] = len(self.names)
            self.names.append(name)
        return self.slots[name]

    def event(self, event: Event, *, budget: bool = True) -> int:
        number = self._event.get(event)
        if number is None:
            kind = FAULTS.get(event[0]) if budget else None
            number = self._event[event] = self.graph.add_event(-1 if kind is None else BUDGETS.index(kind))
            self.events.append(event)
        return number

    def fault(self, event: Event) -> tuple[int, int]:
        return self.event(event), BUDGETS.index(FAULTS[event[0]])

    def channel(self, sender: str, to: str) -> int:
        known = self._channel.get((sender, to))
        if known is not None:
            return known
        reverse = self.channel(CONTROL, sender) if to == CONTROL else -1
        number = self._channel[sender, to] = self.graph.add_channel(
            self.slot(to), self.event(("arrive", sender, to)), self.event(("twice", sender, to)), reverse
        )
        self.channels.append((sender, to))
        return number

    def message(self, message: Message, now_ns: int) -> int:
        projection = Projection(now_ns)
        shape = self.cells.shape(projection.walk(message))
        pages = tuple(projection.pages)
        key = marshal.dumps((shape, pages))
        number = self._message.get(key)
        if number is None:
            echo = -1
            if _can_come_twice(message):
                echo = self.message(msgspec.structs.replace(message, echo=True), now_ns)
            joins = isinstance(message.what, facts.ControlJoined | events.ControlUp)
            number = self._message[key] = self.graph.add_message(shape, list(pages), echo, joins)
            self.messages.append(message)
            self.shapes.append(shape)
            self.pages.append(pages)
        return number

    def touched(self, event: Event, message: Message | None) -> list[str]:
        """The parts that the event can change, and all that it depends on."""
        match event:
            case ("arrive" | "twice", _, str(to)):
                assert message is not None
                return _hearing(to, message)
            case ("run" | "evict", str(worker), *_):
                return [worker, POOL]
            case ("die", str(worker), _):
                return [worker, POOL, "supervisor"]
            case ("leave", _):
                return [DOOR]
            case _:
                return [CONTROL]


def _can_come_twice(message: Message) -> bool:
    """What moves pages comes once, or page books could not be kept: sessions see to it."""
    what = message.what
    return (
        isinstance(what, facts.RequestFact) and not isinstance(what, facts.OfferAnswered) and not message.echo
    )


def _hearing(to: str, message: Message) -> list[str]:
    if to != "supervisor":
        return [to, POOL] if "@" in to else [to]
    match message.what:
        case actions.FenceWorker() | events.Reaped():
            return [to, POOL, message.what.worker]
        case _:
            return [to, POOL]
