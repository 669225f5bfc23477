"""One worker's books of pages: which it owns, which are free, which changed hands and what is owed.

Every page of a pool has one owner, and only the owner writes it. A worker's pages are

    free       nobody's content
    private    written by, or set aside for, one task (not in the prefix tree)
    in the tree   sealed: pinned by live tasks, lent to claimants, or idle (the cache)
    given      on the way to another worker, listed until it says that they have arrived

and beside them the tree holds *foreign* pages: sealed pages of other workers that this one has claimed
and paid for with as many of its own. That deposit comes back when the claim ends, so every worker's
room stays what it was granted, wherever the pages of its sequences lie. A worker that is short of pages
lets go of its oldest claims; where it claims new pages of the same owner in that moment, the one pays for
the other, and no page has to go to and fro.

While the estate of a dead worker is being settled (`frozen`) nothing changes hands: neither gifts nor
receipts go out, so the owners' statements add up to the pool.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from diptych.core.actions import Action, Send
from diptych.core.errors import BrokenInvariant
from diptych.core.facts import (
    ClaimReleased,
    EstateSettled,
    Fact,
    OwnershipStated,
    PagesGiven,
)
from diptych.core.ids import CONTROL, Extents, Incarnation, PageHash, Pages, from_extents, to_extents
from diptych.core.pages.counts import PageCounts
from diptych.core.pages.node import Freed, Node
from diptych.core.pages.prefix import PrefixTree

AHEAD_SHARE = 8
"""A worker that claims pages keeps up to this part of its room free for whoever is next."""


class Ledger:
    """Pages of one worker. Methods append the messages they cause to `outbox`."""

    def __init__(self, worker: Incarnation, page_tokens: int, private_pages: Callable[[], list[int]]) -> None:
        """`private_pages` lists what the tasks hold: only they know, and only deaths and checks ask."""
        self.worker = worker
        self._private_pages = private_pages
        self.tree = PrefixTree(page_tokens)
        self.free: list[int] = []
        self.private = 0
        self.keep = 0
        """Pages that targets and debts leave available, so that a prefill can always go on."""
        self.granted = 0
        """Pages this worker was granted and has not lost: its room."""
        self.given: dict[Incarnation, deque[tuple[int, Pages]]] = {}
        """(serial, pages) of gifts to each worker that it has not said it has, in order."""
        self.debts: dict[Incarnation, int] = {}
        """Deposits to pay back as soon as pages are free."""
        self.owed: dict[Incarnation, int] = {}
        """Deposits that owners of released claims have still to pay back."""
        self.frozen: dict[Incarnation, None] = {}
        """Lost workers whose estates are not settled."""
        self.lost: dict[Incarnation, None] = {}
        self.received: dict[Incarnation, int] = {}
        """Serial of the last gift from each worker."""
        self.outbox: list[Action] = []
        self.told = 0
        """Messages about requests that control was sent: each is a sign of life."""
        self._held_back: deque[Send] = deque()
        self._serial = 0

    def tell(self, to: str, fact: Fact) -> None:
        if to == CONTROL:
            self.told += 1
        self.outbox.append(Send(to=to, fact=fact))

    def next_serial(self) -> int:
        self._serial += 1
        return self._serial

    # ---- taking and freeing -----------------------------------------------------------------------

    def grant(self, pages: Extents, room: int) -> None:
        added = from_extents(pages)
        self.granted += room
        self.free.extend(reversed(added))
        self.settle()

    def available(self) -> int:
        """Pages that can be had at once: free, or our own and idle."""
        return len(self.free) + self.tree.idle_pages - self.tree.idle_foreign_pages

    def take(self, count: int, keep: int = 0) -> list[int] | None:
        """`count` free pages as private ones, evicting the cache where needed; None where not (yet).

        `keep` more must stay available. Evicting a foreign page ends its claim and brings a page back
        only when its owner pays.
        """
        if len(self.free) < count + keep and not self._make_room(count, keep):
            return None
        self.private += count
        return self._pop(count)

    def take_some(self, count: int) -> list[int]:
        """As many of `count` pages as are to be had."""
        if len(self.free) < count:
            count = min(count, self.available())
        return self.take(count) or []

    def _make_room(self, count: int, keep: int) -> bool:
        """Evicts until there are so many free pages, or as many on their way. Where claims end for that,
        some more end with them, so that few messages tell of many."""
        owed = sum(self.owed.values()) if self.owed else 0
        released: dict[Incarnation, list[int]] = {}
        ahead, enough = 0, False
        while not enough:
            available = self.available()
            enough = available >= count + keep and len(self.free) >= count
            if enough or available < count + keep <= available + owed - ahead:
                break
            evicted = None if self.frozen else self.tree.evict(count + keep)
            if evicted is None:
                break
            owner, pages = evicted
            if owner is None:
                self.free.extend(pages)
            else:
                released.setdefault(owner, []).extend(pages)
                owed += len(pages)
                ahead = self.granted // (2 * AHEAD_SHARE)
        for owner, pages in released.items():
            self.release_claim(owner, tuple(pages))
        return enough

    def _pop(self, count: int) -> list[int]:
        if count == 0:
            return []
        taken = self.free[-count:]
        del self.free[-count:]
        taken.reverse()
        return taken

    def free_private(self, pages: list[int]) -> None:
        self.private -= len(pages)
        self.free.extend(pages)
        if self.debts:
            self.settle()

    def unpin(self, leaf: Node) -> None:
        freed = self.tree.unpin(leaf)
        if freed or self.debts:
            self._left(freed)
            self.settle()

    def _left(self, freed: list[Freed]) -> None:
        """Pages left the tree. What a dead worker owned of them is for the settlement to say."""
        for owner, pages in freed:
            if owner is None:
                self.free.extend(pages)
            elif owner in self.frozen:
                self.owed[owner] = self.owed.get(owner, 0) + len(pages)
            else:
                self.release_claim(owner, tuple(pages))

    def seal(
        self, leaf: Node, hashes: tuple[PageHash, ...], pages: list[int], numerics: str
    ) -> tuple[Node, list[int]]:
        """Private pages go into the tree below `leaf`, whose pin moves down to them. Returns the new
        leaf and the pages that now stand for them: `pages` itself, unless some were there already and are
        free again."""
        leaf, standing = self.tree.extend(leaf, hashes, pages, numerics)
        self.private -= len(pages)
        if standing is pages or standing == pages:
            return leaf, pages
        self.free += [mine for mine, theirs in zip(pages, standing, strict=True) if mine != theirs]
        self.settle()
        return leaf, standing

    def seal_detached(
        self, leaf: Node, hashes: tuple[PageHash, ...], pages: list[int], numerics: str
    ) -> Node:
        self.private -= len(pages)
        return self.tree.hang_detached(leaf, hashes, pages, numerics)

    # ---- changing hands ---------------------------------------------------------------------------

    def give_private(self, to: Incarnation, pages: list[int]) -> int:
        """Private pages are on their way to another worker. Returns the serial."""
        self.private -= len(pages)
        return self._give(to, tuple(pages)) if pages else self.next_serial()

    def _give(self, to: Incarnation, pages: Pages) -> int:
        """What goes to control needs no receipt: control has it before it reads any later statement."""
        serial = self.next_serial()
        if to != CONTROL:
            self.given.setdefault(to, deque()).append((serial, pages))
        return serial

    def receive(self, sender: Incarnation, pages: Pages, serial: int) -> None:
        """Another worker's pages are ours now: a deposit, or one of ours that comes back."""
        if not pages:
            return
        self.free.extend(pages)
        self.received[sender] = serial

    def taken_from(self, giver: Incarnation) -> int:
        """Serial of the last gift that may be called received: none while an estate is settled, where a
        gift is the receiver's if it had arrived when the receiver made its statement."""
        return 0 if self.frozen else self.received.get(giver, 0)

    def receipt(self, receiver: Incarnation, taken: int) -> None:
        """It has all gifts up to this serial."""
        gifts = self.given.get(receiver)
        while gifts and gifts[0][0] <= taken:
            gifts.popleft()

    def release_claim(self, owner: Incarnation, pages: Pages) -> None:
        """Foreign pages that left the tree: tell their owner, who owes us as many."""
        self.owed[owner] = self.owed.get(owner, 0) + len(pages)
        self._send(owner, ClaimReleased(sender=self.worker, pages=pages, taken=self.taken_from(owner)))

    def paid_back(self, sender: Incarnation, pages: Pages, serial: int) -> None:
        self.owed[sender] -= len(pages)
        if not self.owed[sender]:
            del self.owed[sender]
        self.receive(sender, pages, serial)
        self.settle()

    def give_up_claims(self, owner: Incarnation, count: int) -> Pages:
        """Up to `count` pages whose claims end instead of a payment to their owner: as many as the next
        claim of this size will find missing. What was not used for longer still is evicted on the way."""
        released: list[int] = []
        wanted = self.keep + min(4 * count, self.granted // AHEAD_SHARE) - sum(self.owed.values())
        while not self.frozen and len(released) < count:
            missing = wanted - len(self.free) - len(released)
            evicted = self.tree.evict(min(missing, count - len(released))) if missing > 0 else None
            if evicted is None:
                break
            whose, pages = evicted
            if whose == owner:
                released += pages
            elif whose is None:
                self.free.extend(pages)
            else:
                self.release_claim(whose, tuple(pages))
                wanted -= len(pages)
        return tuple(released)

    def end_claim(self, claimant: Incarnation, pages: Pages) -> None:
        """The claimant reads these pages no more, and has been paid for that."""
        freed = self.tree.take_back(claimant, pages)
        if freed:
            self._left(freed)

    def claim_ended(self, claimant: Incarnation, pages: Pages) -> None:
        self.end_claim(claimant, pages)
        self.debts[claimant] = self.debts.get(claimant, 0) + len(pages)
        self.settle()

    def settle(self) -> None:
        """Pays debts as far as pages go that need not stay available for prefills (`keep`)."""
        if self.frozen or not self.debts:
            return
        for creditor in list(self.debts):
            debt = self.debts[creditor]
            payable = min(debt, max(0, self.available() - self.keep))
            paid = self._pop(payable) if self._make_room(payable, 0) else []
            if paid:
                self._pay(creditor, tuple(paid))
            if len(paid) == debt:
                del self.debts[creditor]
            else:
                self.debts[creditor] = debt - len(paid)

    def _pay(self, creditor: Incarnation, pages: Pages) -> None:
        serial, taken = self._give(creditor, pages), self.taken_from(creditor)
        self._send(creditor, PagesGiven(sender=self.worker, pages=pages, serial=serial, taken=taken))

    def _send(self, to: Incarnation, fact: Fact) -> None:
        self.send_ownership(Send(to=to, fact=fact))

    def send_ownership(self, send: Send) -> None:
        """Messages that move pages wait while an estate is settled."""
        if self.frozen:
            self._held_back.append(send)
        else:
            self.outbox.append(send)

    # ---- the death of another worker --------------------------------------------------------------

    def freeze(self, lost: Incarnation) -> OwnershipStated:
        """Stops every change of hands and closes the books with the lost worker.

        What we owe it we owe to its estate, which control keeps; what was on its way to it belongs to
        the estate. Its claims on us end with the settlement: it may have lent on what it claimed, and
        those readers become ours then.
        """
        self.frozen[lost] = None
        short = 0
        if lost:
            self.lost[lost] = None
            debt = self.debts.pop(lost, 0)
            if debt:
                self.debts[CONTROL] = self.debts.get(CONTROL, 0) + debt
            self.received.pop(lost, None)
            self.given.pop(lost, None)
            self._held_back = deque(send for send in self._held_back if send.to != lost)
            short = self.owed.get(lost, 0)
        gifts = ((to, serial, pages) for to, sent in self.given.items() for serial, pages in sent)
        return OwnershipStated(
            worker=self.worker,
            lost=lost,
            owned=to_extents(self.at_hand()),
            claimed=to_extents(self.tree.foreign(lost)),
            short=short,
            given=tuple((to, serial, to_extents(list(pages))) for to, serial, pages in gifts),
            received=tuple(self.received.items()),
        )

    def thaw(self, settled: EstateSettled) -> None:
        """Claims on the lost worker become our pages, or claims on the heir; hands may change again."""
        self.owed.pop(settled.lost, None)
        self.free.extend(self._inherit(from_extents(settled.inherited), None))
        for claimant, extents in settled.lent:
            for page in from_extents(extents):
                self.tree.lend(claimant, (page,))
        for heir, extents in settled.moved:
            released = self._inherit(from_extents(extents), heir)
            if released:
                self.release_claim(heir, tuple(released))
        self.free.extend(from_extents(settled.deposits))
        back = self.tree.lent_to(settled.lost) if settled.lost in self.lost else ()
        if back:
            self._left(self.tree.take_back(settled.lost, back))
            self.debts[CONTROL] = self.debts.get(CONTROL, 0) + len(back)
        self.frozen.pop(settled.lost, None)
        if not self.frozen:
            while self._held_back:
                self.outbox.append(self._held_back.popleft())
        self.settle()

    def _inherit(self, pages: list[int], heir: Incarnation | None) -> list[int]:
        """Claimed pages change their owner; returns those that left the tree since they were stated."""
        self.tree.change_owner([page for page in pages if page in self.tree.node_at], heir)
        return [page for page in pages if page not in self.tree.node_at]

    def control_lost(self) -> None:
        """Estates that the old control was settling start afresh with the next one; what was on its
        way to it is nobody's, and the next one will find it so."""
        self.frozen = {}
        while self._held_back:
            self.outbox.append(self._held_back.popleft())

    def peers(self) -> tuple[Incarnation, ...]:
        """Workers that the books name, alive or not."""
        names = dict.fromkeys([*self.debts, *self.owed, *(to for to, gifts in self.given.items() if gifts)])
        for node in self.tree.nodes():
            names.update(node.lent)
            if node.owner is not None:
                names[node.owner] = None
        names.pop(CONTROL, None)
        return tuple(names)

    # ---- books ------------------------------------------------------------------------------------

    def at_hand(self) -> list[int]:
        """Every page of ours but those on their way to others."""
        own = [page for page, node in self.tree.node_at.items() if node.owner is None]
        return [*self.free, *self._private_pages(), *own]

    def counts(self) -> PageCounts:
        held = self.private + self.tree.pinned_pages
        cached = self.tree.idle_pages
        free = len(self.free)
        return PageCounts(free=free, held=held, cached=cached, total=free + held + cached)

    def check(self) -> None:
        """One entry per page; counts agree; nothing free is claimed (free and tree are disjoint)."""
        self.tree.check()
        private = self._private_pages()
        if len(private) != self.private:
            raise BrokenInvariant(self.worker, f"{self.private} private pages booked, {len(private)} found")
        # A page that was given away may be back, or be read as the receiver's, before word of its arrival.
        owned = self.at_hand()
        if len(owned) != len(set(owned)):
            raise BrokenInvariant(self.worker, "a page is booked twice")
        foreign = [page for page, node in self.tree.node_at.items() if node.owner is not None]
        if not set(owned).isdisjoint(foreign):
            raise BrokenInvariant(self.worker, "a claimed page is booked as owned")
