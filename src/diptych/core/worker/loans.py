"""Context that a target lends its source: pages of the prompt that only the target has, pinned meanwhile."""

from __future__ import annotations

from diptych.core.actions import Send
from diptych.core.config import WorkerConfig
from diptych.core.facts import ContextLent, ContextNeeded
from diptych.core.ids import Incarnation, Pages
from diptych.core.pages.ledger import Ledger
from diptych.core.pages.node import Node
from diptych.core.worker.grants import Grants
from diptych.core.worker.sequence import Key, Target


class Loans:
    def __init__(self, config: WorkerConfig, ledger: Ledger, grants: Grants) -> None:
        self.config = config
        self.ledger = ledger
        self.grants = grants
        self.open: dict[tuple[Key, Incarnation], Node] = {}
        """Read where they lie, so pinned until the reader says it is done, or is dead."""

    def lend(self, now_ns: int, task: Target, fact: ContextNeeded) -> None:
        """This very request keeps the pages pinned anyway, but the loan outlives it where the source is
        slower than a cancel. A source in another pool gets a claim to copy them by. The dead would
        never return a loan."""
        if fact.sender in self.ledger.lost:
            return
        pages = tuple(task.shared[fact.first_page : min(fact.end_page, task.sealed)])
        claim = 0
        if pages:
            assert task.leaf is not None
            if fact.pull:
                claim = self.grants.grant(now_ns, fact.sender, task.key, task.leaf, pages)
            elif (task.key, fact.sender) not in self.open:
                self.ledger.tree.pin(task.leaf)
                self.open[task.key, fact.sender] = task.leaf
        self._tell(fact, pages, claim)

    def refuse(self, fact: ContextNeeded) -> None:
        if fact.sender not in self.ledger.lost:
            self._tell(fact, (), 0)

    def end(self, key: Key, reader: Incarnation) -> None:
        leaf = self.open.pop((key, reader), None)
        if leaf is not None:
            self.ledger.unpin(leaf)

    def peer_lost(self, lost: Incarnation) -> None:
        for key, reader in list(self.open):
            if reader == lost:
                self.end(key, reader)

    def _tell(self, fact: ContextNeeded, pages: Pages, claim: int) -> None:
        lent = ContextLent(
            request=fact.request,
            attempt=fact.attempt,
            sender=self.config.worker,
            first_page=fact.first_page,
            pages=pages,
            claim=claim,
        )
        self.ledger.outbox.append(Send(to=fact.sender, fact=lent))
