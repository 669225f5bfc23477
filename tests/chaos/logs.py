"""Reads the logs of `--record DIR` while they grow: when a request is where, and what work followed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

LOOK_S = 0.004


class Record(msgspec.Struct, frozen=True):
    """One step of one machine; fact and actions as the log has them, the kind's name first."""

    machine: str
    fact: list[Any]
    actions: list[list[Any]]

    def is_of(self, kind: str, request: str) -> bool:
        return self.fact[0] == kind and request in self.fact

    def asks_to_compute(self, request: str) -> bool:
        return any(request == one for one, _ in prompt_work(self))


def prompt_work(record: Record) -> Iterator[tuple[str, int]]:
    """Requests and how many of their positions this step orders to compute as prompt."""
    for action in record.actions:
        if action[0] == "RunSteps":
            for span in action[3]:
                yield span[0], span[4]


class Logs:
    """All logs in a folder; `records` holds what was read, each machine's in order."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[str, int] = {}
        self.records: list[Record] = []

    def read(self) -> int:
        """Reads on; returns how many records there are."""
        for path in sorted(self._folder.glob("*.jsonl")):
            self._read_file(path)
        return len(self.records)

    def _read_file(self, path: Path) -> None:
        machine = path.name.partition(".")[0]
        at = self._read.get(machine, 0)
        try:
            with path.open("rb") as file:
                file.seek(at)
                data = file.read()
        except FileNotFoundError:
            return  # it just got the name of a log that was cut
        whole = data.rfind(b"\n") + 1
        for line in data[:whole].splitlines():
            if b'"is":"step"' in line[:20]:
                step = json.loads(line)
                self.records.append(Record(machine, step["fact"], step["actions"]))
        self._read[machine] = at + whole

    def wait(self, true: Callable[[Record], bool], start: int, limit_s: float) -> bool:
        """Returns when a record from `start` on is so; False where none came in time."""
        deadline_s = time.monotonic() + limit_s
        looked = start
        while time.monotonic() < deadline_s:
            end = self.read()
            if any(true(record) for record in self.records[looked:end]):
                return True
            looked = end
            time.sleep(LOOK_S)
        return False

    def holds(self, true: Callable[[Record], bool], start: int) -> bool:
        return any(true(record) for record in self.records[start:])
