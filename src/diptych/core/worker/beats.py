"""When a worker tells control how it is, if nothing else says that it lives."""

from __future__ import annotations

from diptych.core.pages.ledger import Ledger

BEATS_APART_NS = 100_000_000
"""A prefill rate that moved is told at once, but not more often than this."""
PUT_OFF_MAX = 3
"""So many beats in a row at most are not sent while control hears from the worker anyway."""


class Beats:
    """The clock of one worker's beats; they begin when control is there."""

    __slots__ = ("at_ns", "beat_ns", "ledger", "put_off", "sent_ns", "told")

    def __init__(self, beat_ns: int, ledger: Ledger) -> None:
        self.beat_ns = beat_ns
        self.ledger = ledger
        self.at_ns: int | None = None
        """When the next one is due."""
        self.sent_ns = 0
        self.told = 0
        """What `ledger.told` was when the last one was due."""
        self.put_off = 0
        """How many in a row were not sent."""

    def at_once(self, now_ns: int) -> None:
        if self.at_ns is not None:
            self.at_ns = now_ns

    def soon(self, now_ns: int) -> None:
        if self.at_ns is not None:
            self.at_ns = min(self.at_ns, max(now_ns, self.sent_ns + BEATS_APART_NS))

    def due(self, now_ns: int) -> bool:
        """Whether one is due; then the next is, a while later."""
        if self.at_ns is None or now_ns < self.at_ns:
            return False
        self.at_ns = now_ns + self.beat_ns
        self.sent_ns = now_ns
        return True

    def heard_of(self) -> bool:
        """Whether control was told something since the last beat was due: that renewed the lease as well,
        and the one due now need not be sent, unless control would see the worker's counts too seldom."""
        heard, self.told = self.ledger.told != self.told, self.ledger.told
        if heard and self.put_off < PUT_OFF_MAX:
            self.put_off += 1
            return True
        self.put_off = 0
        return False
