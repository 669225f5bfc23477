"""A worker's dealings with other pools: which of its tasks a copy or a claim concerns, and when waits end."""

from __future__ import annotations

from collections.abc import Callable

from diptych.core.facts import ClaimsRenewed, Fact, PagesPulled, PullConfirmed, PullEnded
from diptych.core.worker.grants import Grants
from diptych.core.worker.pulls import Pull, Pulls
from diptych.core.worker.source import Sources
from diptych.core.worker.target import Targets


class Exchange:
    """Joins the two halves of pulls (`pulls.py`, `grants.py`) with the two desks."""

    def __init__(self, pulls: Pulls, grants: Grants, sources: Sources, targets: Targets) -> None:
        self.pulls = pulls
        self.grants = grants
        self.sources = sources
        self.targets = targets

    def step(self, now_ns: int, fact: Fact) -> None:
        ROWS[type(fact)](self, now_ns, fact)

    def pulled(self, now_ns: int, fact: PagesPulled) -> None:
        self._fetched(now_ns, self.pulls.pulled(now_ns, fact))

    def confirmed(self, now_ns: int, fact: PullConfirmed) -> None:
        self._fetched(now_ns, self.pulls.confirmed(fact))

    def ended(self, now_ns: int, fact: PullEnded) -> None:
        grant = self.grants.ended(fact)
        if grant is not None:
            self.sources.grant_ended(now_ns, grant, held=True)

    def renewed(self, now_ns: int, fact: ClaimsRenewed) -> None:
        self.grants.renew(now_ns, fact)

    def _fetched(self, now_ns: int, pull: Pull | None) -> None:
        if pull is None:
            return
        if pull.key in self.sources.tasks:
            self.sources.context_fetched(now_ns, pull)
        else:
            self.targets.fetched(now_ns, pull)

    # ---- time -------------------------------------------------------------------------------------

    def next_deadline_ns(self) -> int | None:
        if not (self.grants.open or self.pulls.open or self.sources.line):
            return None
        waits = (self.grants.next_expiry_ns(), self.pulls.next_expiry_ns(), self.sources.next_expiry_ns())
        return min((time for time in waits if time is not None), default=None)

    def time_passed(self, now_ns: int) -> None:
        for grant in self.grants.expire(now_ns):
            self.sources.grant_ended(now_ns, grant, held=False)
        for pull in self.pulls.expire(now_ns):
            self._fetched(now_ns, pull)
        self.sources.expire(now_ns)


X = Exchange
ROWS: dict[type[Fact], Callable[..., None]] = {
    PagesPulled: X.pulled,
    PullConfirmed: X.confirmed,
    PullEnded: X.ended,
    ClaimsRenewed: X.renewed,
}
