"""A fleet that a benchmark starts and ends: `diptych serve` as installed, on a free port."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from client import Client
from processes import tree

START_LIMIT_S = 120.0
STOP_LIMIT_S = 20.0


class Fleet:
    """A running `diptych serve`; use `fleet`."""

    def __init__(self, arguments: Sequence[str]) -> None:
        script = Path(sys.executable).with_name("diptych")
        program = [str(script)] if script.is_file() else [sys.executable, "-m", "diptych.cli"]
        started_s = time.monotonic()
        self._process = subprocess.Popen(
            [*program, "serve", "--json", "--port", "0", *arguments], stdout=subprocess.PIPE, text=True
        )
        self.pid = self._process.pid
        self.events: list[dict[str, Any]] = []
        self._ready = threading.Event()
        self._port = 0
        threading.Thread(target=self._read, daemon=True).start()
        if not self._ready.wait(START_LIMIT_S) or not self._port:
            self.stop()
            raise RuntimeError(f"the fleet did not start: {self.events}")
        self.start_s = time.monotonic() - started_s
        """From the start of the command to its word that it serves."""
        self.client = Client(self._port)

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            event = json.loads(line)
            self.events.append(event)
            if event["event"] == "ready":
                self._port = int(event["url"].rpartition(":")[2])
                self._ready.set()
        self._ready.set()

    def wait_workers(self) -> None:
        """Returns when all workers that were started serve."""
        wait_until(self._all_serve, "all workers ready")

    def _all_serve(self) -> bool:
        with contextlib.suppress(OSError, RuntimeError):
            return all(worker["state"] == "ready" for worker in self.client.status()["workers"])
        return False

    def worker(self, role: str) -> dict[str, Any]:
        """Status of the first worker with this role."""
        return next(one for one in self.client.status()["workers"] if one["role"] == role)

    def processes(self) -> list[int]:
        return tree(self.pid)

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            # Its children end with it.
            self._process.kill()
            self._process.wait()


@contextlib.contextmanager
def fleet(*arguments: str) -> Iterator[Fleet]:
    """A fleet that serves with all its workers; ended in the end."""
    running = Fleet(arguments)
    try:
        running.wait_workers()
        yield running
    finally:
        running.stop()


def wait_until(true: Callable[[], bool], what: str, limit_s: float = 60.0) -> None:
    """Raises `TimeoutError` naming `what`."""
    deadline_s = time.monotonic() + limit_s
    while not true():
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"not within {limit_s:g} s: {what}")
        time.sleep(0.02)
