"""A workload on both sides of the fidelity comparison: served live, and simulated."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from comparison import Difference, Request, Sample, Values, compare, sample
from diptych.core.config import WorkerConfig
from diptych.sim.costs.file import CostFile
from diptych.sim.fleet import Limits, plan_fleet, read_groups
from diptych.sim.timed.plan import Plan
from diptych.sim.timed.replay import replay
from diptych.sim.timed.step_loop import Run
from diptych.sim.timed.stream import Stream
from diptych.sim.workloads.spec import Common, read_workload
from fleet import Fleet
from traffic import Traffic, Trip, Wording

RECORDS_LIMIT_S = 5.0


class Bounds(msgspec.Struct, frozen=True):
    """Largest errors of percentiles and of throughput."""

    percentile: float
    throughput: float


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """A fleet to compare, and how much of each workload it gets."""

    workers: str
    """Fleet file."""
    vocabulary: range
    clients: int
    """That saturate it."""
    saturating: int
    """Requests of each workload."""
    loaded: int
    few: int
    must: Bounds | None = None
    goal: Bounds | None = None

    def quick(self) -> Setup:
        return msgspec.structs.replace(
            self, saturating=self.saturating // 3, loaded=self.loaded // 3, few=self.few // 2
        )


SETUPS = {
    "scripted": Setup(
        workers="""
[[worker]]
role = "prefill"
engine = "scripted"
options = {step_ns = 2000000, prompt_token_ns = 200000, decode_row_ns = 300000}

[[worker]]
role = "decode"
engine = "scripted"
count = 2
options = {step_ns = 5000000, prompt_token_ns = 200000, decode_row_ns = 300000}
""",
        vocabulary=range(97, 123),
        clients=24,
        saturating=600,
        loaded=600,
        few=150,
        must=Bounds(0.10, 0.05),
    ),
    "native": Setup(
        workers='[[worker]]\nrole = "prefill"\n\n[[worker]]\nrole = "decode"\n',
        vocabulary=range(1000, 40000),
        clients=16,
        saturating=240,
        loaded=320,
        few=60,
        goal=Bounds(0.15, 0.10),
    ),
}


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """One workload and what both sides made of it."""

    fleet: str
    name: str
    spec: str
    """As `diptych simulate --workload` takes it."""
    load: float
    """Requests a second that were served live, as a share of the capacity."""
    saturated: bool
    host_load: float
    """Processes that wanted a core meanwhile (/proc/loadavg)."""
    live: Sample
    simulated: Sample
    differences: list[Difference]


class Side:
    """What is needed to serve one fleet's workloads on both sides."""

    def __init__(self, name: str, setup: Setup, running: Fleet, costs: CostFile, folder: Path) -> None:
        self.name = name
        self.setup = setup
        self.costs = costs
        self._running = running
        self._records = folder / "records.jsonl"
        self._model = running.client.model()
        file, groups = read_groups(folder / "fleet.toml", (), ())
        pages = {worker["name"]: worker["pages"]["total"] for worker in running.client.status()["workers"]}
        defaults = {field.name: field.default for field in msgspec.structs.fields(WorkerConfig)}
        limits = Limits(
            page_tokens=defaults["page_tokens"],
            pages=min(pages.values()),
            chunk_tokens=defaults["chunk_tokens"],
            mixed_chunk_tokens=defaults["mixed_chunk_tokens"],
            quantum_tokens=defaults["quantum_tokens"],
            running_max=defaults["running_max"],
        )
        self.plan: Plan = plan_fleet(file, groups, costs, limits)

    def both(
        self, name: str, spec: str, tail: int, capacity: float | None, progress: Callable[[int], None]
    ) -> tuple[Cell, float]:
        """The workload on both sides, and its requests' mean time from end to end live, in s."""
        warm_up = max(2, requests_of(spec) // 8)
        trips = self._served(spec, progress)
        host_load = os.getloadavg()[0]
        live = sample(self._live(trips), warm_up, tail)
        simulated = simulate(self.plan, self.costs, spec, warm_up, tail)
        cell = Cell(
            fleet=self.name,
            name=name,
            spec=spec,
            load=live.requests_per_s / capacity if capacity else 1.0,
            saturated=capacity is None,
            host_load=host_load,
            live=live,
            simulated=simulated,
            differences=compare(live, simulated),
        )
        return cell, float(np.mean([trip.end_ns - trip.sent_ns for trip in trips])) / 1e9

    def _served(self, spec: str, progress: Callable[[int], None]) -> list[Trip]:
        wording = Wording(self._model, self.setup.vocabulary, spec)
        workload = read_workload(spec, Common())
        return asyncio.run(Traffic(self._running.client.port, workload, wording, progress).run())

    def _live(self, trips: Sequence[Trip]) -> list[Request]:
        """With the door's view of each. Raises `TimeoutError` where the records do not come."""
        limit_s, doors = time.monotonic() + RECORDS_LIMIT_S, {}
        while not all(trip.id in doors for trip in trips):
            if time.monotonic() > limit_s:
                raise TimeoutError("the door has not written a record of every request")
            lines = self._records.read_text(encoding="utf-8").splitlines()
            doors = {record["id"]: record["ttft_ms"] for record in map(json.loads, lines)}
        return [
            Request(
                number=number_of(trip.request),
                ttft_ns=trip.first_ns - trip.sent_ns,
                door_ttft_ns=round(doors[trip.id] * 1e6),
                end_ns=trip.end_ns,
                output_tokens=trip.output_tokens,
                pieces_ns=trip.pieces_ns,
            )
            for trip in trips
        ]


def requests_of(spec: str) -> int:
    total = read_workload(spec, Common()).total
    assert total is not None
    return total


def number_of(request: str) -> int:
    """Synthetic workloads count their requests: r0, r1, ..."""
    return int(request[1:])


class Gaps:
    """Times between tokens as the simulator has them, from the end of so many requests on."""

    def __init__(self, warm_up: int) -> None:
        self.ps: list[int] = []
        self.counts: list[int] = []
        """Sequences that had each."""
        self._left = warm_up

    def ran(self, worker: str, run: Run, steps: int, begun_ns: int, now_ns: int) -> None:
        if self._left > 0:
            return
        if run.before:
            self.ps.append(run.at_ps(1) - run.origin_ps + run.since_ps)
            self.counts.append(run.before)
        for step in range(1, steps):
            self.ps.append(run.at_ps(step + 1) - run.at_ps(step))
            self.counts.append(run.before + len(run.fresh))

    def served(self, stream: Stream) -> None:
        self._left -= 1

    def ms(self) -> Values:
        return np.repeat(np.array(self.ps, np.float64) / 1e9, self.counts)


def simulate(plan: Plan, costs: CostFile, spec: str, warm_up: int, tail: int) -> Sample:
    """Raises `RuntimeError` where a request fails."""
    gaps = Gaps(warm_up)
    world = replay(plan, read_workload(spec, Common()), tracer=gaps)
    served = []
    for one in world.meter.served:
        if one.first_ns is None or one.failure is not None:
            raise RuntimeError(f"{spec}: {one.request} was not served: {one.failure}")
        ttft_ns = one.first_ns - one.arrived_ns
        outside_ns = costs.host.request_ns + costs.host.prompt_token_ns * one.prompt_tokens
        served.append(
            Request(
                number=number_of(one.request),
                ttft_ns=ttft_ns,
                door_ttft_ns=ttft_ns - outside_ns,
                end_ns=one.end_ns,
                output_tokens=one.output_tokens,
            )
        )
    return sample(served, warm_up, tail, gaps.ms())
