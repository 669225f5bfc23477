"""Which pages a source is asked for next: all copies from it in turn, a batch at a time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from diptych.transport.interface import PullDone, PullOrder

__all__ = ["Batch", "PullQueue"]


class _Pull:
    __slots__ = ("asked", "bytes_moved", "failure", "order", "under_way")

    def __init__(self, order: PullOrder) -> None:
        self.order = order
        self.asked = 0
        """Source pages asked for so far."""
        self.under_way = 0
        self.bytes_moved = 0
        self.failure = ""


class Batch:
    """Some pages of one copy: `pages` there, `into` here."""

    __slots__ = ("capability", "into", "pages", "pull")

    def __init__(self, pull: _Pull, pages: tuple[int, ...], into: tuple[int, ...]) -> None:
        self.pull = pull
        self.capability = pull.order.capability
        self.pages = pages
        self.into = into


class PullQueue:
    """Shared by the streams to one source. A long copy cannot keep a short one waiting for more than a
    batch, and a copy that fails or is cancelled ends when its last batch is back."""

    def __init__(self, done: Callable[[PullDone], None]) -> None:
        self._done = done
        self._changed = threading.Condition()
        self._turn: deque[_Pull] = deque()
        self._open: dict[int, _Pull] = {}
        self._closed = False
        self.source_batch = 1
        self.target_batch = 1
        """So many source pages become so many of ours, together."""
        self.batches = 1
        """Such batches that one request asks for."""

    def add(self, order: PullOrder) -> None:
        pull = _Pull(order)
        with self._changed:
            if self._closed:
                pull.failure = "the transport is closed"
            else:
                self._open[order.claim] = pull
                self._turn.append(pull)
                self._changed.notify()
        if pull.failure:
            self._tell(pull)

    def cancel(self, claim: int) -> None:
        with self._changed:
            pull = self._open.get(claim)
            over = pull is not None and self._fail(pull, "cancelled")
        if over and pull is not None:
            self._tell(pull)

    def take(self, timeout_s: float | None = None) -> Batch | None:
        """The next batch, waiting for one; None where the queue was closed or the time is over."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._turn or self._closed, timeout_s) or self._closed:
                return None
            pull = self._turn.popleft()
            sources, targets = self.source_batch, self.target_batch
            whole = -(-len(pull.order.pages) // sources)
            first = pull.asked // sources
            last = min(first + self.batches, whole)
            pages = pull.order.pages[first * sources : last * sources]
            into = pull.order.into[first * targets : last * targets]
            pull.asked += len(pages)
            pull.under_way += 1
            if pull.asked < len(pull.order.pages):
                self._turn.append(pull)
                self._changed.notify()
            return Batch(pull, pages, into)

    def back(self, batch: Batch, bytes_moved: int, failure: str = "") -> None:
        """A batch is here, or will never be."""
        pull = batch.pull
        with self._changed:
            pull.under_way -= 1
            pull.bytes_moved += bytes_moved
            if failure:
                over = self._fail(pull, failure)
            else:
                over = not pull.under_way and (pull.asked == len(pull.order.pages) or bool(pull.failure))
                if over:
                    self._open.pop(pull.order.claim, None)
        if over:
            self._tell(pull)

    def fail_all(self, failure: str) -> None:
        with self._changed:
            over = [pull for pull in list(self._open.values()) if self._fail(pull, failure)]
        for pull in over:
            self._tell(pull)

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _fail(self, pull: _Pull, failure: str) -> bool:
        """Notes the first failure; says whether the copy is over with it. Called with the lock."""
        pull.failure = pull.failure or failure
        if pull in self._turn:
            self._turn.remove(pull)
        if pull.under_way:
            return False
        return self._open.pop(pull.order.claim, None) is not None

    def _tell(self, pull: _Pull) -> None:
        order = pull.order
        self._done(PullDone(order.source.worker, order.claim, pull.bytes_moved, pull.failure))
