"""What workers of unlike pools tell each other, and what the port that copies pages tells its worker.

Within one pool a handoff is a claim, and the pages are read where they lie. Between pools the receiver
pulls a copy: an offer or a loan then names a *claim*, which its owner keeps, leased, until the reader says
that it reads no more. Only the owner's word that the claim held throughout makes the copy worth anything,
so pages may be reused under a reader that is slow, cut off or dead, and nobody has to be fenced.
"""

from __future__ import annotations

from diptych.core.facts.base import Fact, RequestFact
from diptych.core.ids import Incarnation


class PagesPulled(RequestFact, frozen=True):
    """The port's one answer to `PullPages`: it writes the pages no more, whatever came of it."""

    source: Incarnation
    claim: int
    bytes_moved: int = 0
    failure: str = ""
    """Why the copy is not whole: the link, a checksum, a refusal; empty where every byte arrived."""


class PullEnded(Fact, frozen=True):
    """Reader to owner: I read no more under this claim. Did it hold all the time?"""

    sender: Incarnation
    claim: int


class PullConfirmed(Fact, frozen=True):
    """Owner to reader. A copy made under a claim that did not hold is worth nothing."""

    sender: Incarnation
    claim: int
    held: bool


class ClaimsRenewed(Fact, frozen=True):
    """Reader to owner: I am still reading under these claims; their leases begin anew."""

    sender: Incarnation
    claims: tuple[int, ...]
