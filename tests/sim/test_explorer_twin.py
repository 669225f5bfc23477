"""The compiled search against a plain one in Python: the same states, transitions and depth."""

from __future__ import annotations

import msgspec
import pytest

from diptych.core.ids import CONTROL
from diptych.sim.explorer.configuration import CONFIGURATIONS, Budgets
from diptych.sim.explorer.graph import FAULTS, Event
from diptych.sim.explorer.search import Explorer
from diptych.sim.explorer.world import POOL

pytestmark = pytest.mark.interpreted  # Snapshots of machines: compiled ones have none.

JOINS = ("ControlJoined", "ControlUp")
Channels = dict[int, tuple[int, ...]]
Used = dict[str, int]
Where = tuple[dict[int, int], Channels, Used]
"""Cells by slot, messages by channel, faults so far."""


class PlainSearch:
    """Knows the same events and effects, by dictionaries, and renames pages in its own way."""

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer
        self.numbers = explorer.numbers
        self.budgets = explorer.configuration.budgets
        self.control, self.pool = self.numbers.slots[CONTROL], self.numbers.slots[POOL]
        self.transitions = 0

    def start(self) -> Where:
        words = self.explorer.start
        cells = {slot: cell for slot, cell in enumerate(words[2 : 2 + words[1]]) if cell}
        channels: Channels = {}
        for packed in words[2 + words[1] :]:
            channels[packed >> 20] = (*channels.get(packed >> 20, ()), packed & 0xFFFFF)
        return cells, channels, dict.fromkeys(FAULTS.values(), 0)

    def count(self) -> tuple[int, int]:
        """(states, depth)."""
        first = self.start()
        seen, level, depth = {self.key(first)}, [first], 0
        while level:
            following = []
            for where in level:
                for after in self.successors(where):
                    key = self.key(after)
                    if self.within(after) and key not in seen:
                        seen.add(key)
                        following.append(after)
            level = following
            depth += bool(level)
        return len(seen), depth

    def within(self, where: Where) -> bool:
        cells, channels, _ = where
        attempts = self.explorer.prospects[cells[self.control]].attempts
        allowed = self.budgets.attempts + self.explorer.configuration.history
        return attempts <= allowed and sum(map(len, channels.values())) <= self.budgets.messages

    def successors(self, where: Where) -> list[Where]:
        cells, channels, used = where
        prospects = [self.explorer.prospects[cell] for cell in cells.values()]
        moves: list[tuple[Event, int]] = [
            (("arrive", *self.numbers.channels[channel]), held[0]) for channel, held in channels.items()
        ]
        moves += [(event, -1) for prospect in prospects for event in prospect.moves]
        faults: list[tuple[Event, int]] = [(e, -1) for prospect in prospects for e in prospect.faults]
        for channel, held in channels.items():
            if self.echo(held[0]) is not None:
                faults.append((("twice", *self.numbers.channels[channel]), held[0]))
        if self.explorer.prospects[cells[self.control]].waits:
            (faults if moves else moves).append((("expire",), -1))
        result = [after for event, m in moves for after in self.perform(where, event, m, used)]
        for event, message in faults:
            name = FAULTS[event[0]]
            if used[name] < getattr(self.budgets, name):
                result += self.perform(where, event, message, {**used, name: used[name] + 1})
        return result

    def echo(self, message: int) -> int | None:
        known = self.numbers.messages[message]
        again = msgspec.structs.replace(known, echo=True)
        if known.echo or again not in self.numbers.messages:
            return None
        return self.numbers.messages.index(again)

    def perform(self, where: Where, event: Event, message: int, used: Used) -> list[Where]:
        cells = where[0]
        number = self.numbers.event(event)
        slots = self.explorer.touched(number, message)
        outcomes = self.explorer.perform(number, message, slots, [cells.get(slot, 0) for slot in slots])
        assert not isinstance(outcomes, str), outcomes
        self.transitions += len(outcomes)
        return [self.after(where, event, message, outcome, used) for outcome in outcomes]

    def after(self, where: Where, event: Event, message: int, outcome: tuple, used: Used) -> Where:  # type: ignore[type-arg]
        parts, died, sent, hung_up = outcome
        cells, channels = {**where[0], **dict(parts)}, dict(where[1])
        if message >= 0:
            channel = self.numbers.channel(str(event[1]), str(event[2]))
            again = self.echo(message) if event[0] == "twice" else None
            channels[channel] = (*([] if again is None else [again]), *channels[channel][1:])
        joining = {
            self.numbers.channels[channel][1]
            for channel, held in channels.items()
            if any(
                type(self.numbers.messages[m].what).__name__ in ("ControlJoined", "ControlUp") for m in held
            )
        }
        names = self.numbers.names
        for channel in list(channels):
            to = self.numbers.channels[channel][1]
            if to in [names[slot] for slot in died] or (hung_up and to == CONTROL):
                del channels[channel]
        for channel, m in sent:
            sender, to = self.numbers.channels[channel]
            alive = self.numbers.slot(to) in cells and self.numbers.slot(to) not in died
            if alive and not (to == CONTROL and sender in joining):
                channels[channel] = (*channels.get(channel, ()), m)
        cells = {slot: cell for slot, cell in cells.items() if slot not in died}
        return cells, {channel: held for channel, held in channels.items() if held}, used

    def key(self, where: Where) -> object:
        """Shapes, and each page as the number of the place where it was named first."""
        cells, channels, used = where
        known = self.explorer.cells.cells
        parts = [known[cells[slot]] for slot in sorted(cells)]
        held = [(channel, m) for channel in sorted(channels) for m in channels[channel]]
        named = [page for part in parts for page in part.pages]
        named += [page for _, m in held for page in self.numbers.pages[m]]
        free = [page for part in parts for page in part.free]
        order = list(dict.fromkeys(named + free))
        pool = known[cells[self.pool]]
        contents = [pool.contents[page] for page in dict.fromkeys(named)]
        shapes = (
            tuple(used.values()),
            tuple((slot, known[cell].shape) for slot, cell in sorted(cells.items())),
        )
        flight = tuple((channel, self.numbers.shapes[m]) for channel, m in held)
        rest = sorted(book for page, book in enumerate(pool.books) if page not in order)
        books = [pool.books[page] for page in order]
        return (shapes, flight, *map(tuple, ([order.index(p) for p in named + free], contents, books, rest)))


@pytest.mark.parametrize(
    ("name", "budgets"),
    [
        ("next-turn", {"leavers": 1, "messages": 4}),
        ("pair", {"leavers": 1, "expiries": 1, "doubles": 1, "messages": 5}),
    ],
)
def test_the_compiled_search_finds_what_a_plain_one_finds(name: str, budgets: dict[str, int]) -> None:
    found = next(configuration for configuration in CONFIGURATIONS if configuration.name == name)
    configuration = msgspec.structs.replace(found, budgets=Budgets(**budgets))
    plain = PlainSearch(Explorer(configuration))
    states, depth = plain.count()
    result = Explorer(configuration).run()
    assert result.counterexample is None
    assert result.complete
    assert (result.states, result.depth, result.transitions) == (states, depth, plain.transitions)
    assert states > 500
