"""Runs the other host of a fleet for tests: `diptych worker`, started as a person starts it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

from fleet_harness import descendants


class Agent:
    """A running `diptych worker`, and all that it printed."""

    def __init__(self, *arguments: str, within: Sequence[str] = ()) -> None:
        """`within`: a command that runs the one behind it in the same process."""
        self.lines: list[str] = []
        command = [*within, sys.executable, "-m", "diptych.cli", "worker", *arguments]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.pid = self._process.pid
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.lines.append(line.rstrip())

    def said(self, text: str) -> bool:
        return any(text in line for line in self.lines)

    def wait(self) -> int:
        return self._process.wait(timeout=60)

    def end(self) -> None:
        """In order, if it can; whoever is left is killed."""
        below = descendants(self.pid)
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=20)
        self._kill(below)

    def kill(self) -> set[int]:
        """With everything below it, as when the machine loses its power; returns who that was."""
        below = descendants(self.pid)
        self._kill(below)
        return below

    def _kill(self, below: set[int]) -> None:
        for pid in (self.pid, *below):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()
