"""Passing open files (the pool, packed weights) from one process to another: SCM_RIGHTS of unix(7).

Used once in a worker's life, before its event loop runs, so these calls block.
"""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Sequence

from diptych.wire.errors import FrameTooLong, TruncatedFrame
from diptych.wire.frames import HEADER_BYTES, frame

__all__ = ["DESCRIPTORS_MAX", "receive_descriptors", "send_descriptors"]

DESCRIPTORS_MAX = 64
"""Of one message; the kernel's own limit is 253."""
_BODY_BYTES_MAX = 1024 * 1024


def send_descriptors(sock: socket.socket, body: bytes, descriptors: Sequence[int]) -> None:
    """Sends one frame with open files beside its first byte. The caller keeps its own descriptors.

    Raises `ValueError` for too many of them and `OSError` where the peer is gone.
    """
    if len(descriptors) > DESCRIPTORS_MAX:
        raise ValueError(f"{len(descriptors)} descriptors in one message, the limit is {DESCRIPTORS_MAX}")
    if len(body) > _BODY_BYTES_MAX:
        raise FrameTooLong(len(body), _BODY_BYTES_MAX)
    data = frame(body)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
    sent = sock.sendmsg([data], rights)
    sock.sendall(data[sent:])


def receive_descriptors(sock: socket.socket) -> tuple[bytes, list[int]]:
    """One frame's body and the descriptors that came with it (the caller's to close, not inherited by
    children). Raises `TruncatedFrame` at the end of the stream and `FrameTooLong`; no descriptor leaks."""
    descriptors: list[int] = []
    try:
        header = _receive_exactly(sock, HEADER_BYTES, descriptors)
        length = int.from_bytes(header, "little")
        if length > _BODY_BYTES_MAX:
            raise FrameTooLong(length, _BODY_BYTES_MAX)
        return _receive_exactly(sock, length, descriptors), descriptors
    except BaseException:
        for descriptor in descriptors:
            os.close(descriptor)
        raise


def _receive_exactly(sock: socket.socket, count: int, descriptors: list[int]) -> bytes:
    """Reads no further than `count`: what follows may carry descriptors of its own."""
    data = b""
    space = socket.CMSG_SPACE(DESCRIPTORS_MAX * array.array("i").itemsize)
    while len(data) < count:
        part, ancillary, flags, _ = sock.recvmsg(count - len(data), space, socket.MSG_CMSG_CLOEXEC)
        for level, kind, payload in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                received = array.array("i")
                received.frombytes(payload[: len(payload) - len(payload) % received.itemsize])
                descriptors.extend(received)
        if flags & socket.MSG_CTRUNC:
            raise OSError("descriptors were cut off by the kernel (is the limit on open files reached?)")
        if not part:
            raise TruncatedFrame(len(data))
        data += part
    return data
