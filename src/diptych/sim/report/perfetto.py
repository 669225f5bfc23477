"""Requests over workers as a trace for Perfetto and chrome://tracing (Trace Event Format, JSON).

A process for each worker: a lane of its runs, and a bar for each request from its first to its last
token there, side by side where they decode together. A process `requests` has the queue of each.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diptych.core.ids import Incarnation, worker_name
from diptych.sim.timed.step_loop import Run
from diptych.sim.timed.stream import Stream

RUNS_LANE = 0
REQUESTS = "requests"


class Perfetto:
    """Keeps one event for each run and three for each request."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self._pids: dict[str, int] = {}

    def ran(self, worker: Incarnation, run: Run, steps: int, begun_ns: int, now_ns: int) -> None:
        prompts = run.action.prompts
        tokens = sum(span.count for span in prompts)
        kind = "mixed" if prompts and run.before else "prompt" if prompts else "decode"
        self.events.append(
            {
                "ph": "X",
                "name": f"{kind} {', '.join(dict.fromkeys(span.request for span in prompts))}".strip(),
                "cat": kind,
                "pid": self._pid(worker_name(worker)),
                "tid": RUNS_LANE,
                "ts": begun_ns / 1e3,
                "dur": (now_ns - begun_ns) / 1e3,
                "args": {"steps": steps, "prompt_tokens": tokens, "decoding": run.before + len(run.fresh)},
            }
        )

    def served(self, stream: Stream) -> None:
        record, name = stream.record, stream.ask.request
        arguments: dict[str, Any] = {
            "prompt_tokens": stream.ask.text.tokens,
            "output_tokens": sum(stream.emitted),
            "failure": stream.failure,
        }
        if record is not None:
            arguments |= {
                "split": record.split,
                "cached_tokens": record.cached_tokens,
                "prefill_worker": record.prefill_worker,
                "decode_worker": record.decode_worker,
                "attempts": len(record.attempts),
            }
        self._bar(REQUESTS, name, name, stream.arrived_ns, stream.end_ns, arguments)
        if stream.first_ns is None:
            return
        self._bar(REQUESTS, name, "to the first token", stream.arrived_ns, stream.first_ns, {})
        if record is not None and record.decode_worker is not None:
            last_ns = max(stream.last_ns)
            self._bar(record.decode_worker, name, name, stream.first_ns, last_ns, arguments)

    def _bar(
        self, process: str, identity: str, name: str, begun_ns: int, end_ns: int, arguments: dict[str, Any]
    ) -> None:
        common = {"cat": "request", "id": identity, "name": name, "pid": self._pid(process), "tid": 1}
        self.events.append({"ph": "b", "ts": begun_ns / 1e3, "args": arguments, **common})
        self.events.append({"ph": "e", "ts": max(begun_ns, end_ns) / 1e3, **common})

    def _pid(self, process: str) -> int:
        if process not in self._pids:
            self._pids[process] = len(self._pids) + 1
        return self._pids[process]

    def write(self, path: Path) -> None:
        with path.open("w", encoding="utf-8") as out:
            out.write('{"displayTimeUnit": "ms", "traceEvents": [\n')
            out.write(",\n".join(json.dumps(event) for event in self._all()))
            out.write("\n]}\n")

    def _all(self) -> Iterator[dict[str, Any]]:
        for process, pid in self._pids.items():
            yield {"ph": "M", "name": "process_name", "pid": pid, "args": {"name": process}}
            if process != REQUESTS:
                yield {
                    "ph": "M",
                    "name": "thread_name",
                    "pid": pid,
                    "tid": RUNS_LANE,
                    "args": {"name": "runs"},
                }
        yield from self.events
