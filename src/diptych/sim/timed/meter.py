"""What is measured while the simulation runs, in constant time for a run or a request."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Protocol

from diptych.core.ids import Incarnation, worker_name
from diptych.sim.costs.model import PS_PER_NS
from diptych.sim.timed.served import Sample, Served, WorkerTime
from diptych.sim.timed.stream import Stream

if TYPE_CHECKING:
    from diptych.sim.timed.step_loop import Run

_SIGNIFICANT_BITS = 9
"""Gaps between tokens are kept to 1 part in 256."""
SAMPLES_MAX = 256


class Tracer(Protocol):
    def ran(self, worker: Incarnation, run: Run, steps: int, begun_ns: int, now_ns: int) -> None: ...

    def served(self, stream: Stream) -> None: ...


class Meter:
    def __init__(self, latency_ns: int, tracer: Tracer | None = None, *, token_ns: int = 0) -> None:
        self.latency_ns = latency_ns
        """From a step loop to the client."""
        self.token_ns = token_ns
        """More for each token of the same step that is delivered first."""
        self.tracer = tracer
        self.base_ns = 0
        """When the workload began."""
        self.served: list[Served] = []
        self.gaps: Counter[int] = Counter()
        """Times between two tokens of a sequence in ns, and how often each was seen."""
        self.workers: dict[str, WorkerTime] = {}
        self.samples: list[Sample] = []
        self.sample_every_ns = 250_000_000
        self.runs = 0

    # ---- runs ---------------------------------------------------------------------------------------

    def time_of(self, worker: Incarnation) -> WorkerTime:
        """Of all its incarnations together."""
        return self.workers.setdefault(worker_name(worker), WorkerTime())

    def ran(self, worker: Incarnation, time: WorkerTime, run: Run, steps: int, end_ps: int) -> None:
        """So many steps of a run, the last of which ended then."""
        before, prompts = run.before, run.action.prompts
        self.runs += 1
        time.runs += 1
        time.steps += steps
        if steps < run.action.steps_max:
            time.ended_early += 1
        time.output_tokens += (before + len(run.fresh)) * steps
        first_end_ps = end_ps if steps == 1 else run.at_ps(1)
        first_ps = first_end_ps - run.origin_ps
        time.decode_ps += end_ps - first_end_ps
        for span in prompts:
            time.prompt_tokens += span.count
        if not prompts:
            time.decode_ps += first_ps
        elif before:
            time.mixed_ps += first_ps
        else:
            time.prompt_ps += first_ps
        if before:
            self.gaps[_rounded((first_ps + run.since_ps) // PS_PER_NS)] += before
        if steps > 1:
            self._later_gaps(run, steps)
        if self.tracer is not None:
            self.tracer.ran(worker, run, steps, run.origin_ps // PS_PER_NS, end_ps // PS_PER_NS)

    def _later_gaps(self, run: Run, steps: int) -> None:
        members = run.before + len(run.fresh)
        if run.bends:
            for step in range(1, steps):
                self.gaps[_rounded((run.at_ps(step + 1) - run.at_ps(step)) // PS_PER_NS)] += members
            return
        first, last = run.step_ps, run.step_ps + (steps - 2) * run.growth_ps
        least, most = _rounded(first // PS_PER_NS), _rounded(last // PS_PER_NS)
        if least == most:
            self.gaps[least] += members * (steps - 1)
            return
        for later in range(steps - 1):
            self.gaps[_rounded((first + later * run.growth_ps) // PS_PER_NS)] += members

    def sampled(self, stream: Stream, sequence: int, at_ns: int, before: int) -> None:
        """The first token of an attempt: the client's very first, or the end of an interruption; `before`
        tokens of other streams leave with it and ahead of it."""
        at_ns += self.latency_ns + before * self.token_ns
        if stream.first_ns is None:
            stream.first_ns = at_ns
        elif stream.emitted[sequence]:
            self.gaps[_rounded(at_ns - stream.last_ns[sequence])] += 1

    # ---- requests -----------------------------------------------------------------------------------

    def closed(self, stream: Stream, now_ns: int) -> None:
        record, ask = stream.record, stream.ask
        emitted = stream.emitted[0]
        first_ns, last_ns = stream.first_ns, stream.last_ns[0]
        gap_ns = None
        if first_ns is not None and emitted > 1:
            gap_ns = (last_ns - first_ns) / (emitted - 1)
        self.served.append(
            Served(
                request=ask.request,
                arrived_ns=stream.arrived_ns - self.base_ns,
                first_ns=None if first_ns is None else first_ns - self.base_ns,
                end_ns=(max(stream.last_ns) or now_ns) - self.base_ns,
                failure=stream.failure,
                prompt_tokens=ask.text.tokens,
                output_tokens=sum(stream.emitted),
                gap_ns=gap_ns,
                cached_tokens=record.cached_tokens if record else 0,
                prefill_tokens=record.prefill_tokens if record else 0,
                split=record.split if record else 0,
                queue_ns=record.queue_ns if record else 0,
                handoff_pages=record.handoff_pages if record else 0,
                handoff_ns=record.handoff_ns if record else 0,
                attempts=tuple([one.outcome for one in record.attempts]) if record else (),
                prefill_worker=record.prefill_worker if record else None,
                decode_worker=record.decode_worker if record else None,
            )
        )
        if self.tracer is not None:
            self.tracer.served(stream)

    # ---- the fleet ----------------------------------------------------------------------------------

    def sample(self, sample: Sample) -> None:
        """Keeps at most `SAMPLES_MAX`: when full, every second one goes and the interval doubles."""
        self.samples.append(sample)
        if len(self.samples) >= SAMPLES_MAX:
            del self.samples[1::2]
            self.sample_every_ns *= 2


def _rounded(duration_ns: int) -> int:
    """The middle of the class of durations that share their leading bits."""
    shift = duration_ns.bit_length() - _SIGNIFICANT_BITS
    if shift <= 0:
        return duration_ns
    return (duration_ns >> shift << shift) + (1 << shift >> 1)
