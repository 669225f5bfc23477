"""One end of the link between two hosts: a session over whatever connection there is at the moment.

A connection that holds loses nothing, so what is unacknowledged is sent again on the next one only. One that
is cut in silence is given up by the kernel when sent bytes stay unacknowledged (`TCP_USER_TIMEOUT`, tcp(7)).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

from diptych.live.hosts.words import (
    Greeting,
    HostWord,
    decode_greeting,
    decode_packet,
    encode_greeting,
    encode_packet,
)
from diptych.wire.errors import WireError
from diptych.wire.frames import HEADER_BYTES, frame
from diptych.wire.session import Packet, Session

__all__ = ["HostSession", "read_greeting", "write_greeting"]

log = logging.getLogger(__name__)

GREETING_BYTES_MAX = 64 * 1024
PACKET_BYTES_MAX = 8 * 1024 * 1024
BUSY_MESSAGES = 256
"""So many unacknowledged messages let the senders of data wait."""
CONNECTION_BYTES_MAX = 64 * 1024 * 1024
"""What a connection may have unsent before it is given up and dialled anew."""


async def read_frame(reader: asyncio.StreamReader, bytes_max: int) -> bytes:
    """One body. Raises `asyncio.IncompleteReadError` at the end and `WireError` where it is too long."""
    length = int.from_bytes(await reader.readexactly(HEADER_BYTES), "little")
    if length > bytes_max:
        raise WireError(f"a frame of {length} bytes; at most {bytes_max} are read here")
    return await reader.readexactly(length)


async def read_greeting(reader: asyncio.StreamReader) -> Greeting:
    """Raises as `read_frame` does, and `MalformedMessage`."""
    return decode_greeting(await read_frame(reader, GREETING_BYTES_MAX))


def write_greeting(writer: asyncio.StreamWriter, greeting: Greeting) -> None:
    writer.write(frame(encode_greeting(greeting)))


class HostSession:
    """Messages to and from one other host, for as long as its session lasts; connections come and go."""

    def __init__(self, name: str, received: Callable[[HostWord], None], drained: Callable[[], None]) -> None:
        """`drained` is called when senders that were told to wait may go on."""
        self.name = name
        self._session: Session[HostWord] = Session()
        self._received = received
        self._drained = drained
        self._writer: asyncio.StreamWriter | None = None
        self._waiting = False
        self._over = False

    @property
    def connected(self) -> bool:
        return self._writer is not None

    def must_wait(self) -> bool:
        """Whether who only passes data on should wait; `drained` follows where so."""
        if self._session.unacknowledged >= BUSY_MESSAGES:
            self._waiting = True
        return self._waiting

    def send(self, word: HostWord) -> None:
        """Never waits; after the end of the session it does nothing. Raises `SessionOverflow`."""
        if self._over:
            return
        self._write([self._session.send(time.monotonic_ns(), word)])

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        """Talks over this connection until it ends; returns why it did, for people."""
        if self._writer is not None:
            self._writer.close()
        self._writer = writer
        try:
            self._write(self._session.connected(time.monotonic_ns()))
            while True:
                self._take(decode_packet(await read_frame(reader, PACKET_BYTES_MAX)))
        except (asyncio.IncompleteReadError, OSError):
            return "the connection ended"
        except WireError as error:
            log.warning("link with %s cut: %s", self.name, error)
            return str(error)
        finally:
            if self._writer is writer:
                self._writer = None
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def end(self) -> None:
        """Nothing more is sent or taken."""
        self._over = True
        if self._writer is not None:
            self._writer.close()

    def _take(self, packet: Packet[HostWord]) -> None:
        words, answers = self._session.receive(time.monotonic_ns(), packet)
        self._write(answers)
        for word in words:
            if not self._over:
                self._received(word)
        if self._waiting and self._session.unacknowledged < BUSY_MESSAGES // 2:
            self._waiting = False
            self._drained()

    def _write(self, packets: list[Packet[HostWord]]) -> None:
        writer = self._writer
        if writer is None:
            return
        for packet in packets:
            writer.write(frame(encode_packet(packet)))
        if writer.transport.get_write_buffer_size() > CONNECTION_BYTES_MAX:
            writer.transport.abort()
