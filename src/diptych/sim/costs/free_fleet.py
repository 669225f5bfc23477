"""A served fleet whose engines compute nothing, and requests timed through it: all that a request meets
besides engines."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import quote

import msgspec

MODEL = "scripted"
_START_LIMIT_S = 60.0
_STOP_LIMIT_S = 10.0
_DOOR = "diptych.live.door"


class Timed(msgspec.Struct, frozen=True):
    """One streamed request of `prompt_tokens`, in ns: what its client saw and what its door did."""

    prompt_tokens: int
    client_ttft_ns: int
    door_ttft_ns: int
    pieces_ns: tuple[int, ...]
    """When each token came, from sending the request on."""
    apart: bool
    """Another worker computed its prompt."""


class FreeFleet:
    """A running one; made by `free_fleet`."""

    def __init__(self, port: int, pid: int) -> None:
        self._port = port
        self._pid = pid
        self._asked = 0
        self._line = http.client.HTTPConnection("127.0.0.1", port, timeout=_START_LIMIT_S)

    def ask(self, prompt_tokens: int, output_tokens: int) -> Timed:
        """One request whose prompt nobody has seen. Raises `OSError` or `http.client.HTTPException`."""
        self._asked += 1
        return self._ask(self._line, self._prompt(prompt_tokens, self._asked), output_tokens)

    def ask_at_once(self, clients: int, prompt_tokens: int, output_tokens: int) -> list[Timed]:
        first = self._asked
        self._asked += clients
        prompts = [self._prompt(prompt_tokens, first + number) for number in range(clients)]
        with ThreadPoolExecutor(clients) as threads:
            return list(threads.map(lambda prompt: self._ask_apart(prompt, output_tokens), prompts))

    def close(self) -> None:
        self._line.close()

    def door_cpu_ns(self) -> int:
        """Processor time of the door so far."""
        for folder in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if folder.name.isdigit() and _DOOR in (folder / "cmdline").read_text():
                    fields = (folder / "stat").read_text().rpartition(")")[2].split()
                    if int(fields[1]) == self._pid:
                        ticks = int(fields[11]) + int(fields[12])
                        return ticks * 1_000_000_000 // os.sysconf("SC_CLK_TCK")
        raise OSError("the fleet has no door process")

    def _prompt(self, tokens: int, number: int) -> list[int]:
        return [97 + (number >> 4 * place) % 16 for place in range(8)] + [98] * max(0, tokens - 8)

    def _ask_apart(self, prompt: Sequence[int], output_tokens: int) -> Timed:
        line = http.client.HTTPConnection("127.0.0.1", self._port, timeout=_START_LIMIT_S)
        with contextlib.closing(line):
            return self._ask(line, prompt, output_tokens)

    def _ask(self, line: http.client.HTTPConnection, prompt: Sequence[int], output_tokens: int) -> Timed:
        body = {"model": MODEL, "prompt": prompt, "max_tokens": output_tokens, "ignore_eos": True}
        text = json.dumps(body | {"temperature": 0, "stream": True})
        sent_ns = time.monotonic_ns()
        line.request("POST", "/v1/completions", text, {"content-type": "application/json"})
        answer = line.getresponse()
        pieces = [
            time.monotonic_ns() - sent_ns
            for event in iter(answer.readline, b"")
            if event.startswith(b"data: {") and b'"text":"",' not in event
        ]
        if answer.status != 200 or not pieces:
            raise OSError(f"a request was answered by {answer.status} and {len(pieces)} tokens")
        line.request("GET", f"/diptych/trace/{quote(answer.headers['x-request-id'], safe='')}")
        record = json.loads(line.getresponse().read())
        return Timed(
            prompt_tokens=len(prompt),
            client_ttft_ns=pieces[0],
            door_ttft_ns=round(record["ttft_ms"] * 1e6),
            pieces_ns=tuple(pieces),
            apart=record["prefill_worker"] is not None,
        )


@contextlib.contextmanager
def free_fleet() -> Iterator[FreeFleet]:
    """A prefill and a decode worker that are ready. Raises `OSError` where they do not start."""
    command = [sys.executable, "-m", "diptych.cli", "serve", "--scripted", "--json", "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = 0
        for line in process.stdout:
            event = json.loads(line)
            if event["event"] == "ready":
                port = int(event["url"].rpartition(":")[2])
                break
        if not port:
            raise OSError("a fleet of scripted workers did not start")
        running = FreeFleet(port, process.pid)
        with contextlib.closing(running):
            yield running
    finally:
        process.terminate()
        try:
            process.wait(_STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
