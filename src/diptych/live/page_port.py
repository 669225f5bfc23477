"""The port of a worker's machine to the pools of other hosts: opens claims, copies pages, says how it went.

What a claim is worth travels beside the fact that names it: the owner's port attaches a *ticket* to an
offer or a loan, the reader's port keeps it until the machine asks for the pages.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec

from diptych.core.actions import Action, CancelPull, CloseClaim, OpenClaim, PullPages
from diptych.core.facts import ContextLent, Fact, PagesOffered, PagesPulled, PullEnded
from diptych.core.ids import Attempt, Incarnation, RequestId
from diptych.transport.interface import Endpoint, PullOrder, Transport
from diptych.wire.errors import UNDECODABLE, MalformedMessage

__all__ = ["PagePort", "Ticket"]


class Ticket(msgspec.Struct, frozen=True, array_like=True):
    """Where a claim's pages are, and the capability that opens them."""

    endpoint: Endpoint
    capability: bytes


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Ticket)


class PagePort:
    """One worker's end; belongs to the event loop's thread."""

    def __init__(self, transport: Transport, feed: Callable[[Fact], None]) -> None:
        self.transport = transport
        self._feed = feed
        self._issued: dict[int, bytes] = {}
        """Capabilities of claims that are open here."""
        self._tickets: dict[tuple[Incarnation, int], Ticket] = {}
        """Of claims on others, by (owner, claim), until the pages are asked for."""
        self._pulls: dict[tuple[Incarnation, int], tuple[RequestId, Attempt]] = {}
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(transport.fileno(), self._completed)

    def close(self) -> None:
        self._loop.remove_reader(self.transport.fileno())
        self.transport.close()

    def perform(self, action: Action) -> None:
        match action:
            case OpenClaim(claim=claim, reader=reader, pages=pages):
                self._issued[claim] = self.transport.open_claim(claim, reader, pages)
            case CloseClaim(claim=claim):
                self._issued.pop(claim, None)
                self.transport.close_claim(claim)
            case PullPages():
                self._pull(action)
            case CancelPull(source=source, claim=claim):
                self.transport.cancel(source, claim)
            case _:
                raise ValueError(f"the page port was asked for {action}")

    def attachment(self, fact: Fact) -> bytes:
        """What goes out beside a fact; empty where it opens nothing."""
        match fact:
            case PagesOffered(claim=claim) | ContextLent(claim=claim) if claim in self._issued:
                return _encoder.encode(Ticket(self.transport.endpoint(), self._issued[claim]))
            case _:
                return b""

    def heard(self, sender: Incarnation, fact: Fact, attachment: bytes) -> None:
        """Before the machine is told `fact`. Raises `MalformedMessage` where the attachment is no ticket."""
        match fact:
            case PagesOffered(claim=claim) | ContextLent(claim=claim) if claim and attachment:
                try:
                    ticket = _decoder.decode(attachment)
                except UNDECODABLE as error:
                    raise MalformedMessage(f"ticket from {sender}: {error}") from error
                if ticket.endpoint.worker != sender:
                    raise MalformedMessage(f"ticket from {sender}: it names {ticket.endpoint.worker}")
                self._tickets[sender, claim] = ticket
            case _:
                pass

    def said(self, to: str, fact: Fact) -> None:
        """After the machine told `fact`: a claim that is ended needs no ticket."""
        if isinstance(fact, PullEnded):
            self._tickets.pop((to, fact.claim), None)

    def forget(self, worker: Incarnation) -> None:
        """A partner is gone: nothing is kept for it."""
        self.transport.forget(worker)
        for name in [name for name in self._tickets if name[0] == worker]:
            del self._tickets[name]

    def _pull(self, action: PullPages) -> None:
        name = (action.source, action.claim)
        self._pulls[name] = (action.request, action.attempt)
        ticket = self._tickets.pop(name, None)
        if ticket is None:
            self._answer(action.source, action.claim, 0, "no ticket came with the claim")
            return
        order = PullOrder(ticket.endpoint, action.claim, ticket.capability, action.pages, action.into)
        self.transport.pull(order)

    def _completed(self) -> None:
        for done in self.transport.completed():
            self._answer(done.worker, done.claim, done.bytes_moved, done.failure)

    def _answer(self, source: Incarnation, claim: int, bytes_moved: int, failure: str) -> None:
        request, attempt = self._pulls.pop((source, claim))
        fact = PagesPulled(
            request=request,
            attempt=attempt,
            source=source,
            claim=claim,
            bytes_moved=bytes_moved,
            failure=failure,
        )
        # Never from inside the machine's own step.
        self._loop.call_soon(self._feed, fact)
