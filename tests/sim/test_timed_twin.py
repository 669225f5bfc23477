"""The world of times and counts tells the machines what the proving world tells them, fact by fact."""

from __future__ import annotations

import random

import msgspec
import pytest

from diptych.core.actions import Action
from diptych.core.facts import Fact
from diptych.sim.costs.file import LinkCosts
from diptych.sim.costs.model import PS_PER_NS, Spans
from diptych.sim.driver import Happening, Seat
from diptych.sim.scenario import MILLISECOND_NS, RequestPlan, Scenario, WorkerPlan
from diptych.sim.timed.events import Asked
from diptych.sim.timed.meter import Meter
from diptych.sim.timed.seat import TimedSeat
from diptych.sim.timed.world import TimedWorld
from diptych.sim.trace import Recorder
from diptych.sim.workloads.ask import Ask
from diptych.sim.workloads.text import Text
from diptych.sim.world import World


class ProvenCosts(msgspec.Struct):
    """What the proving step loop charges."""

    plan: WorkerPlan

    @property
    def sample_ps(self) -> int:
        return 0

    def prompt_ps(self, spans: Spans) -> int:
        return sum(count for _, count in spans) * self.plan.prefill_ns_per_token * PS_PER_NS

    def decode_line(self, sequences: int) -> tuple[int, int]:
        plan = self.plan
        return (plan.decode_ns_per_step + plan.decode_ns_per_sequence * sequences) * PS_PER_NS, 0

    def mixed_ps(self, spans: Spans, sequences: int, context_tokens: int) -> int:
        return self.prompt_ps(spans) + self.decode_line(sequences)[0]


class Lines:
    """Facts and actions as golden traces write them; the proven world has control's generation in its
    name, and an agent on each host."""

    def __init__(self) -> None:
        self.recorder = Recorder(steps_max=None)

    def __call__(
        self, now_ns: int, seat: Seat | TimedSeat, sender: str, fact: Fact, asked: tuple[Action, ...]
    ) -> None:
        self.recorder(now_ns, seat, sender, fact, asked)

    def text(self) -> list[str]:
        lines = (line.replace("control#1", "control") for line in self.recorder.lines)
        return [line.replace("agent host-0", "supervisor") for line in lines]


class Askers:
    def __init__(self, world: TimedWorld, asks: list[Ask]) -> None:
        self.world = world
        world.driver.parties["clients"] = self
        for ask in asks:
            world.at(ask.at_ns, "clients", "clients", Asked(ask))

    def receive(self, now_ns: int, sender: str, event: Happening, payload: object) -> None:
        assert isinstance(event, Asked)
        self.world.door.ask(now_ns, event.ask)


def asked(plan: RequestPlan) -> Ask:
    text = Text()
    for stream, count in plan.prompt:
        text = text.then(stream, count)
    return Ask(
        request=plan.request,
        at_ns=plan.at_ns,
        text=text,
        outputs=plan.lengths,
        tokens_max=plan.tokens_max,
        tenant=plan.tenant,
        priority=plan.priority,
    )


def traffic(seed: int, *, tight: bool) -> Scenario:
    """Requests that meet: shared prompts, several sequences, two of each kind of worker."""
    draw = random.Random(seed)
    names = ("prefill-0", "prefill-1", "decode-0", "decode-1") if seed % 2 else ("prefill-0", "decode-0")
    workers = tuple(
        WorkerPlan(
            name=name,
            role=name.partition("-")[0],
            numerics=("int4", "int8") if name.startswith("decode") else ("int8", "int4"),
            pages=draw.choice([16, 24]) if tight else 200,
            prefill_ns_per_token=draw.choice([50_000, 130_001]),
            decode_ns_per_step=draw.choice([1, 3]) * MILLISECOND_NS + draw.randrange(1000),
            decode_ns_per_sequence=draw.choice([0, 77_777]),
        )
        for name in names
    )
    requests, at_ns = [], 100 * MILLISECOND_NS
    for number in range(40):
        at_ns += draw.randrange(12 * MILLISECOND_NS)
        lengths = tuple(draw.randint(1, 20) for _ in range(draw.choice([1, 1, 1, 2])))
        prompt = ((draw.choice("ab"), draw.randint(1, 20)), (f"own {number}", draw.randint(1, 12)))
        requests.append(
            RequestPlan(
                request=f"r{number}",
                at_ns=at_ns,
                prompt=prompt,
                lengths=lengths,
                tokens_max=draw.choice([12, 64]),
            )
        )
    return Scenario(seed=seed, workers=workers, requests=tuple(requests))


def proven(scenario: Scenario, until_ns: int) -> list[str]:
    world, lines = World(scenario), Lines()
    world.observers = [lines]
    world.driver.run(lambda: False, until_ns)
    assert len(world.done) == len(scenario.requests)
    return lines.text()


def timed(scenario: Scenario, until_ns: int) -> list[str]:
    costs = {plan.name: ProvenCosts(plan) for plan in scenario.workers}
    link = LinkCosts(latency_ns=scenario.latency_ns)
    lines = Lines()
    world = TimedWorld(scenario, costs, link, Meter(link.latency_ns), watch=lines)
    Askers(world, [asked(plan) for plan in scenario.requests])
    world.driver.run(lambda: False, until_ns)
    assert len(world.meter.served) == len(scenario.requests)
    return lines.text()


@pytest.mark.parametrize("tight", [False, True], ids=["room", "tight"])
@pytest.mark.parametrize("seed", range(6))
def test_both_worlds_tell_the_machines_the_same(seed: int, tight: bool) -> None:
    scenario = traffic(seed, tight=tight)
    until_ns = 3_000 * MILLISECOND_NS
    there, here = proven(scenario, until_ns), timed(scenario, until_ns)
    differs = next((n for n, (a, b) in enumerate(zip(there, here, strict=False)) if a != b), None)
    assert differs is None, f"line {differs}:\n  proven {there[differs]}\n  timed  {here[differs]}"
    assert len(there) == len(here)
    assert len(here) > 500


def test_preemption_is_part_of_it() -> None:
    assert any(
        "PauseStream" in line for seed in range(6) for line in timed(traffic(seed, tight=True), 3 * 10**9)
    )
