"""What workers tell each other: offers, answers, context loans, deposits.

Whoever gives pages away lists them as its own until it knows that they have arrived. The receiver says so
with `taken` in whatever it tells the giver next, for all gifts up to that serial: gifts of one worker to
another arrive in order.
"""

from __future__ import annotations

from diptych.core.facts.base import Fact, RequestFact
from diptych.core.ids import Incarnation, Pages


class PagesOffered(RequestFact, frozen=True):
    """These sealed pages are yours to claim; I keep them until you answer or are known dead."""

    sender: Incarnation
    first_page: int
    """Index of the first one in the prompt."""
    pages: Pages
    taken: int = 0
    claim: int = 0
    """Not 0: the receiver shares no pool with the sender, and pulls the pages under this claim."""


class ContextNeeded(RequestFact, frozen=True):
    """Source to target: lend me your pages [first_page, end_page) of the prompt to read, I lack them."""

    sender: Incarnation
    first_page: int
    end_page: int
    pull: bool = False
    """The sender shares no pool with the receiver: it wants a claim to pull them under."""


class ContextLent(RequestFact, frozen=True):
    """The target keeps these pages as they are until `ContextReturned`, or until the source is dead."""

    sender: Incarnation
    first_page: int
    pages: Pages
    claim: int = 0
    """Not 0: they are to be pulled under this claim."""


class ContextReturned(RequestFact, frozen=True):
    sender: Incarnation


class OfferAnswered(RequestFact, frozen=True):
    """The one answer to an offer: which pages are claimed, and what pays for them. Each is paid for by a
    free page or by an older claim on the same owner that ends, whose deposit stays where it is."""

    sender: Incarnation
    first_page: int
    kept: Pages
    deposit: Pages
    serial: int
    taken: int = 0
    released: Pages = ()


class ClaimReleased(Fact, frozen=True):
    """The sender reads these pages no more; the owner pays the deposit back."""

    sender: Incarnation
    pages: Pages
    taken: int = 0


class PagesGiven(Fact, frozen=True):
    """A deposit comes back: the receiver owns these pages now."""

    sender: Incarnation
    pages: Pages
    serial: int
    taken: int = 0
