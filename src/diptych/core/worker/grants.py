"""The owner's half of a pull: claims that workers of other pools hold on this worker's sealed pages.

A claim pins a path of the tree for one reader and is leased: a reader that has gone silent, or that is cut
off, loses it, and the pages may be written again. That is safe although the reader may be reading at that
moment, because it asks afterwards whether the claim held (`PullEnded`) and believes only a yes.
"""

from __future__ import annotations

from diptych.core.actions import CloseClaim, OpenClaim, Send
from diptych.core.config import WorkerConfig
from diptych.core.facts import ClaimsRenewed, PullConfirmed, PullEnded
from diptych.core.ids import Incarnation, Pages
from diptych.core.pages.ledger import Ledger
from diptych.core.pages.node import Node
from diptych.core.worker.sequence import Key


class Grant:
    """One claim of one reader, and the pinned path it keeps."""

    __slots__ = ("claim", "expires_ns", "key", "leaf", "pages", "reader")

    def __init__(
        self, claim: int, reader: Incarnation, key: Key, leaf: Node, pages: Pages, expires_ns: int
    ) -> None:
        self.claim = claim
        self.reader = reader
        self.key = key
        self.leaf = leaf
        self.pages = pages
        self.expires_ns = expires_ns


class Grants:
    """All claims on this worker's pages from outside its pool."""

    def __init__(self, config: WorkerConfig, ledger: Ledger) -> None:
        self.config = config
        self.ledger = ledger
        self.open: dict[int, Grant] = {}

    def grant(self, now_ns: int, reader: Incarnation, key: Key, leaf: Node, pages: Pages) -> int:
        """Pins the path for the reader; returns the claim's number, which is never used again."""
        claim = self.ledger.next_serial()
        self.ledger.tree.pin(leaf)
        self.open[claim] = Grant(claim, reader, key, leaf, pages, now_ns + self.config.claim_lease_ns)
        self.ledger.outbox.append(OpenClaim(claim=claim, reader=reader, pages=pages))
        return claim

    def ended(self, fact: PullEnded) -> Grant | None:
        """The reader is done: tells it whether the claim held, and returns the claim if it did."""
        grant = self.open.get(fact.claim)
        if grant is not None and grant.reader != fact.sender:
            grant = None
        if grant is not None:
            self._close(grant)
        answer = PullConfirmed(sender=self.config.worker, claim=fact.claim, held=grant is not None)
        self.ledger.outbox.append(Send(to=fact.sender, fact=answer))
        return grant

    def renew(self, now_ns: int, fact: ClaimsRenewed) -> None:
        for claim in fact.claims:
            grant = self.open.get(claim)
            if grant is not None and grant.reader == fact.sender:
                grant.expires_ns = now_ns + self.config.claim_lease_ns

    def expire(self, now_ns: int) -> list[Grant]:
        """Ends the claims whose readers have been silent for a lease, and returns them."""
        late = [grant for grant in self.open.values() if grant.expires_ns <= now_ns]
        for grant in late:
            self._close(grant)
        return late

    def next_expiry_ns(self) -> int | None:
        return min((grant.expires_ns for grant in self.open.values()), default=None)

    def excuse(self, duration_ns: int) -> None:
        """This worker stood still: nobody's silence in that time counts."""
        for grant in self.open.values():
            grant.expires_ns += duration_ns

    def release(self, key: Key) -> None:
        """The attempt is over: whoever still reads for it will not be believed."""
        for grant in [grant for grant in self.open.values() if grant.key == key]:
            self._close(grant)

    def _close(self, grant: Grant) -> None:
        del self.open[grant.claim]
        self.ledger.outbox.append(CloseClaim(claim=grant.claim))
        self.ledger.unpin(grant.leaf)
