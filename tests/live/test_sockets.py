from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Coroutine
from typing import Any

from diptych.core.facts import ControlJoined, ControlLost
from diptych.live.sockets import Connection
from diptych.wire import messages
from diptych.wire.frames import frame
from diptych.wire.messages import Answered, Message, Told


class End:
    """One end of a pair and what it was told, in order."""

    def __init__(self, sock: socket.socket, buffer_bytes_max: int = 1 << 25) -> None:
        self.messages: asyncio.Queue[Message] = asyncio.Queue()
        self.closed: asyncio.Queue[str] = asyncio.Queue()
        self.connection = Connection(
            sock,
            lambda _, message: self.messages.put_nowait(message),
            lambda _, why: self.closed.put_nowait(why),
            name="peer",
            buffer_bytes_max=buffer_bytes_max,
        )


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 20))


def test_messages_arrive_in_order_both_ways_and_the_end_is_told_once() -> None:
    async def talk() -> None:
        here, there = map(End, socket.socketpair())
        for epoch in range(100):
            here.connection.send(Told(ControlJoined(epoch=epoch)))
        for epoch in range(100):
            assert await there.messages.get() == Told(ControlJoined(epoch=epoch))
        large = Told(ControlLost(), b"x" * 3_000_000)
        there.connection.send(large)
        assert there.connection.buffered_bytes > 0
        assert await here.messages.get() == large
        here.connection.close()
        assert not here.connection.is_open
        assert await here.closed.get() == "closed here"
        assert await there.closed.get() == "the peer closed it"
        here.connection.send(large)
        here.connection.close()
        there.connection.abort("again")
        await asyncio.sleep(0)
        assert here.closed.empty()
        assert there.closed.empty()
        assert there.messages.empty()

    run(talk())


def test_closing_sends_what_was_sent_before() -> None:
    async def talk() -> None:
        here, there = map(End, socket.socketpair())
        here.connection.send(Told(ControlLost(), b"x" * 5_000_000))
        here.connection.close("done")
        here.connection.send(Told(ControlLost()))
        assert len((await there.messages.get()).attachment) == 5_000_000  # type: ignore[union-attr]
        assert await here.closed.get() == "done"
        await there.closed.get()
        assert there.messages.empty()

    run(talk())


def test_a_peer_that_does_not_read_is_cut_at_the_limit_and_never_waited_for() -> None:
    async def talk() -> None:
        ours, theirs = socket.socketpair()
        here = End(ours, buffer_bytes_max=1_000_000)
        sent = 0
        while here.connection.is_open:
            here.connection.send(Told(ControlLost(), b"x" * 100_000))
            sent += 100_000
            assert sent < 5_000_000, "the limit did not hold"
        assert sent > 1_000_000
        assert "the limit is 1000000" in await here.closed.get()
        theirs.close()

    run(talk())


def test_another_thread_may_send_while_the_peer_reads_slowly() -> None:
    async def talk() -> None:
        here, there = map(End, socket.socketpair())
        sent = [Answered(serial, b"x" * 20_000) for serial in range(300)]
        thread = threading.Thread(target=lambda: [here.connection.send(message) for message in sent])
        thread.start()
        for message in sent:
            assert await there.messages.get() == message
        thread.join()
        assert here.connection.buffered_bytes == 0

    run(talk())


def test_malformed_bytes_cut_the_connection() -> None:
    async def talk() -> None:
        for data, why in (
            (frame(b"\xc1 is never used in msgpack"), "malformed message"),
            (b"\xff\xff\xff\xff", "limit"),
        ):
            raw, ours = socket.socketpair()
            end = End(ours)
            raw.send(data)
            assert why in await end.closed.get()
            assert raw.recv(1) == b""
            raw.close()

    run(talk())


def test_an_end_inside_a_frame_is_told_as_such() -> None:
    async def talk() -> None:
        raw, ours = socket.socketpair()
        end = End(ours)
        raw.send(frame(b"abc")[:-1])
        raw.close()
        assert "inside a frame" in await end.closed.get()

    run(talk())


def test_what_a_peer_sent_before_it_died_arrives_although_this_end_sent_into_its_grave() -> None:
    async def talk() -> None:
        raw, ours = socket.socketpair()
        end = End(ours)
        end.connection.send(Told(ControlLost(), b"it never reads this"))
        raw.send(messages.encode(Answered(1, b"first")) + messages.encode(Answered(2, b"second")))
        raw.close()
        end.connection.send(Told(ControlLost()))
        end.connection.send(Told(ControlLost()))
        assert await end.messages.get() == Answered(1, b"first")
        assert await end.messages.get() == Answered(2, b"second")
        assert await end.closed.get() == "the peer closed it"

    run(talk())


def test_drain_delivers_at_once_all_that_the_dead_peer_ever_sent() -> None:
    async def talk() -> None:
        raw, ours = socket.socketpair()
        end = End(ours)
        sent = [Answered(serial, b"x" * 50_000) for serial in range(3)]
        raw.sendall(b"".join(map(messages.encode, sent)))
        raw.close()
        end.connection.drain()
        assert [end.messages.get_nowait() for _ in sent] == sent
        assert await end.closed.get() == "the peer closed it"

    run(talk())
