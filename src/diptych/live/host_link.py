"""The host link: one SOCK_SEQPACKET pair between the supervisor and each child.

A packet is one message of `live.launch`, with its descriptors beside it (SCM_RIGHTS). The end of the
link is the end of the other process: a child that reads it exits, so that a supervisor killed by -9
leaves no orphan even where the kernel's parent-death signal was not yet set.
"""

from __future__ import annotations

import array
import asyncio
import ctypes
import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from diptych.core.facts import Fact
from diptych.live.launch import HostMessage, decode_host, encode_host

PACKET_BYTES_MAX = 128 * 1024
"""Below the default socket buffer, so that a packet can always be sent whole."""
DESCRIPTORS_MAX = 64
_PR_SET_PDEATHSIG = 1

Received = Callable[[HostMessage | Fact, list[int]], None]


def socket_pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def die_with_parent() -> None:
    """Asks the kernel to kill this process when the thread that started it ends (prctl(2)), and takes
    it out of the reach of the terminal's interrupt: how to end is the supervisor's decision."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def receive_packet(end: socket.socket) -> tuple[HostMessage | Fact, list[int]]:
    """One packet; raises `EOFError` at the end of the link and `BlockingIOError` where none is there."""
    # Not `socket.recv_fds`, which drops the flag that keeps descriptors from being inherited.
    room = socket.CMSG_SPACE(DESCRIPTORS_MAX * array.array("i").itemsize)
    data, ancillary, flags, _ = end.recvmsg(PACKET_BYTES_MAX, room, socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, payload in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(payload)
    if not data:
        raise EOFError("the host link ended")
    if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
        raise msgspec.DecodeError(f"a packet on the host link was cut (flags {flags:#x})")
    return decode_host(data), list(descriptors)


def send_packet(end: socket.socket, message: HostMessage | Fact, descriptors: Sequence[int] = ()) -> None:
    """Sends one packet and waits until it is taken; for before and after the event loop's time."""
    end.setblocking(True)
    socket.send_fds(end, [encode_host(message)], list(descriptors))


class HostLink:
    """One end of a host link in an asyncio process. `closed` is called once, at the end of the link."""

    def __init__(self, end: socket.socket, received: Received, closed: Callable[[], None]) -> None:
        self._end = end
        self._received = received
        self._closed = closed
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[bytes, list[int]]] = deque()
        self._open = True
        end.setblocking(False)
        self._loop.add_reader(end, self._read)

    def send(self, message: HostMessage | Fact, descriptors: Sequence[int] = ()) -> None:
        """Sends now or as soon as the peer reads; never blocks. The caller keeps its descriptors."""
        if not self._open:
            return
        data = encode_host(message)
        if len(data) > PACKET_BYTES_MAX:
            raise ValueError(f"host message of {len(data)} bytes; at most {PACKET_BYTES_MAX} fit")
        if not self._waiting and self._try_send(data, descriptors):
            return
        if not self._waiting:
            self._loop.add_writer(self._end, self._flush)
        self._waiting.append((data, [os.dup(descriptor) for descriptor in descriptors]))

    def drain(self) -> None:
        """Hands over what the peer sent before it ended."""
        while self._open:
            try:
                message, descriptors = receive_packet(self._end)
            except (BlockingIOError, EOFError, ConnectionResetError):
                return
            self._received(message, descriptors)

    def close(self) -> None:
        """Ends the link without calling `closed`."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._end)
        self._loop.remove_writer(self._end)
        for _, descriptors in self._waiting:
            _close_all(descriptors)
        self._waiting.clear()
        self._end.close()

    def _try_send(self, data: bytes, descriptors: Sequence[int]) -> bool:
        """False where the peer's buffer is full. A peer that is gone is reported by the reading side."""
        try:
            socket.send_fds(self._end, [data], list(descriptors))
        except BlockingIOError:
            return False
        except (BrokenPipeError, ConnectionResetError):
            return True
        return True

    def _flush(self) -> None:
        while self._waiting:
            data, descriptors = self._waiting[0]
            if not self._try_send(data, descriptors):
                return
            _close_all(descriptors)
            self._waiting.popleft()
        self._loop.remove_writer(self._end)

    def _read(self) -> None:
        try:
            message, descriptors = receive_packet(self._end)
        except BlockingIOError:
            return
        except (EOFError, ConnectionResetError):
            self.close()
            self._closed()
            return
        self._received(message, descriptors)


def _close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
