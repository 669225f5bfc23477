"""Channels: sockets of local processes whose other end is a process of another host.

The local process has one end of a socket pair, as with any partner of its own host; this has the other,
and passes what it reads on, and what comes from afar in.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import deque
from collections.abc import Callable

from diptych.live.child import Child
from diptych.live.hosts.link import HostSession
from diptych.live.hosts.words import Data
from diptych.live.launch import Connected

__all__ = ["Channel", "open_channel"]

log = logging.getLogger(__name__)

READ_BYTES = 64 * 1024
UNREAD_BYTES_MAX = 32 * 1024 * 1024
"""A local process that lets so much wait is stuck: the channel is shut."""


def open_channel(
    child: Child,
    peer: str,
    kind: str,
    epoch: int,
    *,
    number: int,
    session: HostSession,
    shut: Callable[[], None],
) -> Channel:
    """Connects a local process with `peer`, a process of the host that `session` leads to."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    channel = Channel(
        f"{child.identity} - {peer}",
        ours,
        lambda data: session.send(Data(number, data)),
        shut,
        session.must_wait,
    )
    child.link.send(Connected(peer=peer, kind=kind, epoch=epoch), (theirs.fileno(),))
    theirs.close()
    return channel


class Channel:
    """`forward` gets bytes for the other host; `shut` is called once, when the local end is closed."""

    def __init__(
        self,
        name: str,
        end: socket.socket,
        forward: Callable[[bytes], None],
        shut: Callable[[], None],
        busy: Callable[[], bool],
    ) -> None:
        self.name = name
        self._end = end
        self._forward = forward
        self._shut = shut
        self._busy = busy
        self._loop = asyncio.get_running_loop()
        self._unread: deque[memoryview] = deque()
        self._unread_bytes = 0
        self._open = True
        self._closing = False
        self._reading = False
        end.setblocking(False)
        self.resume()

    def resume(self) -> None:
        """Reads on, after `busy` said to wait."""
        if self._open and not self._reading:
            self._reading = True
            self._loop.add_reader(self._end, self._read)

    def deliver(self, data: bytes) -> None:
        """Bytes from the other host, for the local process."""
        if not self._open:
            return
        view = memoryview(data)
        if not self._unread:
            view = view[self._send(view) :]
            if not view:
                return
            self._loop.add_writer(self._end, self._write)
        self._unread.append(view)
        self._unread_bytes += len(view)
        if self._unread_bytes > UNREAD_BYTES_MAX:
            log.error("channel %s shut: %d bytes unread", self.name, self._unread_bytes)
            self._end_of_local()

    def close(self) -> None:
        """The other end is shut: the local process reads what is here, and then the end."""
        self._closing = True
        if not self._unread:
            self._close()

    def _send(self, view: memoryview) -> int:
        try:
            return self._end.send(view)
        except BlockingIOError:
            return 0
        except OSError:
            return len(view)  # The local process is gone; the reading side says so.

    def _write(self) -> None:
        while self._unread:
            sent = self._send(self._unread[0])
            self._unread_bytes -= sent
            if sent < len(self._unread[0]):
                self._unread[0] = self._unread[0][sent:]
                return
            self._unread.popleft()
        self._loop.remove_writer(self._end)
        if self._closing:
            self._close()

    def _read(self) -> None:
        try:
            data = self._end.recv(READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data:
            self._end_of_local()
            return
        self._forward(data)
        if self._busy():
            self._reading = False
            self._loop.remove_reader(self._end)

    def _end_of_local(self) -> None:
        if self._open:
            self._close()
            self._shut()

    def _close(self) -> None:
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._end)
        self._loop.remove_writer(self._end)
        self._end.close()
