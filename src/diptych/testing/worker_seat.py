"""Where a worker sits while `check_worker` examines it, and our own machine's seat.

A worker that hosts an engine of its own (vLLM, a wafer) takes a seat by implementing `WorkerSeat`: it
is told facts and is listened to until it is quiet. How it computes in between is its own affair.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from diptych.core.actions import Action, DropRequest, RunSteps, Send
from diptych.core.facts import Fact, SequenceFinish, StepsRan, TargetRequested
from diptych.core.pages.counts import PageCounts
from diptych.core.worker import Worker

STEP_NS = 1_000_000


class WorkerSeat(Protocol):
    """One incarnation under examination."""

    @property
    def name(self) -> str: ...

    @property
    def page_tokens(self) -> int: ...

    @property
    def numerics(self) -> tuple[str, ...]: ...

    def tell(self, fact: Fact) -> list[Send]:
        """Everything the worker says from hearing the fact until it has nothing more to do."""
        ...

    def tell_midway(self, fact: Fact, then: Fact) -> list[Send]:
        """As `tell(fact)`, but `then` is told while the work that `fact` caused is still going on."""
        ...

    def counts(self) -> PageCounts: ...

    def check(self) -> None:
        """Raises where the worker's own books are wrong."""
        ...

    def close(self) -> None: ...


class MachineSeat:
    """Our `Worker` machine in virtual time: runs take a step's time, and sequences end at their limit
    of tokens (asked for by `TargetRequested.tokens_max`)."""

    def __init__(self, machine: Worker) -> None:
        self.machine = machine
        self.now_ns = 0
        self._run: RunSteps | None = None
        self._limits: dict[tuple[str, int], tuple[int, int]] = {}
        self._emitted: dict[tuple[str, int, int], int] = {}
        self._decoding: dict[tuple[str, int, int], None] = {}

    @property
    def name(self) -> str:
        return self.machine.config.worker

    @property
    def page_tokens(self) -> int:
        return self.machine.config.page_tokens

    @property
    def numerics(self) -> tuple[str, ...]:
        return self.machine.config.numerics

    def tell(self, fact: Fact) -> list[Send]:
        said = self._step(fact)
        while self._run is not None:
            said += self._step(self._finish_run())
        return said

    def tell_midway(self, fact: Fact, then: Fact) -> list[Send]:
        said = self._step(fact)
        said += self._step(then)
        while self._run is not None:
            said += self._step(self._finish_run())
        return said

    def counts(self) -> PageCounts:
        return self.machine.pages()

    def check(self) -> None:
        self.machine.check()

    def close(self) -> None:
        """A machine holds nothing outside itself."""

    def _step(self, fact: Fact) -> list[Send]:
        self.now_ns += STEP_NS
        if isinstance(fact, TargetRequested):
            key = (fact.request, fact.attempt)
            self._limits[key] = (fact.prompt_tokens, fact.tokens_max)
            for start in fact.starts:
                self._emitted[*key, start.index] = start.emitted
        return self._perform(self.machine.step(self.now_ns, fact))

    def _perform(self, actions: Sequence[Action]) -> list[Send]:
        said: list[Send] = []
        for action in actions:
            if isinstance(action, Send):
                said.append(action)
            elif isinstance(action, RunSteps):
                self._run = action
            elif isinstance(action, DropRequest):
                dropped = (action.request, action.attempt)
                self._decoding = {key: None for key in self._decoding if key[:2] != dropped}
        return said

    def _finish_run(self) -> StepsRan:
        run = self._run
        assert run is not None
        self._run = None
        for span in run.prompts:
            if span.sample:
                self._decoding[span.request, span.attempt, span.sequence] = None
        left = [self._left(key) for key in self._decoding]
        steps = max(1, min([run.steps_max, *left]))
        finished = []
        for key in list(self._decoding):
            self._emitted[key] += steps
            if self._left(key) <= 0:
                del self._decoding[key]
                finished.append(self._finish(key))
        return StepsRan(run=run.run, steps=steps, duration_ns=steps * STEP_NS, finished=tuple(finished))

    def _left(self, key: tuple[str, int, int]) -> int:
        return self._limits[key[:2]][1] - self._emitted[key]

    def _finish(self, key: tuple[str, int, int]) -> SequenceFinish:
        request, attempt, sequence = key
        prompt, _ = self._limits[request, attempt]
        emitted = self._emitted[key]
        full = (prompt + emitted - 1) // self.page_tokens
        border = (prompt - 1) // self.page_tokens
        hashes = tuple(f"{request}.{sequence}.{page}".encode() for page in range(border, full))
        return SequenceFinish(request, attempt, sequence, "length", emitted, hashes)
