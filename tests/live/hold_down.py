"""Keeps workers away: whatever the supervisor starts in their place is stopped before it can serve."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
from collections.abc import Iterator

from fleet_harness import Fleet

WATCH_S = 0.01
_STARTED = re.compile(r"(?P<process>\S+): started, pid (?P<pid>[0-9]+)")


def started(running: Fleet, first: int) -> Iterator[tuple[str, int]]:
    """Processes that the supervisor told to be started, by its events from number `first` on."""
    for event in running.events[first:]:
        match = _STARTED.match(event.get("text", ""))
        if match is not None:
            yield match["process"], int(match["pid"])


class HoldDown:
    """From now until `lift`, by names without their incarnation."""

    def __init__(self, running: Fleet, *names: str) -> None:
        self._running = running
        self._names = names
        self._first = len(running.events)
        self._held: dict[str, int] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def lift(self) -> None:
        """The newest of them go on. May be called again."""
        self._over.set()
        self._thread.join()
        for pid in self._held.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)

    def _watch(self) -> None:
        while not self._over.wait(WATCH_S):
            for process, pid in started(self._running, self._first):
                if process.partition("@")[0] in self._names and process not in self._held:
                    self._held[process] = pid
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGSTOP)
