"""Messages between workers, and the KV that goes with them where workers do not share a pool.

An offer (or a loan) of pages reaches its reader when the bytes of those pages have landed. Transfers
that share a link share its bandwidth equally; between one pair of workers everything stays in order,
so that a small last chunk never overtakes the first.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush

from diptych.core import facts
from diptych.core.ids import Incarnation
from diptych.sim.costs.file import LinkCosts
from diptych.sim.driver import Driver, Happening
from diptych.sim.events import Violation
from diptych.sim.timed.events import Landed

LINKS = "links"
PS_PER_S = 1_000_000_000_000
_PARTS = 1 << 20
"""Shares of the bandwidth are counted in this part of a byte: exact sums, the same on every machine."""

Pair = tuple[Incarnation, Incarnation]


class Link:
    """One shared resource; knows which pairs transfer on it and how far each is."""

    __slots__ = ("active", "change", "heap", "served", "since_ns")

    def __init__(self) -> None:
        self.active = 0
        """Pairs that transfer right now."""
        self.heap: list[tuple[int, int, Pair]] = []
        """(service at which the pair's transfer is complete, serial, pair)"""
        self.served = 0
        """Parts of bytes that each transfer that was always there has got."""
        self.since_ns = 0
        self.change = 0


class Links:
    """A party of the simulated world: it is told when transfers should be complete."""

    def __init__(self, driver: Driver, costs: LinkCosts, page_bytes: int) -> None:
        self.driver = driver
        self.costs = costs
        self.page_bytes = page_bytes
        self.bytes_landed = 0
        self._links: dict[str, Link] = {}
        self._waiting: dict[Pair, deque[tuple[int, facts.Fact]]] = {}
        """Messages of pairs with a transfer under way: (bytes, fact), the one under way first."""
        self._last_ns: dict[Pair, int] = {}
        self._serial = 0
        self.latency_only = costs.bytes_per_s is None and not costs.page_ns
        """Whether pages make no difference to what a message takes."""
        driver.parties[LINKS] = self

    def send(self, sender: Incarnation, to: Incarnation, fact: facts.Fact) -> None:
        pages = 0
        if isinstance(fact, (facts.PagesOffered, facts.ContextLent)):
            pages = len(fact.pages)
        size = pages * self.page_bytes if self.costs.bytes_per_s is not None else 0
        pair = (sender, to)
        if pair in self._waiting:
            self._waiting[pair].append((size, fact))
        elif size:
            self._waiting[pair] = deque([(size, fact)])
            self._begin(pair)
        else:
            self._deliver(pair, fact, pages)

    def receive(self, now_ns: int, sender: str, event: Happening, payload: object) -> None:
        if not isinstance(event, Landed):
            raise Violation("links cannot take it", repr(event))
        link = self._links[event.link]
        if event.change != link.change:
            return
        self._serve(link)
        while link.heap and link.heap[0][0] <= link.served:
            pair = heappop(link.heap)[2]
            link.active -= 1
            self._landed(pair)
        self._plan(event.link)

    def _name(self, pair: Pair) -> str:
        match self.costs.shared_by:
            case "fleet":
                return ""
            case "source":
                return pair[0]
            case _:
                return " ".join(pair)

    def _begin(self, pair: Pair) -> None:
        """The pair's first waiting transfer starts: all others on the link slow down."""
        name = self._name(pair)
        link = self._links.setdefault(name, Link())
        self._serve(link)
        link.active += 1
        self._serial += 1
        size = self._waiting[pair][0][0]
        heappush(link.heap, (link.served + size * _PARTS, self._serial, pair))
        self._plan(name)

    def _serve(self, link: Link) -> None:
        now_ns = self.driver.now_ns
        if link.active:
            assert self.costs.bytes_per_s is not None
            rate = int(self.costs.bytes_per_s) * _PARTS
            link.served += (now_ns - link.since_ns) * rate // (link.active * 1_000_000_000)
        link.since_ns = now_ns

    def _plan(self, name: str) -> None:
        link = self._links[name]
        link.change += 1
        if link.heap:
            assert self.costs.bytes_per_s is not None
            rate = int(self.costs.bytes_per_s) * _PARTS
            missing = max(0, link.heap[0][0] - link.served)
            wait_ns = -(-missing * link.active * 1_000_000_000 // rate)
            # One more: what was served is rounded down, and a transfer must not wait for its last part.
            self.driver.at(self.driver.now_ns + wait_ns + 1, LINKS, LINKS, Landed(name, link.change))

    def _landed(self, pair: Pair) -> None:
        """The transfer is complete; so is what waited behind it, up to the next transfer."""
        waiting = self._waiting[pair]
        size, fact = waiting.popleft()
        self.bytes_landed += size
        self._deliver(pair, fact, size // max(1, self.page_bytes))
        while waiting and not waiting[0][0]:
            self._deliver(pair, waiting.popleft()[1], 0)
        if waiting:
            self._begin(pair)
        else:
            del self._waiting[pair]

    def _deliver(self, pair: Pair, fact: facts.Fact, pages: int) -> None:
        at_ns = self.driver.now_ns + self.costs.latency_ns + pages * self.costs.page_ns
        if self.costs.page_ns:
            at_ns = self._last_ns[pair] = max(at_ns, self._last_ns.get(pair, 0))
        self.driver.at(at_ns, pair[0], pair[1], fact)
