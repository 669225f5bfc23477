"""Read-only memory that all processes of a host share: memfds that are sealed once they are written."""

from __future__ import annotations

import fcntl
import mmap
import os

_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


class MemoryWriter:
    """A memfd while it is being written. `seal` makes it read-only for everyone and for good."""

    def __init__(self, name: str, size_bytes: int) -> None:
        self._descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(self._descriptor, size_bytes)
        self._map = mmap.mmap(self._descriptor, size_bytes)

    @property
    def memory(self) -> memoryview:
        """Writable; must be released before `seal`, or that raises `BufferError`."""
        return memoryview(self._map)

    def seal(self) -> int:
        """The descriptor, the caller's to close."""
        self._map.close()
        fcntl.fcntl(self._descriptor, fcntl.F_ADD_SEALS, _SEALS)
        return self._descriptor


def create_sealed(name: str, data: bytes) -> int:
    """Descriptor of a sealed memfd that holds `data` (at least one byte)."""
    writer = MemoryWriter(name, len(data))
    with writer.memory as memory:
        memory[:] = data
    return writer.seal()
