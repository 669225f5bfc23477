"""The engine's thread: takes orders from the machine's driver, answers each run once.

It waits on a condition while it has no order, so an idle worker costs nothing. Everything is done in
the order it was asked for; only `EndRun` overtakes, as a number that the run in hand looks at.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from diptych.core.actions import DropRequest, EndRun, PauseStream, RunSteps
from diptych.core.facts import PrefillRequested, RecipeFixed, StepsRan, TargetRequested
from diptych.core.ids import RequestId
from diptych.core.recipe import Recipe
from diptych.live.steploop.stepper import Stepper
from diptych.live.steploop.stream import Door, Stream, StreamKey, WrongOrder
from diptych.wire.payload import PromptPayload, decode_payload

__all__ = ["StepLoop", "StepOrder"]

StepOrder = RunSteps | EndRun | DropRequest | PauseStream


class _Announced:
    """A stream that the machine was told of and has not run yet."""

    __slots__ = ("fact", "payload", "recipe")

    def __init__(self, fact: TargetRequested | PrefillRequested, payload: PromptPayload) -> None:
        self.fact = fact
        self.payload = payload
        self.recipe: Recipe = fact.recipe


class StepLoop:
    """Port of one worker's machine to its engine. All methods are for the driver's thread.

    `answer` is called with each `StepsRan` and `fail` with the exception that ended the thread, both
    from the engine's thread.
    """

    def __init__(
        self,
        stepper: Stepper,
        door: Callable[[str], Door | None],
        answer: Callable[[StepsRan], None],
        fail: Callable[[Exception], None],
        *,
        page_tokens: int,
        context_tokens_max: int,
    ) -> None:
        """`door`: the connection to the door of that name, if there is one."""
        self._stepper = stepper
        self._door = door
        self._answer = answer
        self._fail = fail
        self._page_tokens = page_tokens
        self._context_tokens_max = context_tokens_max
        self._announced: dict[RequestId, _Announced] = {}
        self._opened: set[StreamKey] = set()
        self._run_to_end = 0
        self._stopping = False
        self._orders: deque[Stream | StepOrder | None] = deque()
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="diptych-steps", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread behind the step in hand, and waits for that."""
        self._stopping = True
        with self._wake:
            self._orders.clear()
            self._orders.append(None)
            self._wake.notify()
        self._thread.join()

    def announce(self, fact: TargetRequested | PrefillRequested, attachment: bytes) -> None:
        """A request came to the machine: keeps its payload until it runs. Raises `MalformedMessage`.

        A later attempt takes an earlier one's place; one that runs already is not touched."""
        known = self._announced.get(fact.request)
        if known is None or known.fact.attempt <= fact.attempt:
            self._announced[fact.request] = _Announced(fact, decode_payload(attachment))

    def fix_recipe(self, fact: RecipeFixed) -> None:
        known = self._announced.get(fact.request)
        if known is not None and known.fact.attempt == fact.attempt:
            known.recipe = fact.recipe

    def forget(self, request: RequestId, attempt: int) -> None:
        """Attempts up to this one will not be asked to run any more."""
        known = self._announced.get(request)
        if known is not None and known.fact.attempt <= attempt:
            del self._announced[request]

    def perform(self, order: StepOrder) -> None:
        """Takes an action of the machine; never waits for the engine."""
        match order:
            case EndRun(run=run):
                self._run_to_end = run
            case RunSteps():
                self._give(*self._openings(order), order)
            case DropRequest(request=request, attempt=attempt):
                self.forget(request, attempt)
                self._opened.discard((request, attempt))
                self._give(order)
            case PauseStream(request=request, attempt=attempt):
                # It may be preempted before its first run; its door waits for the word all the same.
                fresh = self._open((request, attempt))
                self._give(*([fresh] if fresh else []), order)

    def _openings(self, order: RunSteps) -> list[Stream]:
        """Streams that `order` has and the stepper does not know yet."""
        keys = [(part.request, part.attempt) for part in order.tables]
        keys += [(span.request, span.attempt) for span in order.prompts]
        streams: list[Stream] = []
        for key in keys:
            if key not in self._opened:
                stream = self._open(key)
                if stream is None:
                    raise WrongOrder(f"run {order.run}: attempt {key[1]} of {key[0]} was not announced")
                streams.append(stream)
        return streams

    def _open(self, key: StreamKey) -> Stream | None:
        """The announced stream, which is the stepper's from now on."""
        announced = self._announced.get(key[0])
        if announced is None or announced.fact.attempt != key[1]:
            return None
        fact = announced.fact
        stream = Stream(
            fact,
            announced.payload,
            announced.recipe,
            self._door(fact.door) if isinstance(fact, TargetRequested) else None,
            page_tokens=self._page_tokens,
            context_tokens_max=self._context_tokens_max,
        )
        self._opened.add(key)
        del self._announced[key[0]]
        return stream

    def _give(self, *orders: Stream | StepOrder) -> None:
        with self._wake:
            self._orders.extend(orders)
            self._wake.notify()

    # ---- the engine's thread --------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            while True:
                with self._wake:
                    while not self._orders:
                        self._wake.wait()
                    order = self._orders.popleft()
                if order is None:
                    return
                self._do(order)
        except Exception as error:
            self._fail(error)

    def _do(self, order: Stream | StepOrder) -> None:
        match order:
            case RunSteps(run=run):
                self._answer(self._stepper.run(order, lambda: self._run_to_end == run or self._stopping))
            case DropRequest(request=request, attempt=attempt):
                self._stepper.drop((request, attempt))
            case PauseStream(request=request, attempt=attempt):
                self._stepper.pause((request, attempt))
            case Stream():
                self._stepper.open(order)
