"""Sockets of the simulated world: a delay each, in order between any two parties and in no order beyond."""

from __future__ import annotations

import random


class Links:
    def __init__(self, latency_ns: int, jitter_ns: int, seed: int, between_workers_ns: int = 0) -> None:
        self.latency_ns = latency_ns
        self.jitter_ns = jitter_ns
        self.between_workers_ns = between_workers_ns
        self._random = random.Random(f"links {seed}")
        self._last_ns: dict[tuple[str, str], int] = {}

    def arrival_ns(self, now_ns: int, sender: str, receiver: str) -> int:
        delay_ns = self.latency_ns
        if self.jitter_ns:
            delay_ns += self._random.randrange(self.jitter_ns)
        if self.between_workers_ns and "@" in sender and "@" in receiver:
            delay_ns += self._random.randrange(self.between_workers_ns)
        at_ns = max(now_ns + delay_ns, self.last_arrival_ns(sender, receiver))
        self._last_ns[sender, receiver] = at_ns
        return at_ns

    def last_arrival_ns(self, sender: str, receiver: str) -> int:
        """When all that was sent so far between the two will have been read."""
        return self._last_ns.get((sender, receiver), 0)
