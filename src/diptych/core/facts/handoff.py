"""What workers tell each other: offers, answers, context loans, deposits."""

from __future__ import annotations

from diptych.core.facts.base import Fact, RequestFact
from diptych.core.ids import Incarnation, Pages


class PagesOffered(RequestFact, frozen=True):
    """These sealed pages are yours to claim; I keep them until you answer or are known dead."""

    sender: Incarnation
    first_page: int
    """Index of the first one in the prompt."""
    pages: Pages
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
    """The one answer to an offer: which pages are claimed, paid for with as many free ones."""

    sender: Incarnation
    first_page: int
    kept: Pages
    deposit: Pages
    serial: int


class ClaimReleased(Fact, frozen=True):
    """The sender reads these pages no more; the owner pays the deposit back."""

    sender: Incarnation
    pages: Pages


class PagesGiven(Fact, frozen=True):
    """A deposit comes back: the receiver owns these pages now."""

    sender: Incarnation
    pages: Pages
    serial: int


class PagesTaken(Fact, frozen=True):
    """Receipt for pages that changed owner by `OfferAnswered` or `PagesGiven`."""

    sender: Incarnation
    serial: int
