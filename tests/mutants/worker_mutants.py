"""Bugs in a worker's tasks and runs, in what it sends, and in the simulator's door."""

from __future__ import annotations

from mutant import Mutant

MACHINE, TARGET, SOURCE = "core/worker/machine.py", "core/worker/target.py", "core/worker/source.py"
STREAM, DECODE = "core/worker/stream.py", "core/worker/decode.py"
DOOR, HASHING, FRAMES = "sim/door.py", "wire/hashing.py", "wire/frames.py"

WORKER_MUTANTS = (
    Mutant("a cancel frees pages under the run in hand", TARGET, "if self.streams.busy(task):", "if False:"),
    Mutant(
        "a cancelled source frees pages under the run in hand",
        SOURCE,
        "        if task.key in self.in_run:\n            task.state = CLOSING",
        "        if False:\n            task.state = CLOSING",
    ),
    Mutant(
        "an owner dies while its pages are read, and its reader states them at once",
        MACHINE,
        "if self.sources.reads_from(fact.worker):",
        "if False:",
        test="tests/core/test_source.py",
    ),
    Mutant(
        "the first stream is preempted, not the last",
        STREAM,
        "for task in reversed(self.running.values())",
        "for task in self.running.values()",
        test="tests/core/test_worker.py",
    ),
    Mutant(
        "a preempted stream is not paused at its door",
        TARGET,
        "        self._act(PauseStream(request=request, attempt=attempt))\n",
        "",
    ),
    Mutant(
        "a run decodes past its last page",
        DECODE,
        "else covered - sequence.known_before",
        "else covered - sequence.known_before + 1",
    ),
    Mutant(
        "the step loop is not told of new pages",
        DECODE,
        "            return False\n        self.grown[sequence] = task\n",
        "            return False\n",
    ),
    Mutant(
        "pages found twice keep their old table",
        STREAM,
        "                    sequence.tabled = min(sequence.tabled, task.sealed)\n",
        "                    pass\n",
        test="tests/core/test_worker.py",
    ),
    Mutant(
        "a span runs on where the numerics change",
        "core/worker/batch.py",
        "stop = min(end, run_here.end)",
        "stop = end",
    ),
    Mutant(
        "prompt pages to be scored are taken from the cache",
        TARGET,
        "reusable = len(ask.page_hashes) if ask.logits_from is None else ask.logits_from // tokens",
        "reusable = len(ask.page_hashes)",
        test="tests/core/test_last_words.py",
    ),
    Mutant(
        "what a prompt's step sealed waits for the steps after it",
        STREAM,
        "        run.single = True\n        return end - task.computed",
        "        return end - task.computed",
        test="tests/core/test_runs.py",
    ),
    Mutant(
        "a run that begins with a tail has no pages for the steps after it",
        STREAM,
        "min(sequence.known + quantum - 1, limit)",
        "min(sequence.known, limit)",
        test="tests/core/test_runs.py",
    ),
    Mutant(
        "a stream begins in silence",
        MACHINE,
        "            self.targets.started(task)\n",
        "            pass\n",
        test="tests/core/test_runs.py",
    ),
    Mutant(
        "more streams run than there are seats",
        MACHINE,
        "config.running_max - run.decoding",
        "1 << 30",
        test="tests/core/test_seats.py",
    ),
    Mutant(
        "a prefill outlives its control plane",
        MACHINE,
        "        self.sources.control_lost(now_ns)\n",
        "",
        test="tests/core/test_last_words.py",
    ),
    Mutant(
        "what a step finished is told a token short",
        TARGET,
        "tuple([(index, tokens) for index, tokens, _ in task.outcomes])",
        "tuple([(index, tokens - 1) for index, tokens, _ in task.outcomes])",
    ),
    Mutant(
        "the door takes frames of a drained attempt",
        DOOR,
        "if client is None or frame.attempt <= client.drained:",
        "if client is None:",
        test="tests/sim/test_checkers.py",
    ),
    Mutant(
        "the door takes frames behind a gap",
        DOOR,
        "if frame.first != len(client.tokens[frame.sequence])",
        "if frame.first < len(client.tokens[frame.sequence])",
        test="tests/sim/test_checkers.py",
    ),
    Mutant(
        "the door takes tokens twice",
        DOOR,
        "if frame.first != len(client.tokens[frame.sequence])",
        "if frame.first > len(client.tokens[frame.sequence])",
        test="tests/sim/test_checkers.py",
    ),
    Mutant(
        "a page's hash forgets the pages before it",
        HASHING,
        "blake2b(previous + data[start : start + page_bytes]",
        "blake2b(data[start : start + page_bytes]",
        test="tests/wire/test_hashing.py",
    ),
    Mutant(
        "tenants share pages",
        HASHING,
        "for field in (model, adapter, tenant_salt):",
        "for field in (model, adapter):",
        test="tests/wire/test_hashing.py",
    ),
    Mutant(
        "the last prompt token is in a shared page",
        HASHING,
        "return (prompt_tokens - 1) // page_tokens",
        "return prompt_tokens // page_tokens",
        test="tests/wire/test_hashing.py",
    ),
    Mutant(
        "a frame cut at its end is taken as whole",
        FRAMES,
        "            if end > available:\n",
        "            if end > available + 1:\n",
        test="tests/wire/test_frames.py",
    ),
    Mutant(
        "a stream that ends in a frame ends well",
        FRAMES,
        "        if self._pending:\n            raise",
        "        if False:\n            raise",
        test="tests/wire/test_frames.py",
    ),
)
