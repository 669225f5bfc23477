from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from steploop_fakes import (
    ALL_A,
    PAGE,
    FakeDoor,
    RecordingEngine,
    alone,
    engine,
    request_facts,
    token_bytes,
)

from diptych.core.actions import DropRequest, EndRun, PauseStream, PromptSpan, RunSteps, TablePart
from diptych.core.facts import RecipeFixed, StepsRan
from diptych.core.ids import SHARED
from diptych.live.steploop.loop import StepLoop
from diptych.live.steploop.stepper import Stepper
from diptych.live.steploop.stream import WrongOrder
from diptych.wire.errors import MalformedMessage
from diptych.wire.frames import PauseFrame, TokensFrame
from diptych.wire.payload import encode_payload

WAIT_S = 20


class GatedEngine(RecordingEngine):
    """Each step waits for leave, so that a test decides what happens during it."""

    def __init__(self) -> None:
        super().__init__(engine())
        self.begun: queue.Queue[None] = queue.Queue()
        self.leave: queue.Queue[Exception | None] = queue.Queue()

    def step(self, spans: Any) -> Any:
        self.begun.put(None)
        error = self.leave.get(timeout=WAIT_S)
        if error is not None:
            raise error
        return super().step(spans)


class Loop:
    def __init__(self) -> None:
        self.engine = GatedEngine()
        self.answers: queue.Queue[StepsRan] = queue.Queue()
        self.failures: queue.Queue[Exception] = queue.Queue()
        self.door = FakeDoor()
        self.doors_asked: list[str] = []
        self.steps = StepLoop(
            Stepper(self.engine, token_bytes),  # type: ignore[arg-type]
            self._door,
            self.answers.put,
            self.failures.put,
            page_tokens=PAGE,
            context_tokens_max=100,
        )
        self.steps.start()

    def _door(self, name: str) -> FakeDoor:
        self.doors_asked.append(name)
        return self.door

    def announce(self, attempt: int = 1, **options: Any) -> None:
        fact, payload = request_facts(attempt=attempt, **options)
        self.steps.announce(fact, encode_payload(payload))
        self.steps.fix_recipe(RecipeFixed(request="r", attempt=attempt, recipe=ALL_A, split=0))

    def prompt(self, run: int, attempt: int = 1, steps_max: int = 1, first_page: int = 0) -> None:
        pages = tuple(range(first_page, first_page + 10))
        self.steps.perform(
            RunSteps(
                run=run,
                steps_max=steps_max,
                prompts=(
                    PromptSpan("r", attempt, SHARED, 0, 16, "a", False),
                    PromptSpan("r", attempt, 0, 16, 3, "a", True),
                ),
                tables=(
                    TablePart("r", attempt, SHARED, 0, pages[:4]),
                    TablePart("r", attempt, 0, 0, pages),
                ),
                predicted_ns=0,
            )
        )

    def more(self, run: int, steps_max: int) -> None:
        self.steps.perform(RunSteps(run=run, steps_max=steps_max, prompts=(), tables=(), predicted_ns=0))

    def pass_steps(self, count: int) -> None:
        for _ in range(count):
            self.engine.begun.get(timeout=WAIT_S)
            self.engine.leave.put(None)

    def answer(self) -> StepsRan:
        return self.answers.get(timeout=WAIT_S)


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    for _ in range(100):
        made.engine.leave.put(None)
    made.steps.stop()


def test_runs_are_answered_once_each_in_order(loop: Loop) -> None:
    loop.announce()
    loop.prompt(1)
    loop.more(2, steps_max=3)
    loop.pass_steps(4)
    assert [(ran.run, ran.steps) for ran in (loop.answer(), loop.answer())] == [(1, 1), (2, 3)]
    assert loop.answers.empty()
    assert loop.door.tokens("r") == alone()[:4]
    assert loop.doors_asked == ["door-0"]


def test_end_run_overtakes_and_stops_at_the_next_border(loop: Loop) -> None:
    loop.announce()
    loop.prompt(1)
    loop.pass_steps(1)
    loop.answer()
    loop.more(2, steps_max=30)
    loop.pass_steps(1)
    loop.engine.begun.get(timeout=WAIT_S)
    loop.steps.perform(EndRun(run=1))
    loop.engine.leave.put(None)
    loop.engine.begun.get(timeout=WAIT_S)
    loop.steps.perform(EndRun(run=2))
    loop.engine.leave.put(None)
    assert loop.answer().steps == 3, "EndRun of an old run changes nothing"
    loop.more(3, steps_max=2)
    loop.pass_steps(2)
    assert loop.answer().steps == 2, "nor does it end the run after it"


def test_a_later_attempt_is_kept_apart_from_the_one_it_follows(loop: Loop) -> None:
    loop.announce()
    loop.prompt(1)
    loop.pass_steps(1)
    loop.answer()
    loop.announce(attempt=2, emitted=(tuple(alone()[:1]),))
    loop.more(2, steps_max=2)
    loop.pass_steps(2)
    loop.answer()
    loop.steps.perform(DropRequest(request="r", attempt=1))
    loop.steps.perform(
        RunSteps(
            run=3,
            steps_max=3,
            prompts=(PromptSpan("r", 2, 0, 0, 20, "a", True),),
            tables=(TablePart("r", 2, 0, 0, tuple(range(20, 30))),),
            predicted_ns=0,
        )
    )
    loop.pass_steps(3)
    assert loop.answer().steps == 3
    assert loop.door.tokens("r") == alone()[:3]
    assert loop.door.tokens("r", attempt=2) == alone()[1:4]


def test_a_stream_paused_before_its_first_run_still_tells_its_door(loop: Loop) -> None:
    loop.announce(attempt=3)
    loop.steps.perform(PauseStream(request="r", attempt=3))
    loop.steps.perform(DropRequest(request="r", attempt=3))
    loop.announce(attempt=4)
    loop.prompt(1, attempt=4)
    loop.pass_steps(1)
    loop.answer()
    first, second = loop.door.frames
    assert first == PauseFrame("r", 3)
    assert isinstance(second, TokensFrame)
    assert second.attempt == 4


def test_what_was_never_announced_or_was_forgotten_is_refused_by_name(loop: Loop) -> None:
    with pytest.raises(WrongOrder, match="run 1: attempt 1 of r was not announced"):
        loop.prompt(1)
    loop.announce(attempt=2)
    loop.announce(attempt=1)
    with pytest.raises(WrongOrder, match="attempt 1 of r was not announced"):
        loop.prompt(1, attempt=1)
    loop.steps.forget("r", 1)
    loop.prompt(1, attempt=2)
    loop.pass_steps(1)
    loop.answer()
    loop.announce(attempt=5)
    loop.steps.forget("r", 5)
    with pytest.raises(WrongOrder, match="attempt 5 of r was not announced"):
        loop.prompt(2, attempt=5)
    fact, payload = request_facts()
    with pytest.raises(MalformedMessage, match="`prompt` is empty"):
        loop.steps.announce(fact, encode_payload(msgspec.structs.replace(payload, prompt=b"")))


def test_an_engine_that_fails_ends_the_loop_and_says_why(loop: Loop) -> None:
    loop.announce()
    loop.prompt(1)
    loop.engine.begun.get(timeout=WAIT_S)
    loop.engine.leave.put(RuntimeError("the accelerator fell off"))
    assert str(loop.failures.get(timeout=WAIT_S)) == "the accelerator fell off"
    assert loop.answers.empty()
    assert loop.failures.empty()


def test_stop_ends_the_thread_behind_the_step_in_hand(loop: Loop) -> None:
    loop.announce()
    loop.prompt(1, steps_max=30)
    loop.engine.begun.get(timeout=WAIT_S)
    stopping = threading.Thread(target=loop.steps.stop)
    stopping.start()
    loop.engine.leave.put(None)
    stopping.join(timeout=WAIT_S)
    assert not stopping.is_alive()
    assert loop.answer().steps <= 2
    assert len(loop.engine.steps) <= 2
