"""The connections of one process to its partners, over sockets that the supervisor makes and hands out.

A new socket for a known name replaces the old one: that is how a restarted partner comes back. What is
sent to a name that has no connection is dropped, as the core expects of sends to the dead.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable

from diptych.core.facts import Fact
from diptych.live.sockets import BUFFER_BYTES_MAX, Connection
from diptych.wire.messages import Message, Told

REPLACED = "replaced"
"""Why a connection ended whose peer got a new one."""
PeerMessage = Callable[[str, Message], None]
PeerClosed = Callable[[str, str], None]


class Peers:
    """`received(peer, message)` in order of arrival; `closed(peer, why)` once for each connection, after
    its last message; for one that is replaced, before the new one is there."""

    def __init__(
        self, received: PeerMessage, closed: PeerClosed, *, buffer_bytes_max: int = BUFFER_BYTES_MAX
    ) -> None:
        self._received = received
        self._closed = closed
        self._buffer_bytes_max = buffer_bytes_max
        self._connections: dict[str, Connection] = {}
        self._told: Counter[str] = Counter()

    def adopt(self, peer: str, descriptor: int) -> None:
        """Takes over a connected stream socket."""
        replaced = self._connections.pop(peer, None)
        if replaced is not None:
            replaced.abort(REPLACED)
            self._closed(peer, REPLACED)
        self._connections[peer] = Connection(
            socket.socket(fileno=descriptor),
            self._on_message,
            self._on_close,
            name=peer,
            buffer_bytes_max=self._buffer_bytes_max,
        )

    def connection(self, peer: str) -> Connection | None:
        """The connection to `peer`; None where it never was or its end was told."""
        return self._connections.get(peer)

    def names(self) -> tuple[str, ...]:
        return tuple(self._connections)

    def send(self, peer: str, message: Message) -> None:
        """Never waits; dropped where there is no connection to `peer`."""
        connection = self._connections.get(peer)
        if connection is not None:
            connection.send(message)

    def tell(self, peer: str, fact: Fact, attachment: bytes = b"") -> None:
        """Sends a fact with its number. One that is dropped has its number too: whoever replays a log
        counts what the machine asked for, and knows nothing of connections."""
        self._told[peer] += 1
        self.send(peer, Told(fact, attachment, self._told[peer]))

    def drain(self, peer: str) -> None:
        """Delivers all that has arrived from `peer`, now."""
        connection = self._connections.get(peer)
        if connection is not None:
            connection.drain()

    def _on_message(self, connection: Connection, message: Message) -> None:
        if self._connections.get(connection.name) is connection:
            self._received(connection.name, message)

    def _on_close(self, connection: Connection, why: str) -> None:
        if self._connections.get(connection.name) is connection:
            del self._connections[connection.name]
            self._closed(connection.name, why)
