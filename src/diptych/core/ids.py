"""Names of things in the pure core: plain strings and integers, because they are dictionary keys.

An *incarnation* is one life of one worker process, written `name@epoch`; a restart has another epoch
and so another identity, and whatever was said to or by the old one is not about the new one.
"""

from __future__ import annotations

RequestId = str
Incarnation = str
Attempt = int
"""Which try at serving a request; higher is newer. The control plane's own epoch is in the high bits,
so a restarted control plane never reuses a number."""
PageHash = bytes
"""Chain hash of a full page: model, adapter, tenant salt and all tokens up to its end."""
Pages = tuple[int, ...]
Extents = tuple[tuple[int, int], ...]
"""Sorted runs of page ids, each (first, count)."""

CONTROL = "control"
ATTEMPTS_PER_EPOCH = 1 << 20
SHARED = -1
"""Sequence index of the prompt part that all sequences of a request share."""


def incarnation(name: str, epoch: int) -> Incarnation:
    return f"{name}@{epoch}"


def worker_name(worker: Incarnation) -> str:
    return worker.rpartition("@")[0]


def worker_epoch(worker: Incarnation) -> int:
    return int(worker.rpartition("@")[2])


def to_extents(pages: list[int]) -> Extents:
    """Sorts and merges page ids into runs."""
    runs: list[tuple[int, int]] = []
    first = previous = -2
    for page in sorted(pages):
        if page != previous + 1:
            if first >= 0:
                runs.append((first, previous - first + 1))
            first = page
        previous = page
    if first >= 0:
        runs.append((first, previous - first + 1))
    return tuple(runs)


def from_extents(extents: Extents) -> list[int]:
    return [page for first, count in extents for page in range(first, first + count)]
