"""Blocking reads and writes of scattered memory on one connection, plain or under TLS."""

from __future__ import annotations

import contextlib
import socket
import ssl
from collections.abc import Iterable, Sequence

__all__ = ["Stream"]

VECTORS_MAX = 512
"""Parts of one system call; the kernel takes 1024 (IOV_MAX), half of that was measured as fast."""


class Stream:
    """Whole messages or an `OSError`: a read that meets the end of the stream raises `ConnectionError`."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        self.secure = isinstance(end, ssl.SSLSocket)

    def read(self, count: int) -> bytes:
        buffer = bytearray(count)
        self.read_into([memoryview(buffer)])
        return bytes(buffer)

    def write(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read_into(self, parts: Sequence[memoryview]) -> None:
        """Fills the parts one after another."""
        if self.secure:
            for part in parts:
                _fill(self.socket, part)
            return
        waiting = list(parts)
        first = 0
        while first < len(waiting):
            count = self.socket.recvmsg_into(waiting[first : first + VECTORS_MAX])[0]
            if not count:
                raise ConnectionError("the connection ended in the middle of a message")
            first = _advance(waiting, first, count)

    def write_from(self, parts: Iterable[memoryview]) -> None:
        waiting = list(parts)
        if self.secure:
            for part in waiting:
                self.socket.sendall(part)
            return
        first = 0
        while first < len(waiting):
            count = self.socket.sendmsg(waiting[first : first + VECTORS_MAX])
            first = _advance(waiting, first, count)

    def close(self) -> None:
        """Also from another thread, whose read or write then fails."""
        with contextlib.suppress(OSError):  # The peer closed it, or it was never connected.
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


def _fill(end: socket.socket, part: memoryview) -> None:
    done = 0
    while done < len(part):
        count = end.recv_into(part[done:])
        if not count:
            raise ConnectionError("the connection ended in the middle of a message")
        done += count


def _advance(parts: list[memoryview], first: int, count: int) -> int:
    """Index of the first part that is not done after `count` more bytes; a part done in part is cut."""
    while first < len(parts) and count >= len(parts[first]):
        count -= len(parts[first])
        first += 1
    if count:
        parts[first] = parts[first][count:]
    return first


def merged(memory: memoryview, page_bytes: int, pages: Sequence[int]) -> list[memoryview]:
    """The pages as slices of the memory, adjacent ones as one."""
    parts: list[memoryview] = []
    first = 0
    while first < len(pages):
        end = first + 1
        while end < len(pages) and pages[end] == pages[end - 1] + 1:
            end += 1
        start = pages[first] * page_bytes
        parts.append(memory[start : start + (end - first) * page_bytes])
        first = end
    return parts
