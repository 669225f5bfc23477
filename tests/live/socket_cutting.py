"""Cuts the connection between two running processes from outside, as no process of the fleet would.

The fleet's sockets are unnamed pairs, so which descriptor of one process is connected with the other is
asked of the kernel (sock_diag(7)); a copy of that descriptor (pidfd_getfd(2)) is then shut down, which
ends the connection for both. Needs the right to trace the processes: they are our descendants, or we
are root.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_NLMSG_DONE = 3
_NETLINK_SOCK_DIAG = 4
_UDIAG_SHOW_PEER = 0x4
_UNIX_DIAG_PEER = 2
_PIDFD_GETFD = 438
"""The number of the system call on every architecture that Linux added it for."""
_HEADER = struct.Struct("=IHHII")
_ENTRY = struct.Struct("=BBBBIII")
_ATTRIBUTE = struct.Struct("=HH")


def cut(one: int, other: int) -> bool:
    """Ends every stream connection between the processes of these pids; False where there is none."""
    theirs = set(_stream_sockets(other).values())
    peers = _unix_peers()
    done = False
    for descriptor, inode in _stream_sockets(one).items():
        if peers.get(inode) in theirs:
            with _copied(one, descriptor) as copy:
                copy.shutdown(socket.SHUT_RDWR)
                done = True
    return done


def _stream_sockets(pid: int) -> dict[int, int]:
    """Descriptors of a process that are sockets, with their inodes."""
    found: dict[int, int] = {}
    for entry in (Path("/proc") / str(pid) / "fd").iterdir():
        with contextlib.suppress(OSError):
            target = os.readlink(entry)
            if target.startswith("socket:["):
                found[int(entry.name)] = int(target[8:-1])
    return found


def _unix_peers() -> dict[int, int]:
    """The inode at the other end of each connected Unix stream socket of this network namespace."""
    peers: dict[int, int] = {}
    for entry, attributes in _dump():
        _, kind, _, _, inode, _, _ = entry
        peer = _attribute(attributes, _UNIX_DIAG_PEER)
        if kind == socket.SOCK_STREAM and peer is not None:
            (peers[inode],) = struct.unpack("=I", peer)
    return peers


def _attribute(attributes: bytes, wanted: int) -> bytes | None:
    start = 0
    while start + _ATTRIBUTE.size <= len(attributes):
        length, name = _ATTRIBUTE.unpack_from(attributes, start)
        if name == wanted:
            return attributes[start + _ATTRIBUTE.size : start + length]
        start += (length + 3) & ~3
    return None


def _dump() -> Iterator[tuple[tuple[int, ...], bytes]]:
    request = struct.pack(
        "=BBHIIIII", socket.AF_UNIX, 0, 0, 0xFFFFFFFF, 0, _UDIAG_SHOW_PEER, 0xFFFFFFFF, 0xFFFFFFFF
    )
    header = _HEADER.pack(
        _HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST | _NLM_F_DUMP, 1, 0
    )
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as kernel:
        kernel.send(header + request)
        while True:
            data = kernel.recv(1 << 16)
            while data:
                length, kind, _, _, _ = _HEADER.unpack_from(data)
                if kind == _NLMSG_DONE:
                    return
                if kind != _SOCK_DIAG_BY_FAMILY:
                    raise OSError(f"sock_diag answered with a message of type {kind}")
                yield (
                    _ENTRY.unpack_from(data, _HEADER.size),
                    data[_HEADER.size + _ENTRY.size : length],
                )
                data = data[(length + 3) & ~3 :]


@contextlib.contextmanager
def _copied(pid: int, descriptor: int) -> Iterator[socket.socket]:
    """A copy of another process's socket."""
    library = ctypes.CDLL(None, use_errno=True)
    pidfd = os.pidfd_open(pid)
    try:
        copy = library.syscall(_PIDFD_GETFD, pidfd, descriptor, 0)
        if copy < 0:
            error = ctypes.get_errno()
            raise OSError(error, f"cannot copy descriptor {descriptor} of {pid}: {os.strerror(error)}")
    finally:
        os.close(pidfd)
    with socket.socket(fileno=copy) as opened:
        yield opened
