"""What a request takes besides engines: timed on a fleet whose engines compute nothing, and put down to
what the simulator knows (messages, the door, the pause between two runs).

The simulator serves the same requests with messages that take no time, then some: what is missing to
what was timed, by messages on the way, is what a message takes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import msgspec

from diptych.core.config import WorkerConfig
from diptych.live.fleet_file import FleetFile, WorkerGroup
from diptych.sim.costs.file import CostFile, HostCosts, LinkCosts
from diptych.sim.costs.free_fleet import FreeFleet, Timed
from diptych.sim.costs.measured import MeasuredCosts

SHORT_TOKENS, LONG_TOKENS = 24, 1032
PACE_S = 0.02
"""Between two requests: a fleet that is never at rest has warmer caches than one that serves."""
BATCH = 16
_PROBE_NS = 1_000_000
_QUANTUM = next(f.default for f in msgspec.structs.fields(WorkerConfig) if f.name == "quantum_tokens")


class Samples(msgspec.Struct, frozen=True):
    """What was timed on the free fleet."""

    short: tuple[Timed, ...]
    long: tuple[Timed, ...]
    streams: tuple[Timed, ...]
    """Long answers, one after the other."""
    door_token_ns: int
    """The door's processor time for a token of a full batch."""


Note = Callable[[str], None]


def take(fleet: FreeFleet, note: Note, rounds: int = 60) -> Samples:
    """Times requests for some seconds."""
    short: list[Timed] = []
    long: list[Timed] = []
    note("what a request takes besides engines")
    for number in range(rounds + 5):
        for tokens, taken in ((SHORT_TOKENS, short), (LONG_TOKENS, long)):
            time.sleep(PACE_S)
            timed = fleet.ask(tokens, 1)
            if number >= 5:
                taken.append(timed)
    note("the pause between two runs")
    streams = [fleet.ask(SHORT_TOKENS, 6 * _QUANTUM) for _ in range(max(4, rounds // 3))]
    note("what a door does for a token")
    before_ns, tokens = fleet.door_cpu_ns(), 0
    for _ in range(max(1, rounds // 20)):
        answers = fleet.ask_at_once(BATCH, SHORT_TOKENS, 8 * _QUANTUM)
        tokens += sum(len(answer.pieces_ns) for answer in answers)
    door_token_ns = (fleet.door_cpu_ns() - before_ns) // max(1, tokens)
    return Samples(tuple(short), tuple(long), tuple(streams), door_token_ns)


def solve(samples: Samples, engine: MeasuredCosts, page_ns: int) -> tuple[LinkCosts, HostCosts]:
    """`engine`: what the fleet's engines cost although they compute nothing; `page_ns`: what a message takes
    for each page that it names."""
    turnaround_ns = pause_ns(samples.streams)
    host = HostCosts(turnaround_ns=turnaround_ns)
    link = LinkCosts(latency_ns=0, page_ns=page_ns)
    nothing_ns = simulated_ttft_ns(SHORT_TOKENS, engine, link, host)
    probe = LinkCosts(latency_ns=_PROBE_NS, page_ns=page_ns)
    messages = (simulated_ttft_ns(SHORT_TOKENS, engine, probe, host) - nothing_ns) / _PROBE_NS
    door_ns = statistics.median(timed.door_ttft_ns for timed in samples.short if timed.apart)
    link = LinkCosts(latency_ns=max(0, round((door_ns - nothing_ns) / messages)), page_ns=page_ns)
    besides = {}
    for tokens, timed in ((SHORT_TOKENS, samples.short), (LONG_TOKENS, samples.long)):
        seen_ns = statistics.median(one.client_ttft_ns for one in timed if one.apart)
        besides[tokens] = seen_ns - simulated_ttft_ns(tokens, engine, link, host)
    token_ns = max(0.0, (besides[LONG_TOKENS] - besides[SHORT_TOKENS]) / (LONG_TOKENS - SHORT_TOKENS))
    return link, HostCosts(
        request_ns=max(0, round(besides[SHORT_TOKENS] - SHORT_TOKENS * token_ns)),
        prompt_token_ns=round(token_ns),
        token_ns=samples.door_token_ns,
        turnaround_ns=turnaround_ns,
    )


def pause_ns(streams: Sequence[Timed]) -> int:
    """How much longer the gap between two runs is than one within a run. Runs of a stream alone are as long
    as they may be, so the longer gaps come at regular places."""
    gaps = [
        statistics.median(stream.pieces_ns[at + 1] - stream.pieces_ns[at] for stream in streams)
        for at in range(min(len(stream.pieces_ns) for stream in streams) - 1)
    ]
    within = statistics.median(gaps)
    between = max(statistics.median(gaps[first::_QUANTUM]) for first in range(min(_QUANTUM, len(gaps))))
    return max(0, round(between - within))


def simulated_ttft_ns(tokens: int, engine: MeasuredCosts, link: LinkCosts, host: HostCosts) -> float:
    """What the simulator makes of requests of so many tokens, one after the other, on the free fleet."""
    # The simulator reads cost files, of which this room is a part.
    from diptych.sim.fleet import Limits, plan_fleet
    from diptych.sim.timed.replay import replay
    from diptych.sim.workloads.arrivals import ClosedLoop, Shape

    groups = (
        WorkerGroup(role="prefill", engine="scripted"),
        WorkerGroup(role="decode", engine="scripted"),
    )
    costs = CostFile(workers={"scripted": engine}, link=link, host=host)
    shape = Shape(input=str(tokens), output="1")
    workload = ClosedLoop(shape, clients=1, think_s=PACE_S, requests=20, seed=0)
    world = replay(plan_fleet(FleetFile(), groups, costs, Limits()), workload)
    apart = [one for one in world.meter.served if one.prefill_worker is not None]
    return statistics.median(
        one.first_ns - one.arrived_ns for one in apart or world.meter.served if one.first_ns is not None
    )
