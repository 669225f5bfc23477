"""What the pure core costs: time in `step` over all machines for a request of 512 tokens in, 128 out.

A run of the simulator is recorded (every fact that each machine was told, and when), then replayed into
fresh machines in a tight loop with nothing else in it. The same facts pushed through a bare heap of
(at_ns, serial, machine, fact) entries in the same rounds say how far from nothing that is.
"""

from __future__ import annotations

import argparse
import gc
import heapq
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from builds import add_option, build, elsewhere, others, print_one
from diptych.core.actions import Action
from diptych.core.config import ControlConfig
from diptych.core.control import ControlPlane
from diptych.core.facts import Fact, RequestArrived, TargetReserved
from diptych.core.worker import Worker
from diptych.sim.driver import Machine, Seat
from diptych.sim.scenario import MILLISECOND_NS, RequestPlan, Scenario, WorkerPlan
from diptych.sim.world import World
from prioritised import pinned, take_priority
from report import Row, argument_parser, best_and_median, finish

PROMPT_TOKENS = {16: 512, 512: 513}
"""By page size: a page of 512 tokens is full before the last token only when there is one more."""
OUTPUT_TOKENS = 128
ARRIVAL_NS = 80 * MILLISECOND_NS
"""Mean time between arrivals: about eight streams decode together."""
TURNS = 2
"""Times that the builds are measured, one after the other."""

Entry = tuple[int, int, int, Fact]
"""(at_ns, serial, index of the machine, fact)"""
Maker = Callable[[], Machine]


def scenario(page_tokens: int, prompt_tokens: int, requests: int) -> Scenario:
    pages = 32_768 // page_tokens
    rates = {"prefill_ns_per_token": 100_000, "decode_ns_per_step": 4 * MILLISECOND_NS, "pages": pages}
    live = {"quantum_tokens": 32, "chunk_tokens": 512, "mixed_chunk_tokens": 64}
    workers = (
        WorkerPlan(name="prefill-0", role="prefill", numerics=("int8", "int4"), **rates, **live),
        WorkerPlan(name="decode-0", role="decode", numerics=("int4", "int8"), **rates, **live),
    )
    arrivals = random.Random("arrivals")
    at_ns, plans = 100 * MILLISECOND_NS, []
    for number in range(requests):
        at_ns += int(arrivals.expovariate(1 / ARRIVAL_NS))
        plans.append(
            RequestPlan(
                request=f"r{number}",
                at_ns=at_ns,
                prompt=((f"prompt {number}", prompt_tokens),),
                lengths=(OUTPUT_TOKENS,),
                tokens_max=OUTPUT_TOKENS,
            )
        )
    return Scenario(workers=workers, requests=tuple(plans), page_tokens=page_tokens)


class Recording:
    """The facts of one run in order, and how to make the machines that took them."""

    def __init__(self, plan: Scenario) -> None:
        self.entries: list[Entry] = []
        self.makers: list[Maker] = []
        self.actions = 0
        self._index: dict[str, int] = {}
        world = World(plan)
        world.observers = [self._note]
        if not world.driver.run(world.idle, plan.horizon_ns):
            raise RuntimeError("the simulated requests did not end")
        served = [client for client in world.done if client.complete()]
        if len(served) != len(plan.requests):
            raise RuntimeError(f"{len(served)} of {len(plan.requests)} requests were served")
        self.handed_over = sum(bool(client.record and client.record.handoff_pages) for client in served)

    def _note(self, now_ns: int, seat: Seat, sender: str, fact: Fact, asked: tuple[Action, ...]) -> None:
        if seat.name not in self._index:
            self._index[seat.name] = len(self.makers)
            self.makers.append(_maker(seat.machine))
        self.entries.append((now_ns, len(self.entries), self._index[seat.name], fact))
        self.actions += len(asked)

    def replay_ns(self) -> int:
        """Time in `step` over all machines, the calls included."""
        steps = [maker().step for maker in self.makers]
        work = [(steps[index], at_ns, fact) for at_ns, _, index, fact in self.entries]
        begun = time.perf_counter_ns()
        for step, at_ns, fact in work:
            step(at_ns, fact)
        return time.perf_counter_ns() - begun

    def check(self) -> None:
        """Fresh machines do what the recorded ones did."""
        machines = [maker() for maker in self.makers]
        asked = sum(len(machines[index].step(at_ns, fact)) for at_ns, _, index, fact in self.entries)
        if asked != self.actions:
            raise RuntimeError(f"the replay asked for {asked} actions, the run for {self.actions}")

    def deadlines_ns(self) -> int:
        """Time in `next_deadline_ns`, which a driver asks after every step."""
        machines = [maker() for maker in self.makers]
        spent = 0
        for at_ns, _, index, fact in self.entries:
            machines[index].step(at_ns, fact)
            begun = time.perf_counter_ns()
            machines[index].next_deadline_ns()
            spent += time.perf_counter_ns() - begun
        return spent

    def router_ns(self) -> int:
        """Time that the router takes when it is asked again, after every fact that had it asked."""
        machines = [maker() for maker in self.makers]
        spent = 0
        for at_ns, _, index, fact in self.entries:
            machine = machines[index]
            machine.step(at_ns, fact)
            if not isinstance(machine, ControlPlane) or not isinstance(fact, RequestArrived | TargetReserved):
                continue
            request = machine.requests.open.get(fact.request)
            if request is None or request.need is None:
                continue
            router, need = machine.requests.dispatch.router, request.need
            begun = time.perf_counter_ns()
            if isinstance(fact, TargetReserved):
                target = machine.fleet.workers[fact.worker]
                route = router.replan(target, fact.held_tokens, need, at_ns)
                assert route is not None
                router.reasons(route, need)
            else:
                router.route(need, at_ns)
            spent += time.perf_counter_ns() - begun
        return spent

    def heap_ns(self) -> int:
        """A bare heap, 40 deep as a simulator's is, through which the same facts pass."""
        entries, heap = self.entries, self.entries[:40]
        push, pop = heapq.heappush, heapq.heappop
        begun = time.perf_counter_ns()
        for entry in entries:
            push(heap, entry)
            pop(heap)
        return time.perf_counter_ns() - begun


def _maker(machine: Machine) -> Maker:
    if isinstance(machine, Worker):
        return lambda config=machine.config: Worker(config)
    return lambda: ControlPlane(msgspec.structs.replace(ControlConfig(), epoch=1))


class Figures:
    """Rounds of one build: us a request each."""

    def __init__(self, recording: Recording, requests: int, rounds: int) -> None:
        self.figures: dict[str, list[float]] = {"core": [], "heap": [], "router": [], "deadline": []}
        recording.check()
        gc.disable()
        for _ in range(rounds):
            self.figures["core"].append(recording.replay_ns() / requests / 1e3)
            self.figures["heap"].append(recording.heap_ns() / requests / 1e3)
            self.figures["router"].append(recording.router_ns() / requests / 1e3)
            self.figures["deadline"].append(recording.deadlines_ns() / requests / 1e3)
            gc.collect()
        gc.enable()


def recorded(page_tokens: int, requests: int) -> Recording:
    return Recording(scenario(page_tokens, PROMPT_TOKENS[page_tokens], requests))


def measure(page_tokens: int, must: str, options: argparse.Namespace, pythons: list[Path]) -> list[Row]:
    recording = recorded(page_tokens, options.requests)
    figures: dict[str, dict[str, list[float]]] = {}
    for _ in range(TURNS):
        rounds = -(-options.rounds // TURNS)
        _add(figures, build(), Figures(recording, options.requests, rounds).figures)
        for python in pythons:
            asked = (str(page_tokens), str(options.requests), str(rounds))
            _add(figures, "compiled", elsewhere(python, Path(__file__), *asked))
    facts = len(recording.entries) / options.requests
    label = f"{page_tokens}-token pages, {PROMPT_TOKENS[page_tokens]} in"
    handed = f"{recording.handed_over / options.requests:.0%} of requests handed over"
    rows = [Row(name=f"facts, {label} ({handed})", value=facts, unit="facts/request")]
    for name, found in figures.items():
        rows += _rows(f"{name}, {label}", found, facts, must)
    if len(figures) == 2:
        interpreted, compiled = (min(found["core"]) for found in figures.values())
        rows.append(
            Row(
                name=f"what compiling is worth, {label}",
                value=interpreted / compiled,
                unit="x",
            )
        )
    return rows


def _add(figures: dict[str, dict[str, list[float]]], name: str, more: dict[str, list[float]]) -> None:
    found = figures.setdefault(name, {})
    for figure, values in more.items():
        found.setdefault(figure, []).extend(values)


def _rows(label: str, found: dict[str, list[float]], facts: float, must: str) -> list[Row]:
    best, median = best_and_median(found["core"], lower_is_better=True)
    heap_best = min(found["heap"])
    return [
        Row(name=f"core {label}: best", value=best, unit="us/request", must=must, goal="<= 50"),
        Row(name=f"core {label}: median of {len(found['core'])}", value=median, unit="us/request"),
        Row(name=f"its router, {label}", value=min(found["router"]), unit="us/request"),
        Row(name=f"next_deadline_ns beside it, {label}", value=min(found["deadline"]), unit="us/request"),
        Row(
            name=f"facts/s, {label}",
            value=facts / best * 1e6,
            unit="facts/s",
            against=f"bare heap push and pop, {facts / heap_best * 1e6:.3g} facts/s",
            ratio=heap_best / best,
        ),
    ]


def main() -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--requests", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--one", type=int, nargs=3, metavar=("PAGE", "REQUESTS", "ROUNDS"))
    add_option(parser)
    options = parser.parse_args()
    if options.one is not None:
        page_tokens, requests, rounds = options.one
        return print_one(Figures(recorded(page_tokens, requests), requests, rounds).figures)
    words, pythons = take_priority(), others(options.compiled)
    with pinned() as cpu:
        rows = measure(16, "<= 150", options, pythons) + measure(512, "<= 100", options, pythons)
    return finish("core", rows, options.json, packages=("msgspec",), extra={"run": f"{words}, CPU {cpu}"})


if __name__ == "__main__":
    sys.exit(main())
