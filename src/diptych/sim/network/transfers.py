"""Copies of pages between pools: what serves claims, what pulls, and all that goes wrong on the way.

A page is copied at one moment, some time after the one before it. A two-sided transport asks the claim's
owner for every page, who refuses once the claim is closed; a one-sided one reads whatever stands there, also
while either end stands still or the link for messages is cut, as remote memory access does. Both are honest
about what a link broke, and both leave it to the machines to believe nothing that is not confirmed.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from diptych.core import actions, facts
from diptych.core.ids import Incarnation
from diptych.sim.driver import Driver, Happening, Seat
from diptych.sim.events import Event, Violation
from diptych.sim.faults.tally import Tally
from diptych.sim.network.network import Network
from diptych.sim.pool import Pool
from diptych.sim.scenario import MILLISECOND_NS, TransferPlan

TRANSFERS = "transfers"
STALL_NS = 5 * MILLISECOND_NS
"""How long a copy waits for somebody who stands still before it looks again."""
TORN = -1
"""Stamp of a page that was broken on the way."""


class Copied(Event, frozen=True):
    """The next page of a transfer is due."""

    reader: Incarnation
    source: Incarnation
    claim: int


class Transfer:
    def __init__(self, asked: actions.PullPages, stamps: tuple[int, ...]) -> None:
        self.asked = asked
        self.stamps = stamps
        """What the pages held when they were asked for."""
        self.done = 0
        """Pages copied so far."""
        self.cancelled = False
        self.broken = False
        """A checksum will not agree."""
        self.hung = False
        self.outlived = False
        """The claim was closed while it still copied."""


class Transfers:
    """The transport ports of all workers."""

    def __init__(
        self,
        plan: TransferPlan,
        seed: int,
        driver: Driver,
        workers: dict[Incarnation, Seat],
        pool_of: Callable[[Incarnation], Pool],
        network: Network,
        tally: Tally,
    ) -> None:
        self.plan = plan
        self.network = network
        self.tally = tally
        self.driver = driver
        self.workers = workers
        self.pool_of = pool_of
        self.claims: dict[tuple[Incarnation, int], tuple[Incarnation, tuple[int, ...]]] = {}
        """By (owner, claim): the reader and the pages."""
        self.moving: dict[tuple[Incarnation, Incarnation, int], Transfer] = {}
        """By (reader, source, claim)."""
        self._random = random.Random(f"transfers {seed}")

    def perform(self, worker: Incarnation, action: actions.Action) -> None:
        match action:
            case actions.OpenClaim():
                self.claims[worker, action.claim] = (action.reader, action.pages)
                self.pool_of(worker).claimed_from_afar(worker, action.pages)
            case actions.CloseClaim():
                _, pages = self.claims.pop((worker, action.claim))
                self.pool_of(worker).unclaimed_from_afar(pages)
            case actions.PullPages():
                self.pool_of(worker).arriving(worker, action.into)
                held = self.pool_of(action.source).pages
                stamps = tuple(held[page].stamp for page in action.pages)
                self.moving[worker, action.source, action.claim] = Transfer(action, stamps)
                self._plan(worker, action.source, action.claim, self._page_ns())
            case actions.CancelPull():
                transfer = self.moving.get((worker, action.source, action.claim))
                if transfer is not None:  # Else its end is still in the worker's mail.
                    transfer.cancelled = True
                    self._plan(worker, action.source, action.claim, self._page_ns())
            case _:
                raise Violation("transfers cannot perform it", repr(action))

    def died(self, worker: Incarnation) -> None:
        """Its claims are nobody's, and what it was pulling has no reader."""
        for name in [name for name in self.claims if name[0] == worker]:
            _, pages = self.claims.pop(name)
            self.pool_of(worker).unclaimed_from_afar(pages)
        for key in [key for key in self.moving if key[0] == worker]:
            self.pool_of(worker).arrived(self.moving.pop(key).asked.into)

    def receive(self, now_ns: int, sender: str, event: Happening, payload: object) -> None:
        assert isinstance(event, Copied)
        transfer = self.moving.get((event.reader, event.source, event.claim))
        if transfer is None:
            return
        if self.workers[event.reader].paused_ns is not None and not self.plan.one_sided:
            self._plan(event.reader, event.source, event.claim, STALL_NS)
            return
        failure = self._obstacle(event, transfer)
        if failure == "stalled":
            self._plan(event.reader, event.source, event.claim, STALL_NS)
        elif failure:
            self._finish(event.reader, transfer, failure)
        elif not transfer.hung and self._strikes(self.plan.hang_permille):
            transfer.hung = True
            self.tally.note("pull that hangs", injected=1, effective=1)
            self._plan(event.reader, event.source, event.claim, self.plan.hang_ns)
        else:
            self._copy(event, transfer)

    def _obstacle(self, event: Copied, transfer: Transfer) -> str:
        source = self.workers[event.source]
        if transfer.cancelled:
            return "cancelled"
        if not source.alive:
            return "the source is gone"
        if self._strikes(self.plan.fail_permille):
            self.tally.note("transfer failure", injected=1, effective=1)
            return "the link broke"
        if (event.source, event.claim) not in self.claims and not transfer.outlived:
            transfer.outlived = True
            self.tally.note("pull that outlives its claim", injected=1, effective=1)
        if self.plan.one_sided:
            return ""
        network = self.network
        ends = (network.machine_of(event.reader), network.machine_of(event.source))
        if source.paused_ns is not None or network.weather.cut(self.driver.now_ns, *ends):
            return "stalled"
        return "" if (event.source, event.claim) in self.claims else "the claim is closed"

    def _copy(self, event: Copied, transfer: Transfer) -> None:
        asked = transfer.asked
        theirs = self.pool_of(event.source).pages[asked.pages[transfer.done]]
        mine = self.pool_of(event.reader).pages[asked.into[transfer.done]]
        mine.filled, mine.stamp = theirs.filled, theirs.stamp
        if theirs.stamp != transfer.stamps[transfer.done]:
            self.tally.note("page reused under a remote reader", injected=1, effective=1)
        if self._strikes(self.plan.corrupt_permille):
            mine.stamp, transfer.broken = TORN, True
            self.tally.note("corrupted page", injected=1, effective=1)
        transfer.done += 1
        if transfer.done < len(asked.pages):
            self._plan(event.reader, event.source, event.claim, self._page_ns())
        else:
            self._finish(event.reader, transfer, "a checksum differs" if transfer.broken else "")

    def _finish(self, reader: Incarnation, transfer: Transfer, failure: str) -> None:
        asked = transfer.asked
        del self.moving[reader, asked.source, asked.claim]
        self.pool_of(reader).arrived(asked.into)
        pulled = facts.PagesPulled(
            request=asked.request,
            attempt=asked.attempt,
            source=asked.source,
            claim=asked.claim,
            bytes_moved=transfer.done,
            failure=failure,
        )
        self.driver.at(self.driver.now_ns, TRANSFERS, reader, pulled)

    def _plan(self, reader: Incarnation, source: Incarnation, claim: int, delay_ns: int) -> None:
        self.driver.at(self.driver.now_ns + delay_ns, reader, TRANSFERS, Copied(reader, source, claim))

    def _page_ns(self) -> int:
        return self._random.randint(1, 2 * self.plan.page_ns)

    def _strikes(self, permille: int) -> bool:
        return bool(permille) and self._random.randrange(1000) < permille
