"""A worker on a table: its machine, brought into any state by the facts that lead there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from diptych.core import actions, facts
from diptych.core.config import WorkerConfig
from diptych.core.facts import Fact
from diptych.core.recipe import OPEN_END, Recipe, join
from diptych.core.worker import Worker

PAGE = 4
INT8: Recipe = join(("int8", OPEN_END))
D, P = "decode-0@1", "prefill-0@1"


def hashes(name: str, tokens: int) -> tuple[bytes, ...]:
    """Of the full pages of the first `tokens` tokens of a named prompt."""
    return tuple(f"{name}{page}".encode() for page in range(tokens // PAGE))


class Table:
    """Steps one worker by hand and keeps what it asked for."""

    def __init__(self, worker: str, pages: int, **settings: Any) -> None:
        defaults = {"quantum_tokens": 4, "chunk_tokens": 8, "mixed_chunk_tokens": 4}
        config = WorkerConfig(
            worker=worker, host="host", role="both", engine="scripted", models=("model",), formats=("int8",),
            numerics=("int8", "int4"), context_tokens_max=512, page_tokens=PAGE, **(defaults | settings),
        )  # fmt: skip
        self.machine = Worker(config)
        self.now_ns = 0
        self.run: actions.RunSteps | None = None
        self.dropped: list[tuple[str, int]] = []
        self.say(facts.ControlJoined(epoch=1))
        self.say(facts.PagesGranted(pages=((0, pages),), room=pages))
        self.pages = pages

    def say(self, fact: Fact) -> list[Fact]:
        """What the worker tells others because of the fact; runs and drops are kept aside."""
        self.now_ns += 1_000_000
        told = []
        for action in self.machine.step(self.now_ns, fact):
            if isinstance(action, actions.Send):
                told.append(action.fact)
            elif isinstance(action, actions.RunSteps):
                self.run = action
            elif isinstance(action, actions.DropRequest):
                self.dropped.append((action.request, action.attempt))
        self.machine.check()
        return told

    def ran(self, *finished: facts.SequenceFinish, steps: int | None = None) -> list[Fact]:
        """The run in hand ends after all its steps (or `steps`)."""
        assert self.run is not None, "no run in hand"
        run, self.run = self.run, None
        count = run.steps_max if steps is None else steps
        return self.say(facts.StepsRan(run=run.run, steps=count, duration_ns=1_000_000, finished=finished))

    def ask(self, name: str = "r", *, attempt: int = 1, tokens: int = 10, **more: Any) -> list[Fact]:
        more.setdefault("tokens_max", 8)
        starts = tuple(facts.SequenceStart(i, 0) for i in range(more.pop("sequences", 1)))
        return self.say(
            facts.TargetRequested(
                request=name, attempt=attempt, door="door-0", model="model", prompt_tokens=tokens,
                page_hashes=hashes(name, tokens - 1), starts=starts, **more,
            )
        )  # fmt: skip

    def fix(
        self, name: str = "r", *, attempt: int = 1, split: int = 0, source: str | None = None
    ) -> list[Fact]:
        return self.say(
            facts.RecipeFixed(request=name, attempt=attempt, recipe=INT8, split=split, source=source)
        )

    def prefill(self, name: str = "r", *, attempt: int = 1, split: int = 16, held: int = 0) -> list[Fact]:
        return self.say(
            facts.PrefillRequested(
                request=name,
                attempt=attempt,
                model="model",
                page_hashes=hashes(name, split),
                held_tokens=held,
                split=split,
                recipe=INT8,
                target=D,
            )
        )

    def offer(
        self, pages: tuple[int, ...], name: str = "r", *, attempt: int = 1, first: int = 0
    ) -> list[Fact]:
        return self.say(
            facts.PagesOffered(request=name, attempt=attempt, sender=P, first_page=first, pages=pages)
        )

    def release(self, name: str = "r", attempt: int = 1) -> list[Fact]:
        return self.say(facts.RequestReleased(request=name, attempt=attempt))

    def finish(self, name: str = "r", *, attempt: int = 1, emitted: int, tokens: int = 10) -> list[Fact]:
        full = (tokens + emitted - 1) // PAGE
        below = hashes(name, full * PAGE)[(tokens - 1) // PAGE :]
        return self.ran(facts.SequenceFinish(name, attempt, 0, "stop_token", emitted, below))

    def home(self) -> bool:
        """Nothing is held: every page is free or cached."""
        counts = self.machine.pages()
        return counts.held == 0 and counts.total == self.pages


@pytest.fixture
def table() -> Callable[..., Table]:
    def make(worker: str = D, pages: int = 32, **settings: Any) -> Table:
        return Table(worker, pages, **settings)

    return make
