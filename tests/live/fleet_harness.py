"""Runs real fleets for tests: started as a person starts them, spoken to over HTTP, killed by pid."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any
from urllib.parse import quote

START_S = 60.0
"""Far above what a start takes; only a hang meets it."""
WAIT_S = 30.0


def eventually(true: Callable[[], Any], what: str, limit_s: float = WAIT_S) -> Any:
    """The first truthy answer of `true`; fails naming `what` where none comes."""
    deadline = time.monotonic() + limit_s
    while not (answer := true()):
        assert time.monotonic() < deadline, f"not within {limit_s} s: {what}"
        time.sleep(0.02)
    return answer


def descendants(pid: int) -> set[int]:
    """Live processes (zombies are none) below `pid`."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if fields[0] not in "ZX":
                    parents[int(entry.name)] = int(fields[1])
    found: set[int] = set()
    frontier = {pid}
    while frontier:
        frontier = {child for child, parent in parents.items() if parent in frontier} - found
        found |= frontier
    return found


def is_alive(pid: int) -> bool:
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


class Stream:
    """One streamed completion, read by a thread of its own."""

    def __init__(
        self,
        port: int,
        body: dict[str, Any],
        path: str = "/v1/completions",
        *,
        request_id: str = "",
        limit_s: float = START_S,
    ) -> None:
        """`request_id`: what the request shall be called; the server finds a name where none is given.
        `limit_s`: how long the server may say nothing."""
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=limit_s)
        self._limit_s = limit_s
        self.sent_s = time.monotonic()
        self._connection.request(
            "POST",
            path,
            json.dumps(body | {"stream": True, "stream_options": {"include_usage": True}}),
            {"content-type": "application/json"} | ({"x-request-id": request_id} if request_id else {}),
        )
        self.texts: dict[int, str] = {}
        self.scores: dict[int, list[tuple[str, float]]] = {}
        """Each output token and its log-probability, where the body asks for them."""
        self.finishes: dict[int, str] = {}
        self.usage: dict[str, Any] | None = None
        self.error: Any = None
        self.complete = False
        """`[DONE]` came."""
        self.request_id = request_id
        self.arrivals_s: list[float] = []
        self._progress: queue.Queue[int] = queue.Queue()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def wait_for_chunks(self, count: int) -> None:
        """Returns when `count` more pieces of text have come."""
        for _ in range(count):
            assert self._progress.get(timeout=self._limit_s), f"the stream ended early: {self.error}"

    def result(self) -> Stream:
        self._thread.join(self._limit_s)
        assert not self._thread.is_alive(), "the stream hangs"
        return self

    @property
    def finished(self) -> bool:
        """Nothing more will come."""
        return not self._thread.is_alive()

    def close(self) -> None:
        """The client goes away."""
        if self._connection.sock is not None:
            with contextlib.suppress(OSError):
                self._connection.sock.shutdown(2)

    def _read(self) -> None:
        try:
            response = self._connection.getresponse()
            self.request_id = response.headers.get("x-request-id", "")
            if response.status != 200:
                self.error = (response.status, response.read())
                return
            for line in response:
                if line.startswith(b"data: "):
                    self._event(line[6:].strip())
        except (OSError, http.client.HTTPException, AttributeError) as error:
            self.error = error
        finally:
            self._progress.put(0)

    def _event(self, data: bytes) -> None:
        if data == b"[DONE]":
            self.complete = True
            return
        event = json.loads(data)
        if "error" in event:
            self.error = event["error"]
            return
        self.usage = event.get("usage") or self.usage
        for choice in event["choices"]:
            index = choice["index"]
            self.texts[index] = self.texts.get(index, "") + choice.get("text", "")
            scores = choice.get("logprobs") or {"tokens": [], "token_logprobs": []}
            self.scores.setdefault(index, []).extend(
                zip(scores["tokens"], scores["token_logprobs"], strict=True)
            )
            if choice.get("finish_reason"):
                self.finishes[index] = choice["finish_reason"]
            self.arrivals_s.append(time.monotonic())
            self._progress.put(1)


class Fleet:
    """A running `diptych serve`."""

    def __init__(
        self,
        *arguments: str,
        environment: dict[str, str] | None = None,
        within: Sequence[str] = (),
        errors: IO[str] | None = None,
    ) -> None:
        """`within`: a command that runs the one behind it in the same process. `errors`: where the
        processes' standard error goes, if not to ours."""
        serve = [sys.executable, "-m", "diptych.cli", "serve", "--json", "--port", "0", *arguments]
        self._process = subprocess.Popen(
            [*within, *serve],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ | (environment or {}),
        )
        self.pid = self._process.pid
        self.port = 0
        self.events: list[dict[str, Any]] = []
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event = json.loads(line)
            self.events.append(event)
            if event["event"] == "ready":
                self.port = int(event["url"].rpartition(":")[2])
                self._ready.set()
        self._ready.set()

    def wait_ready(self) -> Fleet:
        assert self._ready.wait(START_S), self.events
        assert self.port, f"the fleet did not start: {self.events}"
        return self

    def get(self, path: str) -> tuple[int, Any]:
        status, body = self._get(path)
        return status, json.loads(body)

    def text(self, path: str) -> str:
        status, body = self._get(path)
        assert status == 200
        return body.decode()

    def _get(self, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def status(self) -> dict[str, Any]:
        code, document = self.get("/diptych/status")
        assert code == 200
        return document

    def trace(self, request_id: str) -> dict[str, Any]:
        code, document = self.get(f"/diptych/trace/{quote(request_id, safe='')}")
        assert code == 200, document
        return document

    def worker(self, name: str) -> dict[str, Any]:
        """The status of the live incarnation of worker `name`."""
        return next(one for one in self.status()["workers"] if one["name"].partition("@")[0] == name)

    def all_ready(self, count: int) -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException, AssertionError):
            workers = self.status()["workers"]
            # A worker's pages are known from its first beat on.
            ready = [one for one in workers if one["state"] == "ready" and one["pages"]["total"]]
            return len(workers) == len(ready) == count
        return False

    def wait_all_ready(self, count: int = 2) -> None:
        eventually(lambda: self.all_ready(count), f"{count} workers ready; {self.events[-5:]}")

    def wait_epoch(self, name: str, epoch: int) -> None:
        """The worker's incarnation of this number serves."""

        def serves() -> bool:
            return any(
                (one["name"], one["epoch"], one["state"]) == (name, epoch, "ready")
                for one in self.status()["workers"]
            )

        eventually(serves, f"{name}@{epoch}")

    def held_pages(self) -> int:
        """By the workers' last beats."""
        return sum(worker["pages"]["held"] for worker in self.status()["workers"])

    def wait_prefilling(self) -> None:
        """A request's recipe is fixed and its prompt is being computed."""
        eventually(lambda: self.status()["requests"]["prefilling"], "a request in prefill")

    def wait_pages_home(self) -> None:
        """All pages are free or cached again, and the pool is whole."""
        eventually(lambda: self.held_pages() == 0, "all pages free or cached")

    def pool_total(self) -> int:
        return sum(worker["pages"]["total"] for worker in self.status()["workers"])

    def pid_of(self, module: str) -> int:
        """Pid of the child that runs `diptych.live.<module>`, other than workers."""
        for pid in descendants(self.pid):
            with contextlib.suppress(OSError):
                command = (Path("/proc") / str(pid) / "cmdline").read_bytes().split(b"\0")
                if f"diptych.live.{module}".encode() in command:
                    return pid
        raise LookupError(f"no process runs diptych.live.{module}")

    def stream(self, **body: Any) -> Stream:
        return self.stream_of(self.model(), **body)

    def stream_of(self, model: str, **body: Any) -> Stream:
        return Stream(self.port, {"model": model, "ignore_eos": True} | body)

    def texts(self, part: str) -> list[str]:
        """What the supervisor told so far, as far as it contains `part`."""
        return [event["text"] for event in self.events if part in event.get("text", "")]

    def is_running(self) -> bool:
        return self._process.poll() is None

    def model(self) -> str:
        name: str = self.get("/v1/models")[1]["data"][0]["id"]
        return name

    def kill(self, pid: int, number: signal.Signals = signal.SIGKILL) -> None:
        """Signals one process of this fleet."""
        assert pid in descendants(self.pid), f"{pid} is not of this fleet"
        os.kill(pid, number)

    def send_signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait_exit(self, limit_s: float = WAIT_S) -> int:
        code = self._process.wait(limit_s)
        self._reader.join(WAIT_S)
        return code

    def stop(self) -> None:
        """Ends the fleet however it is; no process of it survives."""
        below = descendants(self.pid)
        if self._process.poll() is None:
            self._process.kill()
        self.wait_exit()
        eventually(lambda: not any(map(is_alive, below)), "no orphans")


@contextlib.contextmanager
def fleet(
    *arguments: str,
    environment: dict[str, str] | None = None,
    within: Sequence[str] = (),
    errors: IO[str] | None = None,
) -> Iterator[Fleet]:
    """A fleet on a free port, ready; stopped at the end whatever happened. The rest as for `Fleet`."""
    running = Fleet(*arguments, environment=environment, within=within, errors=errors)
    try:
        yield running.wait_ready()
    finally:
        running.stop()


@contextlib.contextmanager
def whole(running: Fleet) -> Iterator[Fleet]:
    """The fleet with both workers ready and all pages at home, before and after."""
    running.wait_all_ready()
    total = running.pool_total()
    yield running
    running.wait_all_ready()
    running.wait_pages_home()
    eventually(lambda: running.pool_total() == total, f"a pool of {total} pages")
