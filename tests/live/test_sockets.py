from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from diptych.core.facts import ControlJoined, ControlLost
from diptych.live import sockets
from diptych.live.descriptors import receive_descriptors, send_descriptors
from diptych.live.sockets import Connection, ForeignPeer, address, dial, listen
from diptych.wire.errors import FrameTooLong, TruncatedFrame
from diptych.wire.frames import frame
from diptych.wire.messages import Hello, Message, Told


class Ends:
    """What one end of a connection was told, in order."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[Message] = asyncio.Queue()
        self.closed: asyncio.Queue[str] = asyncio.Queue()
        self.opened: asyncio.Queue[Connection] = asyncio.Queue()

    def on_message(self, connection: Connection, message: Message) -> None:
        self.messages.put_nowait(message)

    def on_close(self, connection: Connection, why: str) -> None:
        self.closed.put_nowait(why)

    def on_open(self, connection: Connection) -> None:
        self.opened.put_nowait(connection)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 20))


def somewhere() -> str:
    return address(secrets.token_hex(8), "control")


def test_messages_arrive_in_order_both_ways_and_the_end_is_told_once() -> None:
    async def talk() -> None:
        where, here, there = somewhere(), Ends(), Ends()
        listener = await listen(where, there.on_message, there.on_close, on_open=there.on_open)
        connection = await dial(where, here.on_message, here.on_close, name="control")
        assert connection.peer.pid == os.getpid()
        connection.send(Hello("decode-0@1", "worker"))
        for epoch in range(100):
            connection.send(Told(ControlJoined(epoch=epoch)))
        assert await there.messages.get() == Hello("decode-0@1", "worker")
        for epoch in range(100):
            assert await there.messages.get() == Told(ControlJoined(epoch=epoch))
        accepted = await there.opened.get()
        accepted.send(Told(ControlLost(), b"x" * 3_000_000))
        assert await here.messages.get() == Told(ControlLost(), b"x" * 3_000_000)
        connection.close()
        assert await here.closed.get() == "closed here"
        assert await there.closed.get() == "the peer closed it"
        connection.send(Told(ControlLost()))
        assert here.closed.empty()
        assert there.closed.empty()
        assert there.messages.empty()
        listener.close()
        with pytest.raises(ConnectionRefusedError):
            await dial(where, here.on_message, here.on_close)

    run(talk())


def test_closing_sends_what_was_sent_before() -> None:
    async def talk() -> None:
        where, here, there = somewhere(), Ends(), Ends()
        listener = await listen(where, there.on_message, there.on_close)
        connection = await dial(where, here.on_message, here.on_close)
        connection.send(Told(ControlLost(), b"x" * 5_000_000))
        connection.close()
        assert len((await there.messages.get()).attachment) == 5_000_000  # type: ignore[union-attr]
        listener.close()

    run(talk())


def test_a_peer_that_does_not_read_is_cut_at_the_limit_and_never_waited_for() -> None:
    async def talk() -> None:
        where, here, there = somewhere(), Ends(), Ends()
        listener = await listen(where, there.on_message, there.on_close, on_open=there.on_open)
        connection = await dial(where, here.on_message, here.on_close, buffer_bytes_max=1_000_000)
        accepted = await there.opened.get()
        accepted._transport.pause_reading()  # type: ignore[union-attr]
        sent = 0
        while connection.is_open:
            connection.send(Told(ControlLost(), b"x" * 100_000))
            sent += 100_000
            assert sent < 5_000_000, "the limit did not hold"
        assert sent > 1_000_000
        assert "the limit is 1000000" in await here.closed.get()
        listener.close()

    run(talk())


def test_malformed_bytes_cut_the_connection_and_nothing_else() -> None:
    async def talk() -> None:
        where, there = somewhere(), Ends()
        listener = await listen(where, there.on_message, there.on_close)
        raw = sockets.dial_now(where)
        raw.send(frame(b"\xc1 is never used in msgpack"))
        assert "malformed message" in await there.closed.get()
        raw.close()
        too_long = sockets.dial_now(where)
        too_long.send(b"\xff\xff\xff\xff")
        assert "limit" in await there.closed.get()
        too_long.close()
        here = Ends()
        connection = await dial(where, here.on_message, here.on_close)
        connection.send(Hello("d", "door"))
        assert await there.messages.get() == Hello("d", "door")
        listener.close()

    run(talk())


def test_processes_of_other_users_are_refused_at_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    async def talk() -> None:
        where, here, there = somewhere(), Ends(), Ends()
        listener = await listen(where, there.on_message, there.on_close, on_open=there.on_open)
        raw = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        raw.setblocking(False)
        raw.connect(where)
        monkeypatch.setattr(os, "getuid", lambda: 123_456)
        assert "belongs to user" in await there.closed.get()
        assert there.opened.empty()
        raw.close()
        with pytest.raises(ForeignPeer):
            await dial(where, here.on_message, here.on_close)
        listener.close()

    run(talk())


def test_nothing_is_left_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def talk() -> None:
        there = Ends()
        listener = await listen(somewhere(), there.on_message, there.on_close)
        assert list(tmp_path.iterdir()) == []
        listener.close()

    monkeypatch.chdir(tmp_path)
    run(talk())


def test_descriptors_and_bodies_cross_together_in_order() -> None:
    left, right = socket.socketpair()
    read_end, write_end = os.pipe()
    send_descriptors(left, b"first" * 1000, [write_end])
    send_descriptors(left, b"second", [])
    os.close(write_end)
    body, (received,) = receive_descriptors(right)
    assert body == b"first" * 1000
    assert not os.get_inheritable(received)
    os.write(received, b"through the passed end")
    assert os.read(read_end, 100) == b"through the passed end"
    assert receive_descriptors(right) == (b"second", [])
    left.close()
    with pytest.raises(TruncatedFrame):
        receive_descriptors(right)
    os.close(received)
    os.close(read_end)
    right.close()


def test_descriptors_do_not_leak_when_the_frame_is_cut() -> None:
    left, right = socket.socketpair()
    before = set(os.listdir("/proc/self/fd"))
    body = frame(b"abc")[:-1]
    left.sendmsg([body], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, left.fileno().to_bytes(4, "little"))])
    left.shutdown(socket.SHUT_WR)
    with pytest.raises(TruncatedFrame):
        receive_descriptors(right)
    assert set(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ValueError, match="the limit is 64"):
        send_descriptors(left, b"", [0] * 65)
    with pytest.raises(FrameTooLong):
        send_descriptors(left, b"x" * (1 << 21), [])
    left.close()
    right.close()
