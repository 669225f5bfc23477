"""What the explorer forgets of a state does not matter: machines that live on for a whole walk do what was
remembered of other machines of the same shape."""

from __future__ import annotations

import random
from typing import Any

import pytest

from diptych.core.ids import CONTROL
from diptych.sim.explorer import shapes
from diptych.sim.explorer.configuration import CONFIGURATIONS
from diptych.sim.explorer.search import Explorer
from diptych.sim.explorer.world import START_NS

pytestmark = pytest.mark.interpreted  # It takes snapshots of machines, and compiled ones have none.


class Walker:
    """The same machines all the way, and what they are to the search at each step."""

    def __init__(self, explorer: Explorer) -> None:
        self.explorer = explorer
        self.state = explorer.start
        cells = self.state[2 : 2 + self.state[1]]
        names = explorer.numbers.names
        explorer._thaw({names[slot]: cell for slot, cell in enumerate(cells) if cell})
        self.parts: dict[str, Any] = dict(explorer.world.parts)
        self.now_ns = explorer.world.now_ns

    def step(self, event: int, message: int) -> None:
        explorer, numbers = self.explorer, self.explorer.numbers
        predicted = explorer.graph.follow(explorer, self.state, event, 0)
        touched = numbers.touched(numbers.events[event], explorer._message(message))
        explorer.world.forget(self.now_ns if CONTROL in touched else START_NS)
        explorer.world.choices.begin([])
        explorer.world.parts = {name: self.parts[name] for name in touched if name in self.parts}
        explorer.world.perform(numbers.events[event], explorer._message(message))
        self.parts.update(explorer.world.parts)
        if CONTROL in touched:
            self.now_ns = explorer.world.now_ns
        found, died, sent, _ = explorer._frozen()
        for slot, cell in found:
            assert predicted[2 + slot] == cell, (numbers.events[event], numbers.names[slot])
        for slot in died:
            assert predicted[2 + slot] == 0
            del self.parts[numbers.names[slot]]
        flight = predicted[2 + predicted[1] :]
        alive = {slot for slot, cell in enumerate(predicted[2 : 2 + predicted[1]]) if cell}
        told = [
            channel << 20 | m for channel, m in sent if numbers.slot(numbers.channels[channel][1]) in alive
        ]
        # To a control that a party has not heard of yet it says nothing that arrives.
        assert [m for m in told if m not in flight and CONTROL not in numbers.channels[m >> 20]] == []
        self.state = predicted


def walk(name: str, walks: int) -> int:
    """Some random walks; says how many steps they took."""
    found = next(configuration for configuration in CONFIGURATIONS if configuration.name == name)
    assert not found.choices
    explorer = Explorer(found)
    explorer.run(states_max=3000)
    dice = random.Random(name)
    steps = 0
    for _ in range(walks):
        walker = Walker(explorer)
        for _ in range(60):
            events = explorer.graph.enabled(walker.state)
            # Faults are paid for by nobody on a walk: mostly what comes by itself.
            usual = [e for e in events if explorer.numbers.events[e[0]][0] in ("arrive", "run")]
            chosen = dice.choice(usual if usual and dice.random() < 0.93 else events) if events else None
            if chosen is None:
                break
            walker.step(*chosen)
            steps += 1
    return steps


@pytest.mark.parametrize(
    "name", ["pair-suspect", "next-turn-death", "preempt", "compete-leave", "restart", "three-faults"]
)
def test_machines_that_live_on_do_what_was_remembered_of_others(name: str) -> None:
    assert walk(name, walks=15) > 300


def test_forgetting_what_matters_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether a client has hung up."""
    monkeypatch.setattr(shapes, "UNTOLD", shapes.UNTOLD | {("Client", "gone")})
    monkeypatch.setattr(shapes, "_PLANS", {})
    with pytest.raises(AssertionError, match="door-0"):
        walk("pair-suspect", walks=200)
