"""The reader's half of a pull: copies of pages of another pool, under way into pages of this worker.

    pulling ---PagesPulled---> confirming ---PullConfirmed(held)---> the task's, sealed
       | released                  | released, or nobody answers         | not held: worth nothing
    abandoned --PagesPulled--> free

Pages that a port writes to belong to the pull, not to the task, until the port says that it writes no more.
"""

from __future__ import annotations

from diptych.core.actions import CancelPull, PullPages, Send
from diptych.core.config import WorkerConfig
from diptych.core.facts import ClaimsRenewed, PagesPulled, PullConfirmed, PullEnded
from diptych.core.ids import Incarnation, Pages
from diptych.core.pages.ledger import Ledger
from diptych.core.worker.sequence import Key

PULLING = "pulling"
CONFIRMING = "confirming"
"""All bytes are here; whether they mean anything is for the owner to say."""
CANCELLED = "cancelled"
"""Its source is lost; the task waits for the pages to be its own again."""
ABANDONED = "abandoned"
"""Its task is gone as well."""


class Pull:
    __slots__ = (
        "begun_ns", "bytes_moved", "claim", "expires_ns", "failure", "first_page", "into", "key", "source",
        "state", "took_ns",
    )  # fmt: skip

    def __init__(
        self, key: Key, source: Incarnation, claim: int, first_page: int, into: list[int], now_ns: int
    ) -> None:
        self.key = key
        self.source = source
        self.claim = claim
        self.first_page = first_page
        self.into = into
        self.state = PULLING
        self.begun_ns = now_ns
        self.took_ns = 0
        self.expires_ns = 0
        """When waiting for the owner's word ends."""
        self.bytes_moved = 0
        self.failure = ""


class Pulls:
    """All copies under way to this worker."""

    def __init__(self, config: WorkerConfig, ledger: Ledger) -> None:
        self.config = config
        self.ledger = ledger
        self.open: dict[tuple[Incarnation, int], Pull] = {}

    def begin(
        self,
        now_ns: int,
        key: Key,
        source: Incarnation,
        claim: int,
        first_page: int,
        pages: Pages,
        into: list[int],
    ) -> None:
        """Starts a copy into private pages of the task, which are the pull's from now on."""
        self.open[source, claim] = Pull(key, source, claim, first_page, into, now_ns)
        self.ledger.outbox.append(
            PullPages(
                request=key[0],
                attempt=key[1],
                source=source,
                claim=claim,
                first_page=first_page,
                pages=pages,
                into=tuple(into),
            )
        )

    def refuse(self, source: Incarnation, claim: int) -> None:
        """Nobody here wants what was offered: its owner need not keep it."""
        self._end(source, claim)

    def pulled(self, now_ns: int, fact: PagesPulled) -> Pull | None:
        """The port is done. Returns the pull if it failed, or was cancelled: its pages are the task's."""
        pull = self.open.get((fact.source, fact.claim))
        if pull is None or pull.state is CONFIRMING:
            return None
        self._end(fact.source, fact.claim)
        pull.bytes_moved = fact.bytes_moved
        pull.took_ns = now_ns - pull.begun_ns
        if pull.state is PULLING and not fact.failure:
            pull.state = CONFIRMING
            pull.expires_ns = now_ns + self.config.claim_lease_ns
            return None
        del self.open[fact.source, fact.claim]
        if pull.state is ABANDONED:
            self.ledger.free_private(pull.into)
            return None
        pull.failure = fact.failure or "cancelled"
        return pull

    def confirmed(self, fact: PullConfirmed) -> Pull | None:
        """The owner's word. Returns the pull, with `failure` set where the claim did not hold."""
        pull = self.open.get((fact.sender, fact.claim))
        if pull is None or pull.state is not CONFIRMING:
            return None
        del self.open[fact.sender, fact.claim]
        if not fact.held:
            pull.failure = "the claim did not hold"
        return pull

    def cancel(self, key: Key) -> list[Pull]:
        """The source is lost: returns the pulls that are over at once; the others follow by `pulled`."""
        over: list[Pull] = []
        for name, pull in self._of(key):
            if pull.state is CONFIRMING:
                del self.open[name]
                pull.failure = "cancelled"
                over.append(pull)
            elif pull.state is PULLING:
                pull.state = CANCELLED
                self.ledger.outbox.append(CancelPull(source=pull.source, claim=pull.claim))
        return over

    def abandon(self, key: Key) -> None:
        """The task is gone: pages that are still written to stay the pull's until that ends."""
        for name, pull in self._of(key):
            if pull.state is CONFIRMING:
                del self.open[name]
                self.ledger.free_private(pull.into)
                continue
            if pull.state is PULLING:
                self.ledger.outbox.append(CancelPull(source=pull.source, claim=pull.claim))
            pull.state = ABANDONED

    def _of(self, key: Key) -> list[tuple[tuple[Incarnation, int], Pull]]:
        return [(name, pull) for name, pull in self.open.items() if pull.key == key]

    def any_of(self, key: Key) -> bool:
        return any(pull.key == key for pull in self.open.values())

    # ---- time -------------------------------------------------------------------------------------

    def renew(self) -> None:
        """Tells every owner which of its claims are still in use."""
        claims: dict[Incarnation, list[int]] = {}
        for (source, claim), pull in self.open.items():
            if pull.state is PULLING:
                claims.setdefault(source, []).append(claim)
        for source, mine in claims.items():
            fact = ClaimsRenewed(sender=self.config.worker, claims=tuple(mine))
            self.ledger.outbox.append(Send(to=source, fact=fact))

    def expire(self, now_ns: int) -> list[Pull]:
        """Pulls whose owners have not answered for a lease: not believed."""
        late = [p for p in self.open.values() if p.state is CONFIRMING and p.expires_ns <= now_ns]
        for pull in late:
            del self.open[pull.source, pull.claim]
            pull.failure = "its owner did not confirm the claim"
        return late

    def next_expiry_ns(self) -> int | None:
        times = (pull.expires_ns for pull in self.open.values() if pull.state is CONFIRMING)
        return min(times, default=None)

    def private_pages(self) -> list[int]:
        return [page for pull in self.open.values() for page in pull.into]

    def _end(self, source: Incarnation, claim: int) -> None:
        fact = PullEnded(sender=self.config.worker, claim=claim)
        self.ledger.outbox.append(Send(to=source, fact=fact))
