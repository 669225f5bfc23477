"""Who owns the pages of one host's pool, as far as control must know it: at births and deaths.

Between those the workers trade pages among themselves and control is not asked. When a worker dies,
every survivor says what it owns and what it had claimed of the dead one, and stops trading until the
estate is settled:

* a page that survivors claim goes to the first of them (or is still its owner's, where the dead worker
  had lent on what it claimed), the others claim from that heir now, and what they had paid for it goes
  to the heir as well;
* whoever had lent to the dead worker or was owed by it is made whole;
* the rest of what nobody owns is granted to workers that have less than their share.
"""

from __future__ import annotations

from diptych.core.actions import Send
from diptych.core.facts import (
    EstateSettled,
    HostStated,
    OwnershipStated,
    PagesGiven,
    PagesGranted,
    PeerLost,
)
from diptych.core.ids import Extents, Incarnation, from_extents, to_extents, worker_name

NOBODY: Incarnation = ""


class Estate:
    """The pool of one host."""

    def __init__(self) -> None:
        self.pool_pages = 0
        self.shares: dict[str, int] = {}
        self.expected: dict[Incarnation, None] = {}
        """Workers that are alive by the host's word and have not joined this control plane yet."""
        self.rooms: dict[Incarnation, int] = {}
        """Pages granted to each joined worker over its life."""
        self.mentioned: dict[Incarnation, None] = {}
        """Workers that joined ones still have books with: who of them is dead shows when all have."""
        self.unowned: list[int] | None = None
        """Pages of nobody; None until the owners have stated theirs."""
        self.settling: dict[Incarnation, dict[Incarnation, None]] = {}
        """Estates in settlement: lost worker and the survivors whose statement is outstanding."""
        self.owned: dict[Incarnation, list[int]] = {}
        self.given: dict[Incarnation, tuple[tuple[Incarnation, int, Extents], ...]] = {}
        self.received: dict[Incarnation, dict[Incarnation, int]] = {}
        self.claims: dict[Incarnation, dict[Incarnation, list[int]]] = {}
        self.short: dict[Incarnation, int] = {}
        self.outbox: list[Send] = []

    def state(self, fact: HostStated) -> None:
        if self.pool_pages == 0:
            self.expected = {worker: None for worker in fact.workers if worker not in self.rooms}
        self.pool_pages = fact.pool_pages
        self.shares = dict(fact.shares)
        self._advance()

    def join(self, worker: Incarnation, room: int, peers: tuple[Incarnation, ...]) -> None:
        self.expected.pop(worker, None)
        self.rooms[worker] = room
        self.mentioned.update(dict.fromkeys(peers))
        for lost, waiting in self.settling.items():
            if room and worker not in self.owned:
                waiting[worker] = None
                self._send(worker, PeerLost(worker=lost))
        self._advance()

    def lose(self, worker: Incarnation) -> None:
        self.expected.pop(worker, None)
        room = self.rooms.pop(worker, None)
        self.owned.pop(worker, None)
        self.given.pop(worker, None)
        for waiting in self.settling.values():
            waiting.pop(worker, None)
        if room is not None:
            self._settle_with_all(worker)
        self._advance()

    def _settle_with_all(self, lost: Incarnation) -> None:
        survivors = {worker: None for worker, room in self.rooms.items() if room}
        self.settling[lost] = survivors
        for worker in survivors:
            self._send(worker, PeerLost(worker=lost))

    def stated(self, fact: OwnershipStated) -> None:
        if fact.lost not in self.settling or fact.worker not in self.rooms:
            return
        self.settling[fact.lost].pop(fact.worker, None)
        self.owned[fact.worker] = from_extents(fact.owned)
        self.given[fact.worker] = fact.given
        self.received[fact.worker] = dict(fact.received)
        if fact.claimed:
            self.claims.setdefault(fact.lost, {})[fact.worker] = from_extents(fact.claimed)
        if fact.short:
            self.short[fact.worker] = self.short.get(fact.worker, 0) + fact.short
        self._advance()

    def give(self, fact: PagesGiven) -> None:
        """A survivor pays what it owed a dead worker: to be granted to whoever is short. Where the
        owners have not stated theirs yet, the pages turn up as nobody's when they do."""
        if self.unowned is not None:
            self.unowned.extend(fact.pages)
        self._advance()

    # ---- settlement -------------------------------------------------------------------------------

    def _advance(self) -> None:
        if self.expected or not self.pool_pages:
            return
        for peer in self.mentioned:
            if peer not in self.rooms and peer not in self.settling:
                self._settle_with_all(peer)
        self.mentioned = {}
        if self.unowned is None and not self.settling:
            self._settle_with_all(NOBODY)
        if self.settling:
            if any(self.settling.values()):
                return
            self._settle()
        self._grant()

    def _settle(self) -> None:
        """All have spoken: `owned` and `claims` are of one moment, for nothing changed hands since."""
        heirs = self._name_heirs()
        taken = {page for pages in self.owned.values() for page in pages}
        taken.update(heirs)
        taken.update(self._on_their_way())
        self.unowned = [page for page in range(self.pool_pages) if page not in taken]
        for lost in self.settling:
            claims = self.claims.get(lost, {})
            for worker in self.rooms:
                if self.rooms[worker]:
                    self._send(worker, self._settled(worker, lost, claims, heirs))
        for worker, count in self.short.items():
            if worker in self.rooms:
                self._send(worker, PagesGranted(pages=to_extents(self._pop(count)), room=0))
        self.settling, self.owned, self.claims, self.short = {}, {}, {}, {}
        self.given, self.received = {}, {}

    def _on_their_way(self) -> list[int]:
        """Gifts between the living that had not arrived when the receiver spoke. Those that had are in
        its own books, or were given on."""
        pages: list[int] = []
        for giver, gifts in self.given.items():
            for receiver, serial, extents in gifts:
                if serial > self.received.get(receiver, {}).get(giver, 0):
                    pages += from_extents(extents)
        return pages

    def _name_heirs(self) -> dict[int, Incarnation]:
        """Whom each page that was claimed of a dead worker belongs to now: its owner, where the dead had
        only lent on what it claimed itself, and the first claimant otherwise."""
        owners = {page: worker for worker, pages in self.owned.items() for page in pages}
        heirs: dict[int, Incarnation] = {}
        for claims in self.claims.values():
            for worker in sorted(claims):
                if worker in self.rooms:
                    for page in claims[worker]:
                        heirs.setdefault(page, owners.get(page, worker))
        return heirs

    def _settled(
        self,
        worker: Incarnation,
        lost: Incarnation,
        claims: dict[Incarnation, list[int]],
        heirs: dict[int, Incarnation],
    ) -> EstateSettled:
        mine = claims.get(worker, [])
        inherited = [page for page in mine if heirs[page] == worker]
        lent = {
            other: [page for page in pages if heirs[page] == worker]
            for other, pages in claims.items()
            if other != worker and other in self.rooms
        }
        moved: dict[Incarnation, list[int]] = {}
        for page in mine:
            if heirs[page] != worker:
                moved.setdefault(heirs[page], []).append(page)
        return EstateSettled(
            lost=lost,
            inherited=to_extents(inherited),
            lent=tuple((other, to_extents(pages)) for other, pages in lent.items() if pages),
            moved=tuple((heir, to_extents(pages)) for heir, pages in moved.items()),
            deposits=to_extents(self._pop(sum(len(pages) for pages in lent.values()))),
        )

    def _grant(self) -> None:
        for worker, room in self.rooms.items():
            missing = self.shares.get(worker_name(worker), 0) - room
            if missing > 0 and self.unowned:
                pages = self._pop(missing)
                self.rooms[worker] = room + len(pages)
                self._send(worker, PagesGranted(pages=to_extents(pages), room=len(pages)))

    def _pop(self, count: int) -> list[int]:
        assert self.unowned is not None
        pages = self.unowned[:count]
        del self.unowned[:count]
        return pages

    def _send(self, worker: Incarnation, fact: EstateSettled | PagesGranted | PeerLost) -> None:
        self.outbox.append(Send(to=worker, fact=fact))
