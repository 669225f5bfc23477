"""Conversations that grow: a system prompt that all share, and a history that each turn repeats."""

from __future__ import annotations

import random
from collections.abc import Iterator

from diptych.sim.workloads.arrivals import check
from diptych.sim.workloads.ask import SECOND_NS, Ask
from diptych.sim.workloads.lengths import lengths
from diptych.sim.workloads.text import Text


class Agents:
    """Conversations begin as a Poisson process. Every turn's prompt is all that was said before and some
    new tokens (a question, a tool's result); after the answer the agent is busy for a while."""

    def __init__(
        self,
        *,
        rate: float,
        conversations: int,
        turns: str,
        system: int,
        input: str,
        output: str,
        think_s: float,
        seed: int,
    ) -> None:
        check("rate", rate, 1e-6, 1e6)
        check("conversations", conversations, 1, 1_000_000)
        check("system", system, 0, 1 << 24)
        check("think", think_s, 0, 1e6)
        self._rate = rate
        self._conversations = conversations
        self._input = lengths("input", input)
        self._output = lengths("output", output)
        self._think_s = think_s
        self._system = Text().then("system", system)
        self._seed = seed
        draw, of_turns = lengths("turns", turns), random.Random(f"turns {seed}")
        self._turns = [draw(of_turns) for _ in range(conversations)]
        self.total: int | None = sum(self._turns)

    def asks(self) -> Iterator[Ask]:
        arrivals, at_s = random.Random(f"arrivals {self._seed}"), 0.0
        for number in range(self._conversations):
            at_s += arrivals.expovariate(self._rate)
            yield self._ask(number, 0, round(at_s * SECOND_NS), self._system)

    def ended(self, ask: Ask, now_ns: int, *, served: bool) -> Ask | None:
        number, turn = int(ask.request[1:].partition(".")[0]), ask.turn + 1
        if not served or turn >= self._turns[number]:
            return None
        # One stream of random numbers a turn: what others do in between changes nothing.
        pause = random.Random(f"think {self._seed} {number} {turn}")
        pause_ns = round(pause.expovariate(1 / self._think_s) * SECOND_NS) if self._think_s else 0
        said = ask.text.then(ask.answer(0), min(ask.outputs[0], ask.tokens_max))
        return self._ask(number, turn, now_ns + pause_ns, said)

    def _ask(self, number: int, turn: int, at_ns: int, before: Text) -> Ask:
        counts = random.Random(f"lengths {self._seed} {number} {turn}")
        added, output = self._input(counts), self._output(counts)
        return Ask(
            request=f"c{number}.{turn}",
            at_ns=at_ns,
            text=before.then(f"turn {number}.{turn}", added),
            outputs=(output,),
            tokens_max=output,
            turn=turn,
        )
