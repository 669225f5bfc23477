"""Whole messages over connected Unix stream sockets, in an asyncio process.

The supervisor makes a socket pair for every two processes that talk and hands each its end
(`live.host_link`), so nobody listens, nothing is left on disk and no stranger can connect.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections import deque
from collections.abc import Callable

from diptych.wire.errors import WireError
from diptych.wire.frames import FrameBuffer
from diptych.wire.messages import Message, decode, encode

__all__ = ["BUFFER_BYTES_MAX", "Connection"]

log = logging.getLogger(__name__)

BUFFER_BYTES_MAX = 32 * 1024 * 1024
"""What one connection may have unsent. A peer that lets so much wait is stuck: it is cut off."""
_READ_BYTES = 256 * 1024


class Connection:
    """One end of a connection; everything but `send` and `send_frame` belongs to the loop's thread.

    `on_message` is called in order of arrival, `on_close` exactly once with a reason for people, after
    the last message and never from inside another call. All that a peer sent before it died is
    delivered, whatever this end sent to it meanwhile.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_message: Callable[[Connection, Message], None],
        on_close: Callable[[Connection, str], None],
        *,
        name: str,
        buffer_bytes_max: int = BUFFER_BYTES_MAX,
    ) -> None:
        """Takes `sock` over. `name` is the peer's, for logs and for the owner."""
        self.name = name
        self._on_message = on_message
        self._on_close = on_close
        self._buffer_bytes_max = buffer_bytes_max
        self._socket = sock
        self._loop = asyncio.get_running_loop()
        self._received = FrameBuffer()
        self._lock = threading.Lock()
        self._unsent: deque[memoryview] = deque()
        self._unsent_bytes = 0
        self._accepts = True
        """Messages to send are taken; cleared by the first close, cut or failed send."""
        self._why_closing = ""
        """Not empty from `close` on, while what was sent is on its way out."""
        self._open = True
        sock.setblocking(False)
        self._loop.add_reader(sock, self._read)

    @property
    def is_open(self) -> bool:
        """Messages sent now may still arrive."""
        return self._accepts

    @property
    def buffered_bytes(self) -> int:
        return self._unsent_bytes

    def send(self, message: Message) -> None:
        """Sends now or as soon as the peer reads. Never waits: past `buffer_bytes_max` unsent bytes the
        connection is cut, because a message left out would break the order that the machines rely on.
        After the end of the connection it does nothing. For any thread."""
        if self._accepts:
            self.send_frame(encode(message))

    def send_frame(self, encoded: bytes) -> None:
        """As `send`, for a message that `messages.encode` made already."""
        with self._lock:
            if not self._accepts:
                return
            sent = 0
            if not self._unsent:
                try:
                    sent = self._socket.send(encoded)
                except BlockingIOError:
                    pass
                except OSError:
                    # The peer is gone. The reading side says so, behind what the peer sent before.
                    self._accepts = False
                    return
                if sent == len(encoded):
                    return
                self._loop.call_soon_threadsafe(self._wait_for_room)
            self._unsent.append(memoryview(encoded)[sent:])
            self._unsent_bytes += len(encoded) - sent
            if self._unsent_bytes > self._buffer_bytes_max:
                self._accepts = False
                why = f"{self._unsent_bytes} bytes unread by the peer, the limit is {self._buffer_bytes_max}"
                self._loop.call_soon_threadsafe(self.abort, why)

    def close(self, why: str = "closed here") -> None:
        """Ends the connection when all that was sent has left; `on_close` follows."""
        with self._lock:
            self._accepts = False
            self._why_closing = why
            if self._unsent:
                return
        self.abort(why)

    def abort(self, why: str) -> None:
        """Ends the connection at once; what was not sent or not read is lost."""
        if not self._open:
            return
        self._open = False
        with self._lock:
            self._accepts = False
            self._unsent.clear()
            self._unsent_bytes = 0
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
            self._socket.close()
        self._loop.call_soon(self._on_close, self, why)

    def drain(self) -> None:
        """Delivers all that has arrived, now. Where the peer is known dead, that is all it ever sent."""
        while self._open and self._read():
            pass

    def _read(self) -> bool:
        """One read; False where there was nothing to read."""
        try:
            data = self._socket.recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            # A reset (the peer closed with bytes unread) comes behind all data, as an orderly end does.
            data = b""
        try:
            if not data:
                self._received.finish()
                self.abort("the peer closed it")
                return False
            for body in self._received.receive(data):
                self._on_message(self, decode(body))
                if not self._open:
                    return False
        except WireError as error:
            log.error("connection with %s cut: %s", self.name, error)
            self.abort(str(error))
        return True

    def _wait_for_room(self) -> None:
        if self._open:
            self._loop.add_writer(self._socket, self._write)

    def _write(self) -> None:
        with self._lock:
            try:
                while self._unsent:
                    part = self._unsent[0]
                    sent = self._socket.send(part)
                    self._unsent_bytes -= sent
                    if sent < len(part):
                        self._unsent[0] = part[sent:]
                        return
                    self._unsent.popleft()
            except BlockingIOError:
                return
            except OSError:
                # As in `send_frame`: the end of the connection is the reading side's to find.
                self._accepts = False
                self._unsent.clear()
                self._unsent_bytes = 0
            self._loop.remove_writer(self._socket)
        if self._why_closing:
            self.abort(self._why_closing)
