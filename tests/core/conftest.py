"""A worker on a table, a control plane on a desk: brought into any state by the facts that lead there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from diptych.core import actions, facts
from diptych.core.config import ControlConfig, WorkerConfig
from diptych.core.control import ControlPlane
from diptych.core.facts import Fact
from diptych.core.recipe import OPEN_END, Recipe, join
from diptych.core.worker import Worker

PAGE = 4
INT8: Recipe = join(("int8", OPEN_END))
D, P, DOOR = "decode-0@1", "prefill-0@1", "door-0"
MS = 1_000_000
CANONICAL: Recipe = join(("int8", 40), ("int4", OPEN_END))


def hashes(name: str, tokens: int) -> tuple[bytes, ...]:
    """Of the full pages of the first `tokens` tokens of a named prompt."""
    return tuple(f"{name}{page}".encode() for page in range(tokens // PAGE))


class Table:
    """Steps one worker by hand and keeps what it asked for."""

    def __init__(self, worker: str, pages: int, **settings: Any) -> None:
        defaults = {"quantum_tokens": 4, "chunk_tokens": 8, "mixed_chunk_tokens": 4, "page_tokens": PAGE}
        config = WorkerConfig(
            worker=worker, host="host", role="both", engine="scripted", models=("model",), formats=("int8",),
            numerics=("int8", "int4"), context_tokens_max=512, **(defaults | settings),
        )  # fmt: skip
        self.machine = Worker(config)
        self.now_ns = 0
        self.run: actions.RunSteps | None = None
        self.dropped: list[tuple[str, int]] = []
        self.port: list[actions.Action] = []
        """What it asked of the port that copies pages."""
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
            else:
                self.port.append(action)
        self.machine.check()
        return told

    def ordered(self, kind: type[actions.Action]) -> list[Any]:
        """Orders of one kind to the port, once."""
        found = [action for action in self.port if isinstance(action, kind)]
        self.port = [action for action in self.port if not isinstance(action, kind)]
        return found

    def wait(self, duration_ns: int) -> list[Fact]:
        """The moment comes, and with it what is due."""
        self.now_ns += duration_ns
        return self.say(facts.DeadlinePassed())

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


def only(told: list[Fact], kind: type[Fact]) -> Any:
    found = [fact for fact in told if isinstance(fact, kind)]
    assert len(found) == 1, f"{kind.__name__} in {told}"
    return found[0]


class Desk:
    """Steps one control plane and keeps what it said to whom."""

    def __init__(self, **settings: Any) -> None:
        self.machine = ControlPlane(ControlConfig(**settings))
        self.now_ns = 0
        self.fenced: list[str] = []
        self.attempt = 0
        self.deadline_ns: int | None = None

    def say(self, fact: Fact, *, after_ns: int = MS) -> dict[str, list[Fact]]:
        self.now_ns += after_ns
        told: dict[str, list[Fact]] = {}
        for action in self.machine.step(self.now_ns, fact):
            if isinstance(action, actions.Send):
                told.setdefault(action.to, []).append(action.fact)
                self.attempt = max(self.attempt, getattr(action.fact, "attempt", 0) or 0)
            elif isinstance(action, actions.FenceWorker):
                self.fenced.append(action.worker)
        self.machine.check()
        return told

    def worker(self, worker: str, role: str, numerics: tuple[str, ...], **more: Any) -> dict[str, list[Fact]]:
        return self.say(
            facts.WorkerJoined(
                worker=worker, host="host", role=role, engine="scripted", models=("model",),
                numerics=numerics, formats=numerics, page_tokens=PAGE, context_tokens_max=512,
                prefill_ns_per_token=MS, decode_ns_per_step=MS, **more,
            )
        )  # fmt: skip

    def fleet(self, *, room: int = 0) -> Desk:
        self.say(
            facts.HostStated(
                host="host", pool_pages=64, workers=(P, D), shares=(("prefill-0", 32), ("decode-0", 32))
            )
        )
        self.worker(P, "prefill", ("int8", "int4"), room=room)
        self.worker(D, "decode", ("int4", "int8"), room=room)
        self.say(facts.DoorJoined(door=DOOR))
        return self

    def arrive(self, name: str = "r", **more: Any) -> dict[str, list[Fact]]:
        hashes = tuple(f"{name}{page}".encode() for page in range(10))
        fields = {
            "model": "model",
            "prompt_tokens": 42,
            "tokens_max": 8,
            "deadline_ns": self.deadline_ns,
        } | more
        return self.say(facts.RequestArrived(request=name, door=DOOR, page_hashes=hashes, **fields))

    def about(self, kind: type[Any], **fields: Any) -> dict[str, list[Fact]]:
        return self.say(kind(request="r", attempt=self.attempt, **fields))

    def open(self) -> bool:
        return self.machine.record("r") is None and "r" in self.machine.requests.open

    # ---- ways into each state ------------------------------------------------------------------

    def queued(self) -> None:
        assert self.arrive() == {}

    def reserving(self) -> None:
        self.fleet()
        only(self.arrive()[D], facts.TargetRequested)

    def prefilling(self) -> None:
        self.reserving()
        told = self.about(facts.TargetReserved, worker=D, held_tokens=0, held=())
        assert only(told[P], facts.PrefillRequested).split == 40

    def streaming(self) -> None:
        self.prefilling()
        self.about(facts.StreamStarted, worker=D, waited_ns=0)

    def draining(self) -> None:
        self.streaming()
        self.about(facts.StreamPaused, worker=D)

    def adopting(self, *, exact: bool = True) -> dict[str, list[Fact]]:
        self.say(
            facts.HostStated(
                host="host", pool_pages=64, workers=(P, D), shares=(("prefill-0", 32), ("decode-0", 32))
            )
        )
        arrived = facts.RequestArrived(
            request="r",
            door=DOOR,
            model="model",
            prompt_tokens=42,
            page_hashes=(),
            tokens_max=8,
            deadline_ns=self.deadline_ns,
        )
        self.attempt = 3
        starts = (facts.SequenceStart(0, 2),)
        opened = facts.OpenRequest(arrived, 3, CANONICAL, starts, exact=exact)
        return self.say(facts.DoorJoined(door=DOOR, open=(opened,)))


@pytest.fixture
def table() -> Callable[..., Table]:
    def make(worker: str = D, pages: int = 32, **settings: Any) -> Table:
        return Table(worker, pages, **settings)

    return make


@pytest.fixture
def new_desk() -> type[Desk]:
    return Desk
