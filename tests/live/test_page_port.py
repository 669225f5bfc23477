"""The port between a worker's machine and other pools: tickets, copies, and answers that always come."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest

from diptych.core.actions import CancelPull, CloseClaim, OpenClaim, PullPages
from diptych.core.facts import Fact, PagesOffered, PagesPulled, PullEnded
from diptych.live.page_port import PagePort
from diptych.transport.interface import Region
from diptych.transport.pairing import announcement_of, pairing_with
from diptych.transport.tcp import ReaderOptions, TcpTransport
from diptych.wire.errors import MalformedMessage
from diptych.wire.kv import hnd, nhd

KEY = bytes(32)
SHAPE = {"layers": 2, "kv_heads": 2, "head_dim": 8, "dtype": "bfloat16"}


class End:
    """A port, its pages, and what it told the machine."""

    def __init__(self, worker: str, kv_format) -> None:
        self.worker = worker
        self.region = Region(
            memoryview(bytearray(os.urandom(kv_format.page_bytes * 16))), kv_format.page_bytes
        )
        options = ReaderOptions(worker, KEY, announcement_of(kv_format))
        transport = TcpTransport(self.region, options, pairing_with(kv_format))
        self.told: asyncio.Queue[Fact] = asyncio.Queue()
        self.port = PagePort(transport, self.told.put_nowait)

    def page(self, number: int) -> bytes:
        size = self.region.page_bytes
        return bytes(self.region.memory[number * size : (number + 1) * size])

    async def pulled(self) -> PagesPulled:
        fact = await asyncio.wait_for(self.told.get(), 20)
        assert isinstance(fact, PagesPulled)
        return fact


def offer(owner: End, reader: End, claim: int, pages: tuple[int, ...]) -> tuple[PagesOffered, bytes]:
    owner.port.perform(OpenClaim(claim=claim, reader=reader.worker, pages=pages))
    fact = PagesOffered(request="r", attempt=1, sender=owner.worker, first_page=0, pages=pages, claim=claim)
    return fact, owner.port.attachment(fact)


def pull(source: End, claim: int, pages: tuple[int, ...], into: tuple[int, ...]) -> PullPages:
    return PullPages(
        request="r", attempt=1, source=source.worker, claim=claim, first_page=0, pages=pages, into=into
    )


@pytest.fixture
def formats():
    return nhd(model="m", page_tokens=16, **SHAPE), hnd(model="m", page_tokens=16, **SHAPE)


async def meet(kind, other) -> tuple[End, End]:
    return End("owner@1", kind), End("reader@1", other)


def run(story) -> None:
    async def told() -> None:
        ends = await story()
        for end in ends:
            end.port.close()

    asyncio.run(told())


def test_an_offered_page_is_copied_under_its_ticket(formats) -> None:
    async def story():
        owner, reader = await meet(formats[0], formats[0])
        fact, ticket = offer(owner, reader, 5, (3, 4))
        assert ticket
        reader.port.heard("owner@1", fact, ticket)
        reader.port.perform(pull(owner, 5, (3, 4), (9, 8)))
        done = await reader.pulled()
        assert (done.source, done.claim, done.failure) == ("owner@1", 5, "")
        assert done.bytes_moved == 2 * owner.region.page_bytes
        assert (reader.page(9), reader.page(8)) == (owner.page(3), owner.page(4))
        return owner, reader

    run(story)


def test_a_page_of_another_layout_is_converted_on_the_way_in(formats) -> None:
    async def story():
        owner, reader = await meet(*formats)
        fact, ticket = offer(owner, reader, 1, (3,))
        reader.port.heard("owner@1", fact, ticket)
        reader.port.perform(pull(owner, 1, (3,), (0,)))
        assert (await reader.pulled()).failure == ""
        assert reader.page(0) != owner.page(3)
        assert sorted(reader.page(0)) == sorted(owner.page(3))
        (report,) = reader.port.transport.reports()
        assert report.conversion == "bfloat16 to bfloat16, by the reader"
        return owner, reader

    run(story)


def test_another_model_is_refused_by_field(formats) -> None:
    async def story():
        owner, reader = await meet(formats[0], nhd(model="other", page_tokens=16, **SHAPE))
        fact, ticket = offer(owner, reader, 1, (3,))
        reader.port.heard("owner@1", fact, ticket)
        reader.port.perform(pull(owner, 1, (3,), (0,)))
        assert "model" in (await reader.pulled()).failure
        return owner, reader

    run(story)


def test_every_pull_is_answered_also_without_a_ticket(formats) -> None:
    async def story():
        owner, reader = await meet(formats[0], formats[0])
        reader.port.perform(pull(owner, 1, (3,), (0,)))
        assert "ticket" in (await reader.pulled()).failure
        fact, ticket = offer(owner, reader, 2, (3,))
        reader.port.heard("owner@1", fact, ticket)
        reader.port.said("owner@1", PullEnded(sender="reader@1", claim=2))
        reader.port.perform(pull(owner, 2, (3,), (0,)))
        assert "ticket" in (await reader.pulled()).failure
        return owner, reader

    run(story)


def test_a_closed_claim_is_refused_and_a_cancel_answered(formats) -> None:
    async def story():
        owner, reader = await meet(formats[0], formats[0])
        fact, ticket = offer(owner, reader, 1, (3,))
        owner.port.perform(CloseClaim(claim=1))
        assert owner.port.attachment(fact) == b""
        reader.port.heard("owner@1", fact, ticket)
        reader.port.perform(pull(owner, 1, (3,), (0,)))
        assert (await reader.pulled()).failure == "the claim is closed"
        reader.port.perform(CancelPull(source="owner@1", claim=1))
        return owner, reader

    run(story)


def test_a_ticket_must_be_one_and_be_the_senders(formats) -> None:
    async def story():
        owner, reader = await meet(formats[0], formats[0])
        fact, ticket = offer(owner, reader, 1, (3,))
        with pytest.raises(MalformedMessage, match="ticket"):
            reader.port.heard("owner@1", fact, ticket[:-1])
        with pytest.raises(MalformedMessage, match=r"owner@1"):
            reader.port.heard("thief@1", fact, ticket)
        return owner, reader

    run(story)


def test_a_partner_that_is_gone_leaves_nothing_behind(formats) -> None:
    async def story():
        owner, reader = await meet(formats[0], formats[0])
        before = threading.active_count()
        first, ticket = offer(owner, reader, 1, (3,))
        reader.port.heard("owner@1", first, ticket)
        reader.port.perform(pull(owner, 1, (3,), (0,)))
        assert (await reader.pulled()).failure == ""
        second, ticket = offer(owner, reader, 2, (3,))
        reader.port.heard("owner@1", second, ticket)
        reader.port.forget("owner@1")
        reader.port.perform(pull(owner, 2, (3,), (0,)))
        assert "ticket" in (await reader.pulled()).failure
        for _ in range(100):
            if threading.active_count() <= before:
                break
            await asyncio.sleep(0.05)
        assert threading.active_count() <= before, "threads wait for a source that is gone"
        return owner, reader

    run(story)
