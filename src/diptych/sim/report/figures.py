"""The figures of one simulated run as one JSON-ready value. Times in seconds or milliseconds, as named."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec
import numpy as np

from diptych.sim.timed.meter import Meter
from diptych.sim.timed.served import Served, WorkerTime
from diptych.sim.timed.world import TimedWorld

PERCENTILES = (50, 90, 99)
PS_PER_S = 1e12
INTERRUPTED = {"preempted", "target lost", "source lost"}


class Slo(msgspec.Struct, frozen=True, kw_only=True):
    """What a request must keep to count as good; None: no limit."""

    ttft_ms: float | None = None
    itl_ms: float | None = None
    """Of the mean time between the tokens of a stream."""


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """Percentiles in ms; None where there was nothing to measure."""

    p50: float | None
    p90: float | None
    p99: float | None
    mean: float | None
    max: float | None
    count: int


class WorkerFigures(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    role: str
    busy: float
    """Share of the time from the first arrival to the last end in which a run was under way."""
    prompt: float
    mixed: float
    decode: float
    """The parts of `busy`: prompt steps, steps with both, steps of decoding alone."""
    prompt_tokens: int
    output_tokens: int
    pages: int
    pages_held_max: float
    """Most of its pages that were in use at a sampled moment, as a share."""
    pages_held_mean: float
    pages_cached_mean: float
    steps: int
    steps_per_run: float


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    requests: int
    served: int
    failures: dict[str, int]
    resumed: int
    """Served although an attempt was preempted or lost its worker."""
    rerouted: int
    """Given to another target because the first one held less than control had thought."""
    worker_restarts: int
    duration_s: float
    """Virtual, from the start of the workload to the last end."""
    requests_per_s: float
    output_tokens_per_s: float
    prompt_tokens: int
    output_tokens: int
    ttft_ms: Spread
    itl_ms: Spread
    """Between any two tokens of a sequence, over all tokens."""
    e2e_ms: Spread
    queue_ms: Spread
    """Waiting at control for a target's pages to be asked for."""
    slo: Slo
    goodput_per_s: float
    """Requests a second that kept the SLO."""
    good: float
    """Their share of all requests, failed ones included."""
    splits: dict[str, int]
    """Of served requests: all of the prompt on D, all that can be from P, a part from P."""
    prefix_hit_share: float
    """Prompt tokens that nobody had to compute."""
    handoffs: int
    pages_handed_over: int
    bytes_handed_over: int
    """KV of those pages, whether it moved or was read where it lay."""
    bytes_moved: int
    """Over links."""
    handoff_ms: Spread
    queued_max: int
    queued_mean: float
    """At control or waiting for pages, at sampled moments."""
    workers: tuple[WorkerFigures, ...]
    samples: tuple[tuple[float, int, int, int, int, tuple[float, ...]], ...]
    """(s, queued at control, waiting for pages, prefilling, decoding, share of pages held by worker)."""


def figures(world: TimedWorld, slo: Slo) -> Figures:
    meter = world.meter
    served = [one for one in meter.served if one.failure is None]
    duration_s = max((one.end_ns for one in meter.served), default=0) / 1e9
    rate = 1 / duration_s if duration_s else 0.0
    good = sum(keeps(one, slo) for one in served)
    prompt_tokens = sum(one.prompt_tokens for one in served)
    handed = [one for one in served if one.handoff_pages]
    pages = sum(one.handoff_pages for one in served)
    waiting = [sample.queued + sample.reserving for sample in meter.samples]
    return Figures(
        requests=len(meter.served),
        served=len(served),
        failures=dict(Counter(one.failure for one in meter.served if one.failure is not None)),
        resumed=sum(bool(INTERRUPTED.intersection(one.attempts)) for one in served),
        rerouted=sum("rerouted" in one.attempts for one in served),
        worker_restarts=world.restarts(),
        duration_s=duration_s,
        requests_per_s=len(served) * rate,
        output_tokens_per_s=sum(one.output_tokens for one in served) * rate,
        prompt_tokens=prompt_tokens,
        output_tokens=sum(one.output_tokens for one in served),
        ttft_ms=spread([(one.first_ns - one.arrived_ns) for one in served if one.first_ns is not None]),
        itl_ms=weighted_spread(meter.gaps),
        e2e_ms=spread([one.end_ns - one.arrived_ns for one in served]),
        queue_ms=spread([one.queue_ns for one in served]),
        slo=slo,
        goodput_per_s=good * rate,
        good=good / len(meter.served) if meter.served else 0.0,
        splits=_splits(served, world.scenario.page_tokens),
        prefix_hit_share=_hits(served) / prompt_tokens if prompt_tokens else 0.0,
        handoffs=len(handed),
        pages_handed_over=pages,
        bytes_handed_over=pages * world.links.page_bytes,
        bytes_moved=world.links.bytes_landed,
        handoff_ms=spread([one.handoff_ns for one in handed]),
        queued_max=max(waiting, default=0),
        queued_mean=float(np.mean(waiting)) if waiting else 0.0,
        workers=tuple(_workers(world, duration_s)),
        samples=_samples(world),
    )


def keeps(one: Served, slo: Slo) -> bool:
    """Whether a served request kept the SLO."""
    if one.first_ns is None:
        return False
    if slo.ttft_ms is not None and (one.first_ns - one.arrived_ns) / 1e6 > slo.ttft_ms:
        return False
    return slo.itl_ms is None or one.gap_ns is None or one.gap_ns / 1e6 <= slo.itl_ms


def spread(durations_ns: Sequence[int]) -> Spread:
    """Percentiles by linear interpolation, in ms."""
    if not durations_ns:
        return Spread(p50=None, p90=None, p99=None, mean=None, max=None, count=0)
    values = np.asarray(durations_ns, np.float64) / 1e6
    p50, p90, p99 = (float(value) for value in np.percentile(values, PERCENTILES))
    return Spread(
        p50=p50, p90=p90, p99=p99, mean=float(values.mean()), max=float(values.max()), count=len(values)
    )


def weighted_spread(counted: Counter[int]) -> Spread:
    """Of durations in ns with how often each was seen: the smallest that so many do not exceed."""
    if not counted:
        return spread([])
    pairs = sorted(counted.items())
    values = np.array([value for value, _ in pairs], np.float64) / 1e6
    weights = np.array([count for _, count in pairs], np.int64)
    reached = np.cumsum(weights)
    total = int(reached[-1])
    found = [float(values[np.searchsorted(reached, total * p / 100)]) for p in PERCENTILES]
    mean = float((values * weights).sum() / total)
    return Spread(p50=found[0], p90=found[1], p99=found[2], mean=mean, max=float(values[-1]), count=total)


def _splits(served: Sequence[Served], page_tokens: int) -> dict[str, int]:
    splits = {"aggregated": 0, "partial": 0, "full": 0}
    for one in served:
        border = (one.prompt_tokens - 1) // page_tokens * page_tokens
        alone = one.prefill_worker is None
        splits["aggregated" if alone else "full" if one.split >= border else "partial"] += 1
    return splits


def _hits(served: Sequence[Served]) -> int:
    """Cached tokens as the records count them: what P or D found of the prompt."""
    return sum(min(one.cached_tokens, one.prompt_tokens) for one in served)


def _workers(world: TimedWorld, duration_s: float) -> list[WorkerFigures]:
    meter, result = world.meter, []
    for index, plan in enumerate(world.scenario.workers):
        time = meter.workers.get(plan.name, WorkerTime())
        held = [sample.pages[index][0] / plan.pages for sample in meter.samples] or [0.0]
        cached = [sample.pages[index][1] / plan.pages for sample in meter.samples] or [0.0]
        whole = duration_s * PS_PER_S or 1.0
        result.append(
            WorkerFigures(
                name=plan.name,
                role=plan.role,
                busy=(time.prompt_ps + time.mixed_ps + time.decode_ps) / whole,
                prompt=time.prompt_ps / whole,
                mixed=time.mixed_ps / whole,
                decode=time.decode_ps / whole,
                prompt_tokens=time.prompt_tokens,
                output_tokens=time.output_tokens,
                pages=plan.pages,
                pages_held_max=max(held),
                pages_held_mean=float(np.mean(held)),
                pages_cached_mean=float(np.mean(cached)),
                steps=time.steps,
                steps_per_run=time.steps / time.runs if time.runs else 0.0,
            )
        )
    return result


def _samples(world: TimedWorld) -> tuple[tuple[float, int, int, int, int, tuple[float, ...]], ...]:
    totals = [plan.pages for plan in world.scenario.workers]
    return tuple(
        (
            round(sample.at_ns / 1e9, 6),
            sample.queued,
            sample.reserving,
            sample.prefilling,
            sample.decoding,
            tuple(round(held / total, 4) for (held, _), total in zip(sample.pages, totals, strict=True)),
        )
        for sample in world.meter.samples
    )


def gap_histogram(meter: Meter) -> list[tuple[float, int]]:
    """(ms, tokens) of every class of gaps."""
    return [(gap / 1e6, count) for gap, count in sorted(meter.gaps.items())]
