"""The pages of one host as the simulator knows them: contents, owner, offers and claims.

These books are kept from the messages alone and never read a machine's own ledger, so that the two can
be held against each other.
"""

from __future__ import annotations

from collections import Counter

from diptych.core import facts
from diptych.core.ids import CONTROL, Attempt, Incarnation, RequestId, from_extents
from diptych.sim.events import Violation

Offer = tuple[Incarnation, Incarnation, RequestId, Attempt, int]
Loan = tuple[Incarnation, str, RequestId, Attempt]


class Page:
    # fmt: off
    __slots__ = (
        "afar", "arriving", "claims", "filled", "giver", "loans", "offers", "owner", "receiver", "stamp",
    )
    # fmt: on

    def __init__(self) -> None:
        self.owner: Incarnation | None = None
        self.giver: Incarnation | None = None
        """While ownership is in a message under way: who sent it, and to whom."""
        self.receiver: Incarnation | None = None
        self.filled = 0
        self.stamp = 0
        """Of the last filled slot; with the chain it stands for all slots before."""
        self.afar = 0
        """Open claims of readers in other pools: while there are any, nobody may write it."""
        self.arriving = False
        """A copy is being written to it, by a port."""
        self.claims: dict[Incarnation, Incarnation] = {}
        """Claimant and whom it claims from: the owner, or another claimant that lent on what it claims."""
        self.offers: set[Offer] = set()
        self.loans: Counter[Loan] = Counter()
        """(lender, reader, request, attempt): context that a target lends its source, without payment."""

    def held_by(self, worker: Incarnation) -> bool:
        """Whether it may pass the page on. An offer stands for the claim while its answer waits for an
        estate."""
        if self.owner == worker or worker in self.claims:
            return True
        return any(offer[1] == worker for offer in self.offers)

    def readers(self, besides: Incarnation = "") -> list[Incarnation]:
        """Who may read the page without owning it."""
        names = [name for name in self.claims if name != besides]
        return names + [loan[1] for loan, count in self.loans.items() if count and loan[1] != besides]


class Pool:
    """What each page holds and to whom it belongs."""

    def __init__(self, host: str, pages: int, page_tokens: int) -> None:
        self.host = host
        self.page_tokens = page_tokens
        self.pages = [Page() for _ in range(pages)]
        self.alive: set[Incarnation] = set()
        self._offered: dict[Offer, tuple[int, ...]] = {}
        self._unreceipted: dict[tuple[Incarnation, str, int], tuple[int, ...]] = {}
        """Gifts by (giver, receiver, serial) that the giver lists: it has no word yet of their arrival."""
        self._known_lost: set[tuple[Incarnation, Incarnation]] = set()
        """(worker, peer): the worker was told that the peer is dead, and ignores what it still hears."""

    # ---- contents --------------------------------------------------------------------------------

    def read(self, reader: Incarnation, page: int, filled: int, stamp: int) -> None:
        """`reader` reads the first `filled` slots and expects them to end in `stamp`."""
        held = self.pages[page]
        offered = any(offer[1] == reader for offer in held.offers)
        if held.owner != reader and not offered and reader not in held.readers():
            raise Violation("read without a claim", f"{reader} reads page {page} of {held.owner}")
        if held.filled < filled or (held.filled == filled and held.stamp != stamp):
            raise Violation("stale page", f"{reader} expects {filled} slots of its own in page {page}")

    def writable(self, writer: Incarnation, page: int, slot: int) -> None:
        held = self.pages[page]
        if held.owner != writer:
            raise Violation("one writer", f"{writer} writes page {page} of {held.owner}")
        if held.afar or held.arriving:
            raise Violation("page in use", f"{writer} writes page {page}, which is being copied")
        others = held.readers(besides=writer)
        if others or held.offers:
            raise Violation("sealed page written", f"{writer} writes page {page}, read by {others}")
        if slot and held.filled < slot:
            raise Violation("gap in page", f"{writer}: slot {slot} of page {page} after {held.filled}")

    def write(self, writer: Incarnation, page: int, filled: int, stamp: int) -> None:
        self.writable(writer, page, 0)
        held = self.pages[page]
        held.filled = filled
        held.stamp = stamp

    def tear(self, page: int) -> None:
        """Its writer died in the middle of a step."""
        self.pages[page].filled = 0

    def claimed_from_afar(self, owner: Incarnation, pages: tuple[int, ...]) -> None:
        for page in pages:
            self._sealed_by(owner, page)
            self.pages[page].afar += 1

    def unclaimed_from_afar(self, pages: tuple[int, ...]) -> None:
        for page in pages:
            self.pages[page].afar -= 1

    def arriving(self, reader: Incarnation, pages: tuple[int, ...]) -> None:
        """A port begins to write copies there; the worker leaves them alone until it has ended."""
        for page in pages:
            self.writable(reader, page, 0)
            self.pages[page].arriving = True
            self.pages[page].filled = 0

    def arrived(self, pages: tuple[int, ...]) -> None:
        for page in pages:
            self.pages[page].arriving = False

    # ---- what messages mean for the books ----------------------------------------------------------

    def sent(self, sender: Incarnation, to: str, fact: facts.Fact) -> None:
        match fact:
            case facts.PagesOffered() if (sender, to) in self._known_lost:
                pass  # Word of the death waited for the run that made these pages: nobody reads them.
            case facts.PagesOffered() if fact.claim:
                pass  # A reader of another pool: `claimed_from_afar` has looked at the pages.
            case facts.PagesOffered():
                offer = (sender, to, fact.request, fact.attempt, fact.first_page)
                for page in fact.pages:
                    self._sealed_by(sender, page)
                    self.pages[page].offers.add(offer)
                self._offered[offer] = self._offered.get(offer, ()) + fact.pages
            case facts.OfferAnswered():
                self._claimed(sender, to, fact)
                for page in fact.released:
                    self._unclaimed(sender, page)
                self._gave(sender, to, fact.deposit, fact.serial)
            case facts.PagesGiven():
                self._gave(sender, to, fact.pages, fact.serial)
            case facts.ContextLent() if not fact.claim:
                self._lent(sender, to, fact)
            case facts.ContextReturned():
                for held in self.pages:
                    held.loans.pop((to, sender, fact.request, fact.attempt), None)
            case facts.ClaimReleased():
                for page in fact.pages:
                    self._unclaimed(sender, page)
            case facts.OwnershipStated():
                self._stated(sender, fact)
            case _:
                pass

    def delivered(self, sender: Incarnation, to: Incarnation, fact: facts.Fact) -> None:
        match fact:
            case (
                facts.PagesOffered() | facts.OfferAnswered() | facts.ClaimReleased() | facts.PagesGiven()
            ) if fact.taken:
                self._receipted(to, sender, fact.taken)
            case _:
                pass
        match fact:
            case facts.OfferAnswered():
                if (to, sender) not in self._known_lost:
                    self._withdrawn((to, sender, fact.request, fact.attempt, fact.first_page))
                    self._received(sender, to, fact.deposit)
            case facts.PagesGiven():
                if (to, sender) not in self._known_lost:
                    self._received(sender, to, fact.pages)
            case facts.ContextReturned():
                # Said before the loan was made, where the reader was released while it asked for one.
                for held in self.pages:
                    held.loans.pop((to, sender, fact.request, fact.attempt), None)
            case facts.PeerLost():
                self._known_lost.add((to, fact.worker))
                for offer in [held for held in self._offered if held[:2] == (to, fact.worker)]:
                    self._withdrawn(offer)
            case facts.PagesGranted():
                for page in from_extents(fact.pages):
                    self._granted(to, page)
            case facts.EstateSettled():
                # What the dead offered is inherited by now, or was the receiver's own page all along.
                for offer in [held for held in self._offered if held[:2] == (fact.lost, to)]:
                    self._withdrawn(offer)
                for page in from_extents(fact.inherited):
                    self._inherited(to, fact.lost, page)
                for page in from_extents(fact.deposits):
                    self._granted(to, page)
                for heir, pages in fact.moved:
                    for page in from_extents(pages):
                        if to in self.pages[page].claims:
                            self.pages[page].claims[to] = heir
            case _:
                pass

    def died(self, worker: Incarnation) -> None:
        """Dead readers claim nothing; what it owned stays its estate until it is granted anew."""
        self.alive.discard(worker)
        for page in self.pages:
            page.claims.pop(worker, None)
            for loan in [held for held in page.loans if held[1] == worker]:
                del page.loans[loan]

    def owned(self, worker: Incarnation) -> set[int]:
        return {number for number, page in enumerate(self.pages) if page.owner == worker}

    def claimed(self, worker: Incarnation) -> set[int]:
        return {number for number, page in enumerate(self.pages) if worker in page.claims}

    def paid_more_than_once(self, lender: Incarnation) -> int:
        """Payments beyond the first for pages that several claim of this worker."""
        counts = [list(page.claims.values()).count(lender) for page in self.pages]
        return sum(max(0, count - 1) for count in counts)

    def offers(self) -> list[Offer]:
        return list(self._offered)

    # ---- rules ------------------------------------------------------------------------------------

    def _sealed_by(self, sender: Incarnation, page: int) -> None:
        held = self.pages[page]
        if not held.held_by(sender):
            raise Violation("offer of another's page", f"{sender} offers page {page} of {held.owner}")
        if held.filled != self.page_tokens:
            raise Violation("unsealed page offered", f"{sender} offers page {page}, {held.filled} filled")

    def _claimed(self, claimant: Incarnation, owner: str, fact: facts.OfferAnswered) -> None:
        if fact.kept and (claimant, owner) in self._known_lost:
            raise Violation("claim on the dead", f"{claimant} claims {fact.kept} of {owner}")
        offered = self._offered.get((owner, claimant, fact.request, fact.attempt, fact.first_page), ())
        if not set(fact.kept) <= set(offered):
            raise Violation("claim without an offer", f"{claimant} keeps {fact.kept} of {offered} by {owner}")
        if len(fact.kept) != len(fact.deposit) + len(fact.released):
            raise Violation("wrong payment", f"{claimant} keeps {len(fact.kept)}, pays {len(fact.deposit)}")
        for page in fact.kept:
            if claimant in self.pages[page].claims:
                raise Violation("claimed twice", f"{claimant} claims page {page} again, of {owner}")
            self.pages[page].claims[claimant] = owner

    def _lent(self, lender: Incarnation, reader: str, fact: facts.ContextLent) -> None:
        for number in fact.pages:
            page = self.pages[number]
            if not page.held_by(lender):
                raise Violation("loan of another's page", f"{lender} lends page {number} of {page.owner}")
            if reader in self.alive:
                page.loans[lender, reader, fact.request, fact.attempt] += 1

    def _unclaimed(self, claimant: Incarnation, page: int) -> None:
        if self.pages[page].claims.pop(claimant, None) is None and self.pages[page].owner != claimant:
            raise Violation("release without a claim", f"{claimant} releases page {page}")
        lent = [loan[1] for loan, count in self.pages[page].loans.items() if count and loan[0] == claimant]
        if lent:
            raise Violation("release under a reader", f"{claimant} lets go of page {page}, lent to {lent}")

    def _gave(self, giver: Incarnation, receiver: str, pages: tuple[int, ...], serial: int) -> None:
        self._unreceipted[giver, receiver, serial] = pages
        for number in pages:
            page = self.pages[number]
            if page.owner != giver:
                raise Violation("gift of another's page", f"{giver} gives page {number} of {page.owner}")
            if page.offers or page.readers() or page.afar or page.arriving:
                raise Violation("gift of a claimed page", f"{giver} gives page {number}")
            page.owner, page.giver, page.receiver = None, giver, receiver

    def _receipted(self, giver: Incarnation, receiver: Incarnation, taken: int) -> None:
        for key in [key for key in self._unreceipted if key[:2] == (giver, receiver) and key[2] <= taken]:
            for number in self._unreceipted.pop(key):
                page = self.pages[number]
                if (page.giver, page.receiver) == (giver, receiver):
                    raise Violation("receipt before the gift", f"{receiver} of page {number} of {giver}")

    def _received(self, giver: Incarnation, receiver: Incarnation, pages: tuple[int, ...]) -> None:
        for number in pages:
            page = self.pages[number]
            if (page.giver, page.receiver) == (giver, receiver):
                page.owner, page.giver, page.receiver = receiver, None, None

    def _withdrawn(self, offer: Offer) -> None:
        for number in self._offered.pop(offer, ()):
            self.pages[number].offers.discard(offer)

    def _stated(self, worker: Incarnation, fact: facts.OwnershipStated) -> None:
        """A statement names what is ours, and gifts of ours whose receipt is still to come. Whoever
        makes one has stopped reading what the dead lent."""
        for page in self.pages:
            for loan in [held for held in page.loans if held[:2] == (fact.lost, worker)]:
                del page.loans[loan]
        for number in from_extents(fact.owned):
            page = self.pages[number]
            if page.owner != worker:
                raise Violation("false statement", f"{worker} states page {number} of {page.owner}")
        for receiver, serial, extents in fact.given:
            pages = from_extents(extents)
            gift = self._unreceipted.get((worker, receiver, serial))
            held_back = gift is None and all(self.pages[page].owner == worker for page in pages)
            if not held_back and (gift is None or sorted(gift) != pages):
                raise Violation("false statement", f"{worker} states a gift to {receiver}: {extents}")
        for number in from_extents(fact.claimed):
            page = self.pages[number]
            if any(offer[:2] == (fact.lost, worker) for offer in page.offers):
                # Its answer waited for another estate and never went out; the offer stands for the claim.
                page.claims.setdefault(worker, fact.lost)
            if worker not in page.claims:
                raise Violation("false statement", f"{worker} states a claim on page {number}")
        named = set(from_extents(fact.owned)).union(*(from_extents(gift[2]) for gift in fact.given))
        for number in self.owned(worker) - named:
            # So did what it would have paid: that belongs to the estate.
            self.pages[number].owner = None

    def _granted(self, worker: Incarnation, number: int) -> None:
        page = self.pages[number]
        if page.owner in self.alive or self._under_way(page):
            raise Violation("two owners", f"page {number} granted to {worker}, owned by {page.owner}")
        readers = page.readers()
        if readers or page.afar or page.arriving:
            raise Violation("claimed page granted", f"page {number} to {worker}, read by {readers}")
        page.owner, page.giver, page.receiver = worker, None, None
        page.offers.clear()

    def _under_way(self, page: Page) -> bool:
        """A gift is its receiver's once it lands, its giver's while the receiver may be alive for it."""
        giver, receiver = page.giver, page.receiver
        if giver is None or receiver is None or receiver == CONTROL:
            return False
        lands = receiver in self.alive and (receiver, giver) not in self._known_lost
        returns = giver in self.alive and (giver, receiver) not in self._known_lost
        return lands or returns

    def _inherited(self, worker: Incarnation, lost: Incarnation, number: int) -> None:
        page = self.pages[number]
        # The heir of a dead worker may die before it hears so: its claimants inherit from it all the same.
        unheard = page.owner not in self.alive and page.claims.get(worker) == lost
        if page.owner != lost and lost not in (page.giver, page.receiver) and not unheard:
            raise Violation("foreign inheritance", f"{worker} inherits page {number} of {page.owner}")
        page.owner, page.giver, page.receiver = worker, None, None
        page.claims.pop(worker, None)
        page.offers.clear()
