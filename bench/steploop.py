"""What the step loop itself costs for each step: all of it but the engine's own work.

An engine that computes nothing gives the same token to every sequence; spans are built, tokens taken,
stop strings matched, frames encoded and written to a socket as in a worker. Measured is the CPU time of
the loop's thread, so other load on the machine hardly matters.
"""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Sequence

import numpy as np

from diptych.core.actions import PromptSpan, RunSteps, TablePart
from diptych.core.facts import SequenceStart, TargetRequested
from diptych.core.recipe import OPEN_END, join
from diptych.engine.interface import Capabilities, SampledToken, SampleRow, SamplingParameters, Span, Tokens
from diptych.live.steploop.stepper import Stepper
from diptych.live.steploop.stream import Stream
from diptych.wire.messages import Message, encode
from diptych.wire.payload import PromptPayload, pack_tokens
from report import Row, argument_parser, best_and_median, finish

PAGE_TOKENS = 16
PROMPT_TOKENS = 512
STEPS = 20
ROUNDS = 60
TOKEN = SampledToken(65)


class IdleEngine:
    """Computes nothing; every token is the same one."""

    capabilities = Capabilities(
        engine="idle",
        numerics=("idle",),
        formats=("idle",),
        invariant_rows=True,
        samples=True,
        context_tokens_max=1 << 20,
        step_tokens_max=1 << 20,
        step_spans_max=1 << 20,
    )

    def step(self, spans: Sequence[Span]) -> None:
        return None

    def sampler(
        self, parameters: SamplingParameters, *, choice: int, prompt: Tokens, emitted: Tokens
    ) -> None:
        return None

    def sample(self, result: None, rows: Sequence[SampleRow]) -> list[SampledToken]:
        return [TOKEN] * len(rows)


class SocketDoor:
    """Writes to a socket as a worker does; what was written is read between rounds."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair()
        self._ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self._theirs.setblocking(False)

    def send(self, message: Message) -> None:
        self._ours.send(encode(message))

    def drain(self) -> None:
        try:
            while self._theirs.recv(1 << 20):
                pass
        except BlockingIOError:
            return


def filled(batch: int, stop: tuple[bytes, ...], door: SocketDoor) -> Stepper:
    """A stepper with `batch` sequences that decode."""
    stepper = Stepper(IdleEngine(), lambda token: b"A")  # type: ignore[arg-type]
    prompt = np.full(PROMPT_TOKENS, 66, np.int32)
    tokens_max = STEPS * ROUNDS + STEPS
    payload = PromptPayload(prompt=pack_tokens(prompt), chain_root=bytes(16), stop=stop, stop_tokens=(2,))
    pages = tuple(range((PROMPT_TOKENS + tokens_max) // PAGE_TOKENS + 1))
    prompts, tables = [], []
    for index in range(batch):
        fact = TargetRequested(
            request=f"request-{index:08d}",
            attempt=1,
            door="door-0@1",
            model="idle",
            prompt_tokens=PROMPT_TOKENS,
            page_hashes=(bytes(16),),
            starts=(SequenceStart(0, 0),),
            tokens_max=tokens_max,
        )
        recipe = join(("idle", OPEN_END))
        stream = Stream(fact, payload, recipe, door, page_tokens=PAGE_TOKENS, context_tokens_max=1 << 20)
        stepper.open(stream)
        prompts.append(PromptSpan(*stream.key, 0, 0, PROMPT_TOKENS, "idle", True))
        tables.append(TablePart(*stream.key, 0, 0, pages))
    run = RunSteps(run=0, steps_max=1, prompts=tuple(prompts), tables=tuple(tables), predicted_ns=0)
    stepper.run(run, lambda: False)
    return stepper


def microseconds(batch: int, stop: tuple[bytes, ...]) -> list[float]:
    """CPU time of a step, one figure a round of 20 steps."""
    door = SocketDoor()
    stepper = filled(batch, stop, door)
    run = RunSteps(run=1, steps_max=STEPS, prompts=(), tables=(), predicted_ns=0)
    rounds = []
    for _ in range(ROUNDS):
        door.drain()
        started_ns = time.thread_time_ns()
        ran = stepper.run(run, lambda: False)
        rounds.append((time.thread_time_ns() - started_ns) / ran.steps / 1000)
    return rounds


def main() -> int:
    arguments = argument_parser(__doc__).parse_args()
    rows = []
    for batch in (1, 8, 64):
        for stop, name in (((), ""), ((b"\n\n", b"###"), ", two stop strings")):
            best, median = best_and_median(microseconds(batch, stop), lower_is_better=True)
            must = "< 150" if batch == 8 else None
            rows.append(Row(name=f"step of {batch}{name}: median", value=median, unit="us", must=must))
            rows.append(Row(name=f"step of {batch}{name}: best", value=best, unit="us"))
    return finish("steploop", rows, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
