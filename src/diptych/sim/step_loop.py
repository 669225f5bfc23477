"""The twin of the live step loop: it runs steps in virtual time and writes stamps instead of KV.

It keeps the contract of the live one: prompt spans in the first step, one token a step for every
decoding sequence, an end at a finish, at `EndRun` or at the last step, and one `StepsRan` for it.
"""

from __future__ import annotations

from collections.abc import Callable

from diptych.core import facts
from diptych.core.actions import PromptSpan, RunSteps, TablePart
from diptych.core.ids import SHARED, Attempt, Incarnation, RequestId
from diptych.core.recipe import Recipe, numerics_at
from diptych.sim.events import Frame, PauseFrame, Payload, Violation
from diptych.sim.pool import Pool
from diptych.sim.scenario import WorkerPlan
from diptych.sim.text import Context, page_hashes, sampled

Key = tuple[RequestId, Attempt]


class Stream:
    """One attempt of one request as the step loop knows it."""

    def __init__(self, payload: Payload, recipe: Recipe) -> None:
        self.payload = payload
        self.recipe = recipe
        self.prompt = Context(payload.salt, payload.prompt, recipe)
        self.contexts: dict[int, Context] = {}
        self.tables: dict[int, list[int]] = {}
        self.decoding: set[int] = set()

    def context(self, sequence: int) -> Context:
        if sequence == SHARED:
            return self.prompt
        if sequence not in self.contexts:
            context = self.prompt.fork()
            context.extend(self.payload.emitted[sequence])
            self.contexts[sequence] = context
        return self.contexts[sequence]

    def emitted(self, sequence: int) -> int:
        return len(self.context(sequence).tokens) - len(self.payload.prompt)

    def length(self, sequence: int) -> int:
        return min(self.payload.lengths[sequence], self.payload.tokens_max)


class Run:
    def __init__(self, action: RunSteps, started_ns: int, first_ns: int, step_ns: int, steps: int) -> None:
        self.action = action
        self.begun_ns = started_ns
        self.started_ns = started_ns
        """Moves on by as long as the process stood still."""
        self.first_ns = first_ns
        self.step_ns = step_ns
        self.steps = steps

    def end_ns(self) -> int:
        return self.started_ns + self.first_ns + (self.steps - 1) * self.step_ns

    def borders_passed(self, now_ns: int) -> int:
        """Steps that were complete at `now_ns`."""
        since = now_ns - self.started_ns - self.first_ns
        return 0 if since < 0 else min(self.steps, since // max(1, self.step_ns) + 1)


class StepLoop:
    """The engine side of one worker incarnation."""

    def __init__(
        self, worker: Incarnation, plan: WorkerPlan, pool: Pool, emit: Callable[[Frame | PauseFrame], None]
    ) -> None:
        self.worker = worker
        self.plan = plan
        self.pool = pool
        self.emit = emit
        self.streams: dict[Key, Stream] = {}
        self.run: Run | None = None
        self.loaded = False
        self.paused_ns: int | None = None
        """Since when its process stands still."""
        self.paused_until_ns = 0
        self._payloads: dict[Key, Payload] = {}
        self._recipes: dict[Key, Recipe] = {}

    # ---- what its port is told ----------------------------------------------------------------------

    def told(self, fact: facts.Fact, payload: Payload | None) -> None:
        """Called for each fact that reaches the worker, before its machine steps."""
        match fact:
            case facts.TargetRequested():
                assert payload is not None
                self._payloads[fact.request, fact.attempt] = payload
            case facts.PrefillRequested():
                assert payload is not None
                self._payloads[fact.request, fact.attempt] = payload
                self._recipes[fact.request, fact.attempt] = fact.recipe
            case facts.RecipeFixed():
                self._recipes[fact.request, fact.attempt] = fact.recipe
            case _:
                pass

    # ---- actions ----------------------------------------------------------------------------------

    def start(self, now_ns: int, action: RunSteps) -> Run:
        if self.run is not None:
            raise Violation("one run at a time", f"{self.worker} {action.run} in {self.run.action.run}")
        for part in action.tables:
            self._apply(part)
        written: set[int] = set()
        for span in action.prompts:
            self._check_span(span, written)
        prompt_tokens = sum(span.count for span in action.prompts)
        before = self._decoders()
        for span in action.prompts:
            if span.sample:
                self.streams[span.request, span.attempt].decoding.add(span.sequence)
        after = self._decoders()
        if not prompt_tokens and not after:
            raise Violation("empty run", f"{self.worker} runs {action.run} with nothing to do")
        plan = self.plan
        step_ns = plan.decode_ns_per_step + plan.decode_ns_per_sequence * len(after)
        first_ns = prompt_tokens * plan.prefill_ns_per_token
        if before:
            first_ns += plan.decode_ns_per_step + plan.decode_ns_per_sequence * len(before)
        steps = 1
        if after:
            left = min(self.streams[k].length(s) - self.streams[k].emitted(s) for k, s in after)
            steps = max(1, min(action.steps_max, left))
        self.run = Run(action, now_ns, max(1, first_ns), step_ns, steps)
        return self.run

    def end_early(self, now_ns: int, run: int) -> Run | None:
        """`EndRun`: the run that now ends at an earlier border, or None where nothing changes."""
        held = self.run
        if held is None or held.action.run != run:
            return None
        steps = held.borders_passed(now_ns) + 1
        if steps >= held.steps:
            return None
        held.steps = steps
        return held

    def drop(self, request: RequestId, attempt: Attempt) -> None:
        key = (request, attempt)
        if self.run is not None:
            inside = {(span.request, span.attempt) for span in self.run.action.prompts}
            inside |= {name for name, _ in self._decoders()}
            if key in inside:
                raise Violation("dropped during its run", f"{self.worker} drops {request}")
        self.streams.pop(key, None)
        self._payloads.pop(key, None)
        self._recipes.pop(key, None)

    def pause(self, request: RequestId, attempt: Attempt) -> None:
        self.emit(PauseFrame(request, attempt))

    # ---- time passes ------------------------------------------------------------------------------

    def pause_process(self, now_ns: int, until_ns: int) -> None:
        if self.paused_ns is None:
            self.paused_ns = now_ns
        self.paused_until_ns = max(self.paused_until_ns, until_ns)

    def stood_still(self, now_ns: int) -> Run | None:
        """The process goes on, unless it stands still for longer; its run ends so much later."""
        if now_ns < self.paused_until_ns:
            return None
        if self.paused_ns is not None and self.run is not None:
            self.run.started_ns += now_ns - max(self.paused_ns, self.run.started_ns)
        self.paused_ns = None
        return self.run

    def finish(self, now_ns: int, run: int, steps: int) -> facts.StepsRan | None:
        """The answer to a run that reached its end; None where it was cut earlier."""
        held = self.run
        if held is None or held.action.run != run or held.steps != steps or now_ns < held.end_ns():
            return None
        self.run = None
        finished = self._complete(held, steps)
        duration_ns = now_ns - held.begun_ns
        return facts.StepsRan(run=run, steps=steps, duration_ns=duration_ns, finished=finished)

    def died(self, now_ns: int) -> None:
        """Steps that were complete have left for the doors; the one in hand leaves torn pages."""
        held, self.run = self.run, None
        if held is None:
            return
        done = min(held.borders_passed(now_ns), held.steps)
        if done:
            self._complete(held, done)
            return
        for span in held.action.prompts:
            table = self.streams[span.request, span.attempt].tables[span.sequence]
            first, end = self._pages_of(span.first, span.count)
            for page in table[first:end]:
                self.pool.tear(page)

    def _complete(self, held: Run, steps: int) -> tuple[facts.SequenceFinish, ...]:
        fresh = {((span.request, span.attempt), span.sequence) for span in held.action.prompts if span.sample}
        for span in held.action.prompts:
            self._write_span(span)
        finished = []
        for key, sequence in self._decoders():
            begins = (key, sequence) in fresh
            finish = self._decode(key, sequence, steps - begins, begins)
            if finish is not None:
                finished.append(finish)
        return tuple(finished)

    # ---- spans ------------------------------------------------------------------------------------

    def _apply(self, part: TablePart) -> None:
        table = self._stream((part.request, part.attempt)).tables.setdefault(part.sequence, [])
        if part.start > len(table):
            raise Violation("gap in table", f"{self.worker} {part.request} {part.sequence} at {part.start}")
        table[part.start :] = part.pages

    def _stream(self, key: Key) -> Stream:
        if key not in self.streams:
            if key not in self._payloads or key not in self._recipes:
                raise Violation("unknown request", f"{self.worker} runs {key} without prompt and recipe")
            self.streams[key] = Stream(self._payloads[key], self._recipes[key])
        return self.streams[key]

    def _check_span(self, span: PromptSpan, written: set[int]) -> None:
        stream = self._stream((span.request, span.attempt))
        known = stream.context(span.sequence)
        end = span.first + span.count
        where = f"{self.worker} {span}"
        if span.count < 1 or end > len(known.tokens):
            raise Violation("span beyond the text", where)
        if span.numerics not in self.plan.numerics:
            raise Violation("numerics not held", where)
        for position in (span.first, end - 1):
            if numerics_at(stream.recipe, position) != span.numerics:
                raise Violation("span off its recipe", f"{where}, recipe {stream.recipe}")
        if span.sample and (span.sequence == SHARED or end != len(known.tokens)):
            raise Violation("sample off the end", where)
        table = stream.tables.get(span.sequence, [])
        first_page, end_page = self._pages_of(span.first, span.count)
        if end_page > len(table):
            raise Violation("table too short", f"{where}, {len(table)} pages")
        self._check_reads(known, table, span.first, written)
        for index in range(first_page, end_page):
            slot = span.first - index * self.pool.page_tokens
            fresh = table[index] not in written
            self.pool.writable(self.worker, table[index], max(0, slot) if fresh else 0)
            written.add(table[index])

    def _check_reads(self, known: Context, table: list[int], end: int, written: set[int]) -> None:
        """Pages that hold positions [0, end) hold what this text and recipe put there."""
        size = self.pool.page_tokens
        for index in range((end + size - 1) // size):
            if table[index] not in written:
                filled = min(size, end - index * size)
                self.pool.read(self.worker, table[index], filled, known.stamps[index * size + filled - 1])

    def _write_span(self, span: PromptSpan) -> None:
        stream = self.streams[span.request, span.attempt]
        known = stream.context(span.sequence)
        table = stream.tables[span.sequence]
        self._check_reads(known, table, span.first, set())
        self._write(known, table, span.first, span.first + span.count)
        if span.sample:
            self._sample(stream, span.sequence)

    def _write(self, known: Context, table: list[int], first: int, end: int) -> None:
        size = self.pool.page_tokens
        for index in range(first // size, (end + size - 1) // size):
            filled = min(size, end - index * size)
            self.pool.write(self.worker, table[index], filled, known.stamps[index * size + filled - 1])

    def _pages_of(self, first: int, count: int) -> tuple[int, int]:
        size = self.pool.page_tokens
        return first // size, (first + count + size - 1) // size

    # ---- decoding -----------------------------------------------------------------------------------

    def _decoders(self) -> list[tuple[Key, int]]:
        return [(key, s) for key, stream in self.streams.items() for s in sorted(stream.decoding)]

    def _sample(self, stream: Stream, sequence: int) -> None:
        """One output token from the row of the last known position, read from the page where it lies."""
        known = stream.context(sequence)
        last = len(known.tokens) - 1
        page = self.pool.pages[stream.tables[sequence][last // self.pool.page_tokens]]
        known.extend((sampled(page.stamp, sequence, stream.emitted(sequence)),))

    def _decode(self, key: Key, sequence: int, count: int, fresh: bool) -> facts.SequenceFinish | None:
        request, attempt = key
        stream = self.streams[key]
        known = stream.context(sequence)
        table = stream.tables[sequence]
        prompt_tokens = len(stream.payload.prompt)
        before = stream.emitted(sequence) - fresh
        if count:
            self._check_reads(known, table, len(known.tokens) - 1, set())
        for _ in range(count):
            position = len(known.tokens) - 1
            if position // self.pool.page_tokens >= len(table):
                raise Violation("table too short", f"{self.worker} decodes {request} at {position}")
            if numerics_at(stream.recipe, position) not in self.plan.numerics:
                raise Violation("numerics not held", f"{self.worker} {request} {stream.recipe}")
            slot = position % self.pool.page_tokens
            self.pool.writable(self.worker, table[position // self.pool.page_tokens], slot)
            self._write(known, table, position, position + 1)
            self._sample(stream, sequence)
        emitted = stream.emitted(sequence)
        reason = None
        if emitted >= stream.length(sequence):
            reason = "length" if emitted >= stream.payload.tokens_max else "stop_token"
            stream.decoding.discard(sequence)
        tokens = tuple(known.tokens[prompt_tokens + before :])
        self.emit(Frame(request, attempt, sequence, before, tokens, stream.recipe, reason))
        if reason is None:
            return None
        size = self.pool.page_tokens
        shared = (prompt_tokens - 1) // size
        hashes = page_hashes(stream.payload.salt, tuple(known.tokens[:-1]), size)[shared:]
        return facts.SequenceFinish(request, attempt, sequence, reason, emitted, hashes)
