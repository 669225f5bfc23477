"""What control knows of pairs of workers that share no pool: may they exchange pages, and what does it cost.

A pair is possible where the two have a transport in common. What a page costs is measured by the targets;
a pair whose pulls keep failing (a link that is down, checksums that differ, formats without a plan) is left
alone for a while, then tried again.
"""

from __future__ import annotations

from diptych.core.config import ControlConfig
from diptych.core.facts import WorkerJoined
from diptych.core.ids import Incarnation


class Pair:
    __slots__ = ("failures", "page_ns", "until_ns", "why")

    def __init__(self, page_ns: float) -> None:
        self.page_ns = page_ns
        """Time that one page takes, as last measured."""
        self.failures = 0
        """Pulls that failed since the last one that did not."""
        self.until_ns = 0
        """Quarantined until then."""
        self.why = ""
        """What the last failure was."""


class Pairs:
    """(source, target), by incarnation: a restarted worker begins with a clean slate."""

    def __init__(self, config: ControlConfig) -> None:
        self.config = config
        self.known: dict[tuple[Incarnation, Incarnation], Pair] = {}

    def possible(self, source: WorkerJoined, target: WorkerJoined, now_ns: int) -> bool:
        if not any(transport in target.transports for transport in source.transports):
            return False
        pair = self.known.get((source.worker, target.worker))
        return pair is None or pair.until_ns <= now_ns

    def page_ns(self, source: Incarnation, target: Incarnation) -> float:
        pair = self.known.get((source, target))
        return pair.page_ns if pair is not None else float(self.config.pull_page_ns)

    def pulled(self, source: Incarnation, target: Incarnation, pages: int, duration_ns: int) -> None:
        """So many pages came over and were believed."""
        pair = self._pair(source, target)
        pair.failures = 0
        pair.page_ns += 0.25 * (duration_ns / pages - pair.page_ns)

    def failed(self, now_ns: int, source: Incarnation, target: Incarnation, why: str) -> None:
        pair = self._pair(source, target)
        pair.failures += 1
        pair.why = why
        if pair.failures >= self.config.fetch_failures_max:
            pair.until_ns = now_ns + self.config.quarantine_ns

    def lose(self, worker: Incarnation) -> None:
        for pair in [pair for pair in self.known if worker in pair]:
            del self.known[pair]

    def quarantined(self, now_ns: int) -> list[tuple[Incarnation, Incarnation, Pair]]:
        """(source, target, why and until when) of pairs that are left alone."""
        return [(*names, pair) for names, pair in self.known.items() if pair.until_ns > now_ns]

    def _pair(self, source: Incarnation, target: Incarnation) -> Pair:
        pair = self.known.get((source, target))
        if pair is None:
            pair = self.known[source, target] = Pair(float(self.config.pull_page_ns))
        return pair
