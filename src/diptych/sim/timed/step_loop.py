"""The step loop of one worker as time and counts: the twin of `sim.step_loop`, which also knows contents.

A run is one event, whatever its steps: a decoding batch costs a line over the context it reads, so the
moment of every step border is a sum with a closed form, and `EndRun` picks the next one.
"""

from __future__ import annotations

from heapq import heappop, heappush
from math import isqrt

from diptych.core import facts
from diptych.core.actions import PromptSpan, RunSteps
from diptych.core.ids import Attempt, Incarnation, RequestId
from diptych.sim.costs.model import PS_PER_NS, StepCosts
from diptych.sim.events import Violation
from diptych.sim.timed.meter import Meter
from diptych.sim.timed.stream import Stream

Key = tuple[RequestId, Attempt]
FULL_SPEED = 1024
"""Pace of a run that shares its host with nobody; twice as much takes twice as long."""


class Decoding:
    """One sequence of the batch: it has `known_before + clock` tokens until its last one at `ends`."""

    __slots__ = ("ends", "index", "key", "known_before", "left", "stream")

    def __init__(self, stream: Stream, span: PromptSpan, clock: int) -> None:
        self.stream = stream
        self.key = (span.request, span.attempt)
        self.index = span.sequence
        self.known_before = span.first + span.count - clock
        """At the end of the prompt, before the first token of this attempt."""
        self.ends = stream.ask.text.tokens + stream.length(span.sequence) - self.known_before
        self.left = False


class Run:
    """Step borders in ps after `origin_ps`: the first, and from there a step that grows by `growth_ps`;
    later where others slowed it down on the way."""

    __slots__ = (
        "action",
        "before",
        "bends",
        "end_ps",
        "first_ps",
        "fresh",
        "growth_ps",
        "origin_ps",
        "since_ps",
        "step_ps",
        "steps",
    )

    def __init__(self, action: RunSteps, origin_ps: int, before: int, since_ps: int) -> None:
        self.action = action
        self.origin_ps = origin_ps
        self.since_ps = since_ps
        """From the last token of those that decode to its beginning."""
        self.before = before
        """Sequences that decode from the first step on."""
        self.fresh: list[Decoding] = []
        self.first_ps = self.step_ps = self.growth_ps = 0
        self.steps = 1
        self.end_ps = origin_ps
        """When its last step ends, as things stand."""
        self.bends: list[tuple[int, int, int]] = []
        """(ps of its own work done, when, pace from then on), where its pace was ever set."""

    def at_ps(self, step: int) -> int:
        """When step number `step` ends, counted from 1."""
        later = step - 1
        work_ps = self.first_ps
        if later:
            work_ps += later * self.step_ps + later * (later - 1) // 2 * self.growth_ps
        if not self.bends:
            return self.origin_ps + work_ps
        done_ps, at_ps, pace = next(bend for bend in reversed(self.bends) if bend[0] <= work_ps)
        return at_ps + (work_ps - done_ps) * pace // FULL_SPEED

    def border_ns(self, step: int) -> int:
        return self.at_ps(step) // PS_PER_NS

    def set_steps(self, steps: int) -> None:
        self.steps = steps
        self.end_ps = self.at_ps(steps)

    def set_pace(self, now_ns: int, pace: int) -> bool:
        """From now on; whether that is another one."""
        done_ps, at_ps, before = self.bends[-1] if self.bends else (0, self.origin_ps, FULL_SPEED)
        if pace == before:
            return False
        now_ps = max(now_ns * PS_PER_NS, at_ps)
        if not self.bends:
            self.bends.append((done_ps, at_ps, before))
        self.bends.append((done_ps + (now_ps - at_ps) * FULL_SPEED // before, now_ps, pace))
        self.end_ps = self.at_ps(self.steps)
        return True

    def borders_passed(self, now_ns: int) -> int:
        """Steps that are complete at `now_ns`: those that end by its last picosecond."""
        if not self.bends:
            rest_ps = (now_ns + 1) * PS_PER_NS - 1 - self.origin_ps - self.first_ps
            return 0 if rest_ps < 0 else min(self.steps, 1 + self._later_steps(rest_ps))
        low, high = 0, self.steps
        while low < high:
            middle = (low + high + 1) // 2
            if self.border_ns(middle) <= now_ns:
                low = middle
            else:
                high = middle - 1
        return low

    def _later_steps(self, rest_ps: int) -> int:
        """Steps after the first that fit: the largest n with n step + n (n - 1) / 2 growth <= rest."""
        if self.steps == 1:
            return 0
        if not self.growth_ps:
            return rest_ps // self.step_ps
        middle = 2 * self.step_ps - self.growth_ps
        return (isqrt(middle * middle + 8 * self.growth_ps * rest_ps) - middle) // (2 * self.growth_ps)


class StepLoop:
    """`steps_max` bounds every run, for those who want to know what skipping steps is worth."""

    def __init__(
        self,
        worker: Incarnation,
        costs: StepCosts,
        page_tokens: int,
        streams: dict[RequestId, Stream],
        meter: Meter,
        steps_max: int | None = None,
    ) -> None:
        self.worker = worker
        self.name = f"loop {worker}"
        self.costs = costs
        self.page_tokens = page_tokens
        self.streams = streams
        self.meter = meter
        self._time = meter.time_of(worker)
        self.steps_max = steps_max
        self.run: Run | None = None
        self.decoding = 0
        self.context_tokens = 0
        """Tokens known of all decoding sequences together."""
        self._clock = 0
        self._ends: list[tuple[int, int, Decoding]] = []
        self._members: dict[Key, list[Decoding]] = {}
        self._serial = 0
        self._origin_ps = 0

    # ---- actions ----------------------------------------------------------------------------------

    def start(self, now_ns: int, action: RunSteps) -> Run:
        if self.run is not None:
            raise Violation("one run at a time", f"{self.worker} {action.run} in {self.run.action.run}")
        before, context, costs = self.decoding, self.context_tokens, self.costs
        if not before and not action.prompts:
            raise Violation("empty run", f"{self.worker} runs {action.run} with nothing to do")
        # A run that follows at once goes on from the last border itself, not from its rounded time.
        follows = self._origin_ps // PS_PER_NS == now_ns
        origin_ps = self._origin_ps if follows else now_ns * PS_PER_NS
        since_ps = origin_ps - self._origin_ps if before else 0
        run = self.run = Run(action, origin_ps, before, since_ps)
        if action.prompts:
            spans = [(span.first, span.count) for span in action.prompts]
            run.first_ps = costs.mixed_ps(spans, before, context) if before else costs.prompt_ps(spans)
            self._join(run, action.prompts)
            if run.fresh and not before:
                run.first_ps += costs.sample_ps
        else:
            base, slope = costs.decode_line(before)
            run.first_ps = base + slope * context
        run.first_ps = max(PS_PER_NS, run.first_ps)
        steps = action.steps_max if self.steps_max is None else min(action.steps_max, self.steps_max)
        if steps > 1:
            steps = self._plan(run, steps)
        run.set_steps(max(1, steps))
        return run

    def _join(self, run: Run, prompts: tuple[PromptSpan, ...]) -> None:
        for span in prompts:
            stream = self.streams.get(span.request)
            if stream is None:
                raise Violation("unknown request", f"{self.worker} runs {span.request}")
            if span.sample:
                run.fresh.append(Decoding(stream, span, self._clock))

    def _plan(self, run: Run, steps: int) -> int:
        """Costs of the steps after the first, and how many there are until a sequence ends."""
        after, context = run.before, self.context_tokens + run.before
        for fresh in run.fresh:
            after += 1
            context += fresh.known_before + self._clock + 1
            steps = min(steps, fresh.ends - self._clock)
        ends = self._next_end()
        if ends is not None:
            steps = min(steps, ends - self._clock)
        base, slope = self.costs.decode_line(after)
        run.step_ps = max(PS_PER_NS, base + slope * context)
        run.growth_ps = slope * after
        return steps

    def _next_end(self) -> int | None:
        ends = self._ends
        while ends and ends[0][2].left:
            heappop(ends)
        return ends[0][0] if ends else None

    def end_early(self, now_ns: int, run: int) -> Run | None:
        """`EndRun`: the run that now ends at an earlier border, or None where nothing changes."""
        held = self.run
        if held is None or held.action.run != run:
            return None
        steps = held.borders_passed(now_ns) + 1
        if steps >= held.steps:
            return None
        held.set_steps(steps)
        return held

    def drop(self, request: RequestId, attempt: Attempt) -> None:
        for member in self._members.pop((request, attempt), ()):
            if not member.left:
                self._leave(member)

    def pause(self, request: RequestId, attempt: Attempt) -> None:
        """What it has emitted is all that the door will get of this attempt."""
        for member in self._members.get((request, attempt), ()):
            if not member.left:
                self._note(member)

    # ---- time passes ------------------------------------------------------------------------------

    def finish(self, now_ns: int, run: int, steps: int) -> facts.StepsRan | None:
        """The answer to a run that reached its end; None where it was cut earlier, or slowed down."""
        held = self.run
        if held is None or held.action.run != run or held.steps != steps:
            return None
        end_ps = held.end_ps
        if end_ps // PS_PER_NS > now_ns:
            return None
        self.run = None
        finished = self._complete(held, steps, end_ps)
        self.meter.ran(self.worker, self._time, held, steps, end_ps)
        duration_ns = now_ns - held.origin_ps // PS_PER_NS
        return facts.StepsRan(run=run, steps=steps, duration_ns=duration_ns, finished=finished)

    def died(self, now_ns: int) -> None:
        """Steps that were complete have left for the door; the one in hand is lost."""
        held, self.run = self.run, None
        if held is not None:
            done = min(held.borders_passed(now_ns), held.steps)
            if done:
                end_ps = held.at_ps(done)
                self._complete(held, done, end_ps)
                self.meter.ran(self.worker, self._time, held, done, end_ps)
        for members in self._members.values():
            for member in members:
                if not member.left:
                    self._note(member)

    def _complete(self, held: Run, steps: int, end_ps: int) -> tuple[facts.SequenceFinish, ...]:
        self._origin_ps = end_ps
        self.context_tokens += held.before * steps
        self._clock += steps
        if held.fresh:
            self._admit(held)
        ends = self._ends
        if not ends or ends[0][0] > self._clock:
            return ()
        finished: list[facts.SequenceFinish] = []
        while ends and ends[0][0] <= self._clock:
            member = heappop(ends)[2]
            if not member.left:
                finished.append(self._finish(member))
        return tuple(finished)

    def _admit(self, held: Run) -> None:
        """Sequences whose first token came from the run's first step decode from here on."""
        first_ns = held.border_ns(1)
        for member in held.fresh:
            self.meter.sampled(member.stream, member.index, first_ns, held.before)
            self._members.setdefault(member.key, []).append(member)
            self.decoding += 1
            self.context_tokens += member.known_before + self._clock
            self._serial += 1
            heappush(self._ends, (member.ends, self._serial, member))

    def _finish(self, member: Decoding) -> facts.SequenceFinish:
        stream, index = member.stream, member.index
        self._note(member)
        self._leave(member)
        emitted = stream.emitted[index]
        reason = "length" if emitted >= stream.ask.tokens_max else "stop_token"
        stream.reasons[index] = reason
        stream.left += 1
        request, attempt = member.key
        hashes = stream.page_hashes(index, self.page_tokens)
        return facts.SequenceFinish(request, attempt, index, reason, emitted, hashes)

    def _note(self, member: Decoding) -> None:
        stream = member.stream
        stream.emitted[member.index] = member.known_before + self._clock - stream.ask.text.tokens
        stream.last_ns[member.index] = self._origin_ps // PS_PER_NS + self.meter.latency_ns

    def _leave(self, member: Decoding) -> None:
        member.left = True
        self.decoding -= 1
        self.context_tokens -= member.known_before + self._clock
