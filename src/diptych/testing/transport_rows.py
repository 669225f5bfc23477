"""The public conformance suite for transports: what every one of them promises to the worker above it.

    from diptych.testing import check_transport
    check_transport(lambda worker, region, key, pair: MyTransport(...))

Each row makes two or three ends in one process, copies real bytes between their regions and waits by file
descriptor, never by time alone. A row that is broken raises `AssertionError` and says which promise it was.
"""

from __future__ import annotations

import os
import random
import select
import time
from collections.abc import Callable, Sequence

from diptych.transport.interface import (
    Endpoint,
    Pairing,
    PullDone,
    PullOrder,
    Region,
    Transport,
)

__all__ = ["TRANSPORT_PROPERTIES", "MakeTransport", "TransportBench", "check_transport"]

PAGE_BYTES = 4096
PAGES = 256
PATIENCE_S = 20.0
"""A promise that is not kept by then is broken."""

Pair = Callable[[bytes], Pairing]
MakeTransport = Callable[[str, Region, bytes, Pair], Transport]
"""From (worker, region, fleet key, pairing) to one end."""


class TransportBench:
    """Ends that a row made, closed behind it."""

    def __init__(self, make: MakeTransport, seed: int) -> None:
        self.make = make
        self.random = random.Random(seed)
        self.key = b"the fleet's key, 32 bytes long .."
        self.ends: list[Transport] = []
        self.regions: dict[str, Region] = {}
        self.claims = 0

    def end(self, worker: str, *, key: bytes | None = None, pair: Pair | None = None) -> Transport:
        region = Region(memoryview(bytearray(os.urandom(PAGE_BYTES * PAGES))), PAGE_BYTES)
        end = self.make(worker, region, key or self.key, pair or (lambda announcement: Pairing()))
        self.regions[worker] = region
        self.ends.append(end)
        return end

    def order(self, owner: Transport, reader: str, pages: Sequence[int], into: Sequence[int]) -> PullOrder:
        self.claims += 1
        capability = owner.open_claim(self.claims, reader, pages)
        return PullOrder(owner.endpoint(), self.claims, capability, tuple(pages), tuple(into))

    def page(self, worker: str, page: int) -> bytes:
        return bytes(self.regions[worker].memory[page * PAGE_BYTES : (page + 1) * PAGE_BYTES])

    def pages(self, count: int) -> list[int]:
        return self.random.sample(range(PAGES), count)

    def wait(self, end: Transport, count: int) -> list[PullDone]:
        """The next `count` answers, woken by the end's descriptor."""
        done: list[PullDone] = []
        limit = time.monotonic() + PATIENCE_S
        while len(done) < count:
            left = limit - time.monotonic()
            readable, _, _ = select.select([end.fileno()], [], [], max(0.0, left))
            assert readable, f"descriptor: {count - len(done)} of {count} copies were never said to be over"
            done += end.completed()
        assert len(done) == count, f"answers: {len(done)} for {count} orders"
        return done

    def close(self) -> None:
        for end in self.ends:
            end.close()


def copies_what_was_claimed(bench: TransportBench) -> None:
    """Scattered pages arrive whole, in order, where they were asked for, and nowhere else."""
    owner, reader = bench.end("owner@1"), bench.end("reader@1")
    pages, into = bench.pages(97), bench.pages(97)
    before = {page: bench.page("reader@1", page) for page in range(PAGES) if page not in into}
    reader.pull(bench.order(owner, "reader@1", pages, into))
    (done,) = bench.wait(reader, 1)
    assert not done.failure, f"copy: {done.failure}"
    assert (done.worker, done.claim) == ("owner@1", 1), f"answer: {done}"
    assert done.bytes_moved == 97 * PAGE_BYTES, f"bytes_moved: {done.bytes_moved}"
    for there, here in zip(pages, into, strict=True):
        assert bench.page("owner@1", there) == bench.page("reader@1", here), f"page {there} differs"
    for page, content in before.items():
        assert bench.page("reader@1", page) == content, f"page {page} was written, and nobody asked"


def one_page(bench: TransportBench) -> None:
    owner, reader = bench.end("owner@1"), bench.end("reader@1")
    reader.pull(bench.order(owner, "reader@1", [PAGES - 1], [0]))
    (done,) = bench.wait(reader, 1)
    assert not done.failure, f"copy: {done.failure}"
    assert bench.page("owner@1", PAGES - 1) == bench.page("reader@1", 0)


def many_copies_at_once(bench: TransportBench) -> None:
    """From two owners, each answered once."""
    owners, reader = [bench.end("owner@1"), bench.end("other@3")], bench.end("reader@1")
    targets = bench.pages(120)
    orders = []
    for number in range(40):
        owner = owners[number % 2]
        orders.append(bench.order(owner, "reader@1", bench.pages(3), targets[number * 3 : number * 3 + 3]))
        reader.pull(orders[-1])
    answers = {(done.worker, done.claim): done for done in bench.wait(reader, len(orders))}
    for order in orders:
        done = answers[order.source.worker, order.claim]
        assert not done.failure, f"copy: {done.failure}"
        for there, here in zip(order.pages, order.into, strict=True):
            assert bench.page(order.source.worker, there) == bench.page("reader@1", here), "pages mixed up"


def a_closed_claim_serves_nothing(bench: TransportBench) -> None:
    owner, reader = bench.end("owner@1"), bench.end("reader@1")
    order = bench.order(owner, "reader@1", [1, 2], [3, 4])
    owner.close_claim(order.claim)
    owner.close_claim(12345)
    reader.pull(order)
    (done,) = bench.wait(reader, 1)
    assert done.failure, "claim: it was closed, and its pages were served"


def a_stranger_is_refused(bench: TransportBench) -> None:
    """A guessed capability, another's claim, a page outside the claim, another fleet's key."""
    owner, reader, thief = bench.end("owner@1"), bench.end("reader@1"), bench.end("thief@1")
    alien = bench.end("alien@1", key=b"the key of quite another fleet ..")
    order = bench.order(owner, "reader@1", [1, 2], [3, 4])
    guessed = PullOrder(order.source, 71, bytes(16), (1,), (0,))
    outside = PullOrder(order.source, 72, order.capability, (1, 5), (0, 1))
    stolen = PullOrder(order.source, 73, order.capability, (1, 2), (0, 1))
    for who, asked in ((reader, guessed), (reader, outside), (thief, stolen), (alien, stolen)):
        who.pull(asked)
        (done,) = bench.wait(who, 1)
        assert done.failure, f"order {asked.claim}: served, though nothing gave a right to it"
    reader.pull(order)
    (done,) = bench.wait(reader, 1)
    assert not done.failure, f"claim: spoilt by others' attempts: {done.failure}"


def another_incarnation_is_not_taken_for_it(bench: TransportBench) -> None:
    owner, reader = bench.end("owner@2"), bench.end("reader@1")
    order = bench.order(owner, "reader@1", [1], [1])
    former = Endpoint(order.source.transport, order.source.address, order.source.port, "owner@1")
    reader.pull(PullOrder(former, order.claim, order.capability, order.pages, order.into))
    (done,) = bench.wait(reader, 1)
    assert done.failure, "worker: owner@2 answered for owner@1"


def a_dead_owner_is_noticed(bench: TransportBench) -> None:
    owner, reader = bench.end("owner@1"), bench.end("reader@1")
    order = bench.order(owner, "reader@1", [1], [1])
    bench.ends.remove(owner)
    owner.close()
    reader.pull(order)
    (done,) = bench.wait(reader, 1)
    assert done.failure, "owner: it is gone, and the copy is said to be whole"


def a_cancelled_copy_is_answered_once(bench: TransportBench) -> None:
    owner, reader = bench.end("owner@1"), bench.end("reader@1")
    first = bench.order(owner, "reader@1", bench.pages(100), bench.pages(100))
    second = bench.order(owner, "reader@1", [7], [7])
    reader.pull(first)
    reader.cancel("owner@1", first.claim)
    reader.cancel("owner@1", 999)
    reader.cancel("nobody@1", 1)
    reader.pull(second)
    answers = {done.claim: done for done in bench.wait(reader, 2)}
    assert not answers[second.claim].failure, f"copy beside a cancelled one: {answers[second.claim].failure}"
    time.sleep(0.05)
    assert not reader.completed(), "answers: one order was answered twice"


def a_forgotten_owner_is_let_go(bench: TransportBench) -> None:
    """Each of its orders is answered once, and whoever serves there afterwards is met anew."""
    owner, reader = bench.end("owner@1"), bench.end("reader@1")
    targets = bench.pages(120)
    for number in range(12):
        into = targets[number * 10 : number * 10 + 10]
        reader.pull(bench.order(owner, "reader@1", bench.pages(10), into))
    reader.forget("owner@1")
    reader.forget("nobody@1")
    bench.wait(reader, 12)
    assert not reader.reports(), "report: the owner is forgotten"
    reader.pull(bench.order(owner, "reader@1", [3], [4]))
    (done,) = bench.wait(reader, 1)
    assert not done.failure, f"copy after a new meeting: {done.failure}"


def an_impossible_pair_is_refused(bench: TransportBench) -> None:
    """With the words of whoever compared the formats, before a byte is written."""
    owner = bench.end("owner@1")
    reader = bench.end("reader@1", pair=lambda announcement: Pairing(refusal="group.dtype: f8 is not bf16"))
    before = bench.page("reader@1", 4)
    reader.pull(bench.order(owner, "reader@1", [1], [4]))
    (done,) = bench.wait(reader, 1)
    assert "group.dtype" in done.failure, f"refusal: {done.failure!r} does not name the field"
    assert bench.page("reader@1", 4) == before, "refusal: the page was written all the same"


def it_says_what_it_is(bench: TransportBench) -> None:
    owner, reader = bench.end("owner@1"), bench.end("reader@1")
    reader.pull(bench.order(owner, "reader@1", [1], [4]))
    bench.wait(reader, 1)
    (report,) = reader.reports()
    assert report.worker == "owner@1", f"report: {report}"
    assert report.provider, f"report: {report}"
    assert report.bytes_per_s > 0, f"report: {report}"
    assert owner.endpoint().transport == owner.name == reader.name


TRANSPORT_PROPERTIES: tuple[Callable[[TransportBench], None], ...] = (
    copies_what_was_claimed,
    one_page,
    many_copies_at_once,
    a_closed_claim_serves_nothing,
    a_stranger_is_refused,
    another_incarnation_is_not_taken_for_it,
    a_dead_owner_is_noticed,
    a_cancelled_copy_is_answered_once,
    a_forgotten_owner_is_let_go,
    an_impossible_pair_is_refused,
    it_says_what_it_is,
)


def check_transport(make: MakeTransport, *, seed: int = 0) -> None:
    """Runs every row. Raises `AssertionError` with the row's name before the broken promise."""
    for row in TRANSPORT_PROPERTIES:
        bench = TransportBench(make, seed)
        try:
            row(bench)
        except AssertionError as error:
            raise AssertionError(f"{row.__name__}: {error}") from error
        finally:
            bench.close()
