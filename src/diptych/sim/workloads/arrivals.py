"""Traffic of requests that have nothing to do with each other: Poisson, bursts, a closed loop."""

from __future__ import annotations

import random
from collections.abc import Iterator

import msgspec

from diptych.sim.workloads.ask import SECOND_NS, Ask, BadWorkload, Listed
from diptych.sim.workloads.lengths import lengths
from diptych.sim.workloads.text import Text

REFUSED_NS = SECOND_NS
"""A refused client comes back after so much longer."""


class Shape(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Lengths of prompts and answers, and what all prompts begin with."""

    input: str = "512"
    output: str = "128"
    shared: int = 0
    """Tokens at the beginning of every prompt that all have in common."""

    def maker(self, seed: int) -> Maker:
        return Maker(self, seed)


class Maker:
    """Draws requests of one shape; one stream of random numbers for lengths alone."""

    def __init__(self, shape: Shape, seed: int) -> None:
        self._input = lengths("input", shape.input)
        self._output = lengths("output", shape.output)
        self._random = random.Random(f"lengths {seed}")
        if shape.shared < 0:
            raise BadWorkload(f"shared: {shape.shared}; at least 0")
        self._system = Text().then("system", shape.shared)

    def ask(self, number: int, at_ns: int) -> Ask:
        own = max(1, self._input(self._random) - self._system.tokens)
        output = self._output(self._random)
        return Ask(
            request=f"r{number}",
            at_ns=at_ns,
            text=self._system.then(f"prompt {number}", own),
            outputs=(output,),
            tokens_max=output,
        )


def poisson(shape: Shape, *, rate: float, requests: int, seed: int) -> Listed:
    """Independent arrivals, `rate` a second on average."""
    check("rate", rate, 1e-6, 1e6)
    check("requests", requests, 1, 10_000_000)
    maker, arrivals = shape.maker(seed), random.Random(f"arrivals {seed}")
    asks, at_s = [], 0.0
    for number in range(requests):
        at_s += arrivals.expovariate(rate)
        asks.append(maker.ask(number, round(at_s * SECOND_NS)))
    return Listed(asks)


def bursts(shape: Shape, *, size: int, every_s: float, requests: int, seed: int) -> Listed:
    """`size` requests at once, every `every_s` seconds."""
    check("size", size, 1, 1_000_000)
    check("every", every_s, 1e-6, 1e6)
    check("requests", requests, 1, 10_000_000)
    maker = shape.maker(seed)
    gap_ns = round(every_s * SECOND_NS)
    return Listed([maker.ask(number, number // size * gap_ns) for number in range(requests)])


class ClosedLoop:
    """`clients` clients: each asks, reads its answer, thinks for so long, and asks again."""

    def __init__(self, shape: Shape, *, clients: int, think_s: float, requests: int, seed: int) -> None:
        check("clients", clients, 1, 1_000_000)
        check("think", think_s, 0, 1e6)
        check("requests", requests, 1, 10_000_000)
        self.total: int | None = requests
        self._clients = min(clients, requests)
        self._think = random.Random(f"think {seed}")
        self._think_s = think_s
        self._maker = shape.maker(seed)
        self._made = 0

    def asks(self) -> Iterator[Ask]:
        """The first of each client, spread over one pause."""
        firsts = sorted(self._pause_ns() for _ in range(self._clients))
        return iter([self._next(at_ns) for at_ns in firsts])

    def ended(self, ask: Ask, now_ns: int, *, served: bool) -> Ask | None:
        assert self.total is not None
        if self._made >= self.total:
            return None
        return self._next(now_ns + self._pause_ns() + (0 if served else REFUSED_NS))

    def _next(self, at_ns: int) -> Ask:
        self._made += 1
        return self._maker.ask(self._made - 1, at_ns)

    def _pause_ns(self) -> int:
        return round(self._think.expovariate(1 / self._think_s) * SECOND_NS) if self._think_s else 0


def check(name: str, value: float, least: float, most: float) -> None:
    """Raises `BadWorkload` naming the field and its limits."""
    if not least <= value <= most:
        raise BadWorkload(f"{name}: {value:g}; {least:g} to {most:g}")
