"""Unix stream sockets between the processes of one host.

Addresses are in Linux's abstract namespace (unix(7)): they vanish with their last socket, so nothing is
left on disk however a process dies. Abstract names have no permissions; instead each end asks the kernel
who the other is (SO_PEERCRED) and talks to its own user only.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
from collections.abc import Callable
from typing import NamedTuple

from diptych.core.errors import DiptychError
from diptych.wire.errors import WireError
from diptych.wire.frames import FrameBuffer
from diptych.wire.messages import Message, decode, encode

__all__ = [
    "BUFFER_BYTES_MAX",
    "Connection",
    "ForeignPeer",
    "Listener",
    "Peer",
    "address",
    "dial",
    "dial_now",
    "listen",
    "peer_of",
]

log = logging.getLogger(__name__)

BUFFER_BYTES_MAX = 32 * 1024 * 1024
"""What one connection may have unsent. A peer that lets so much wait is stuck: it is cut off."""

_CREDENTIALS = struct.Struct("3i")
_BACKLOG = 128


class ForeignPeer(DiptychError):
    def __init__(self, peer: Peer) -> None:
        super().__init__(f"process {peer.pid} belongs to user {peer.uid}, not to {os.getuid()}")


class Peer(NamedTuple):
    """Who is at the other end, as the kernel knows it; the pid is the listener's or dialler's."""

    pid: int
    uid: int


def address(run: str, name: str) -> str:
    """Abstract address of process `name` of the fleet `run` (a random word per start of a fleet)."""
    return f"\0diptych/{run}/{name}"


def peer_of(sock: socket.socket) -> Peer:
    """Raises `ForeignPeer` for a process of another user."""
    data = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(data)
    peer = Peer(pid, uid)
    if uid != os.getuid():
        raise ForeignPeer(peer)
    return peer


MessageHandler = Callable[["Connection", Message], None]
CloseHandler = Callable[["Connection", str], None]


class Connection(asyncio.Protocol):
    """Whole messages over one stream. `send` never waits: what the peer does not take yet is buffered, and
    past `buffer_bytes_max` the connection is cut, because a message left out would break the order that
    the machines rely on.

    `on_message` is called in order of arrival, `on_close` exactly once with a reason for people, after
    the last message (also when this end closed it). `name` is free for the owner's use.
    """

    def __init__(
        self,
        on_message: MessageHandler,
        on_close: CloseHandler,
        *,
        name: str = "",
        buffer_bytes_max: int = BUFFER_BYTES_MAX,
        on_open: Callable[[Connection], None] | None = None,
    ) -> None:
        self.on_message = on_message
        self.on_close = on_close
        self.name = name
        self.peer = Peer(0, -1)
        self._on_open = on_open
        self._buffer_bytes_max = buffer_bytes_max
        self._received = FrameBuffer()
        self._transport: asyncio.Transport | None = None
        self._why_closed = ""

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._why_closed

    @property
    def buffered_bytes(self) -> int:
        return self._transport.get_write_buffer_size() if self._transport else 0

    def send(self, message: Message) -> None:
        """Takes the message to send it when the peer reads. On a closed connection it is dropped."""
        if self.is_open:
            self.send_frame(encode(message))

    def send_frame(self, encoded: bytes) -> None:
        """As `send`, for a message that `messages.encode` made already."""
        if not self.is_open:
            return
        assert self._transport is not None
        self._transport.write(encoded)
        waiting = self._transport.get_write_buffer_size()
        if waiting > self._buffer_bytes_max:
            self.abort(f"the peer left {waiting} bytes unread, the limit is {self._buffer_bytes_max}")

    def close(self, why: str = "closed here") -> None:
        """Closes when all that was sent has left."""
        if self.is_open:
            self._why_closed = why
            assert self._transport is not None
            self._transport.close()

    def abort(self, why: str) -> None:
        """Closes at once; what was not sent is lost."""
        if self._transport is not None:
            self._why_closed = self._why_closed or why
            self._transport.abort()

    # ---- asyncio.Protocol ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        try:
            self.peer = peer_of(transport.get_extra_info("socket"))
        except (ForeignPeer, OSError) as error:
            log.warning("connection refused: %s", error)
            self.abort(str(error))
            return
        if self._on_open is not None:
            self._on_open(self)

    def data_received(self, data: bytes) -> None:
        try:
            for body in self._received.receive(data):
                if self._why_closed:
                    return
                self.on_message(self, decode(body))
        except WireError as error:
            log.error("connection with %s (process %d) cut: %s", self.name or "?", self.peer.pid, error)
            self.abort(str(error))

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        self._why_closed = self._why_closed or (str(error) if error else "the peer closed it")
        self.on_close(self, self._why_closed)


class Listener:
    """An address that accepts connections until `close`."""

    def __init__(self, server: asyncio.AbstractServer) -> None:
        self._server = server

    def close(self) -> None:
        """Accepts no more; connections that exist stay."""
        self._server.close()


async def listen(
    where: str,
    on_message: MessageHandler,
    on_close: CloseHandler,
    *,
    on_open: Callable[[Connection], None] | None = None,
    buffer_bytes_max: int = BUFFER_BYTES_MAX,
) -> Listener:
    """Accepts at abstract address `where`. Raises `OSError` (EADDRINUSE) where another process has it."""
    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(
        lambda: Connection(on_message, on_close, on_open=on_open, buffer_bytes_max=buffer_bytes_max),
        path=where,
        backlog=_BACKLOG,
    )
    return Listener(server)


async def dial(
    where: str,
    on_message: MessageHandler,
    on_close: CloseHandler,
    *,
    name: str = "",
    buffer_bytes_max: int = BUFFER_BYTES_MAX,
) -> Connection:
    """Connects to abstract address `where`. Raises `ConnectionRefusedError` where nobody listens and
    `ForeignPeer` where another user does; `on_close` is called in neither case."""
    sock = dial_now(where)
    loop = asyncio.get_running_loop()
    try:
        _, connection = await loop.create_unix_connection(
            lambda: Connection(on_message, on_close, name=name, buffer_bytes_max=buffer_bytes_max),
            sock=sock,
        )
    except BaseException:
        sock.close()
        raise
    return connection


def dial_now(where: str) -> socket.socket:
    """A connected, non-blocking socket. On one host this never waits: the connection is made or refused in
    the call (`BlockingIOError` where the listener's backlog is full)."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.connect(where)
        peer_of(sock)
    except BaseException:
        sock.close()
        raise
    return sock
