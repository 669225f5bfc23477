"""The connections of one process to its partners, over sockets that the supervisor makes and hands out.

A new socket for a known name replaces the old one: that is how a restarted partner comes back. What is
sent to a name that has no connection is dropped, as the core expects of sends to the dead.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from diptych.live.sockets import BUFFER_BYTES_MAX, Connection
from diptych.wire.messages import Hello, Message, encode

PeerMessage = Callable[[str, Message], None]
PeerClosed = Callable[[str, str], None]


class Peers:
    """`received(peer, message)` in order of arrival; `closed(peer, why)` once for each connection, after
    its last message. A connection that was replaced is closed without a word."""

    def __init__(
        self, received: PeerMessage, closed: PeerClosed, *, buffer_bytes_max: int = BUFFER_BYTES_MAX
    ) -> None:
        self._received = received
        self._closed = closed
        self._buffer_bytes_max = buffer_bytes_max
        self._connections: dict[str, Connection] = {}
        self._early: dict[str, list[bytes]] = {}
        self._adopting: set[asyncio.Task[None]] = set()

    def adopt(self, peer: str, descriptor: int) -> None:
        """Takes over a connected stream socket; what is sent from now on is sent in order."""
        connection = Connection(
            self._on_message, self._on_close, name=peer, buffer_bytes_max=self._buffer_bytes_max
        )
        replaced = self._connections.get(peer)
        self._connections[peer] = connection
        self._early[peer] = []
        if replaced is not None:
            replaced.abort("replaced")
        task = asyncio.get_running_loop().create_task(
            self._open(peer, connection, socket.socket(fileno=descriptor))
        )
        self._adopting.add(task)
        task.add_done_callback(self._adopting.discard)

    def knows(self, peer: str) -> bool:
        """A connection to `peer` is there and was not closed."""
        return peer in self._connections

    def names(self) -> tuple[str, ...]:
        return tuple(self._connections)

    def send(self, peer: str, message: Message) -> None:
        """Never waits; dropped where no connection to `peer` is open."""
        connection = self._connections.get(peer)
        if connection is None:
            return
        early = self._early.get(peer)
        if early is not None:
            early.append(encode(message))
        else:
            connection.send(message)

    def buffered_bytes(self, peer: str) -> int:
        connection = self._connections.get(peer)
        return 0 if connection is None else connection.buffered_bytes

    def close(self, peer: str, why: str) -> None:
        """Closes when all that was sent has left; `closed` is called then."""
        connection = self._connections.get(peer)
        if connection is not None:
            connection.close(why)

    async def _open(self, peer: str, connection: Connection, end: socket.socket) -> None:
        await asyncio.get_running_loop().create_unix_connection(lambda: connection, sock=end)
        if self._connections.get(peer) is not connection:
            connection.abort("replaced")
            return
        for encoded in self._early.pop(peer):
            connection.send_frame(encoded)

    def _on_message(self, connection: Connection, message: Message) -> None:
        if self._connections.get(connection.name) is connection and not isinstance(message, Hello):
            self._received(connection.name, message)

    def _on_close(self, connection: Connection, why: str) -> None:
        if self._connections.get(connection.name) is connection:
            del self._connections[connection.name]
            self._early.pop(connection.name, None)
            self._closed(connection.name, why)
