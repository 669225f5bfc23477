"""The local transport: nothing moves. Workers of one host map the same memory, a handoff names pages.

The pool and the packed weights are memfds (memfd_create(2)) made by the supervisor and its packer; here
a worker maps the descriptors it was handed.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from pathlib import Path

__all__ = ["MappedPool", "map_pool", "map_read_only"]

HUGE_PAGE_BYTES = 2 * 1024 * 1024
SHARED_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
_GRANTED_ON_ADVICE = ("always", "within_size", "advise", "force")


class MappedPool:
    """A pool mapped for reading and writing; unmapped when the last view of `memory` is gone."""

    def __init__(self, memory: memoryview, huge_pages: bool) -> None:
        self.memory = memory
        self.huge_pages = huge_pages
        """The kernel backs it with huge pages, where it has them."""


def map_pool(descriptor: int, size_bytes: int, *, setting: Path = SHARED_HUGE_PAGES) -> MappedPool:
    """Maps the first `size_bytes` of a pool; the descriptor may be closed afterwards.

    Raises `ValueError` where the file is smaller, or could shrink: a page cut off under a reader would
    kill its process. `setting` is the kernel's on transparent huge pages of shared memory.
    """
    status = os.fstat(descriptor)
    if status.st_size < size_bytes:
        raise ValueError(f"pool: the file has {status.st_size} bytes, {size_bytes} are needed")
    if not fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
        raise ValueError("pool: the file is not sealed against shrinking")
    mapped = mmap.mmap(descriptor, status.st_size, flags=mmap.MAP_SHARED)
    reserved = status.st_blksize >= HUGE_PAGE_BYTES
    advised = not reserved and _granted_on_advice(setting)
    if advised:
        mapped.madvise(mmap.MADV_HUGEPAGE)
    return MappedPool(memoryview(mapped)[:size_bytes], reserved or advised)


def map_read_only(descriptor: int) -> memoryview:
    """The whole file, read-only; the descriptor may be closed afterwards.

    Mapped privately: kernels before 6.7 refuse a shared mapping of a file sealed against writing, and
    memory that is never written is shared all the same.
    """
    size = os.fstat(descriptor).st_size
    return memoryview(mmap.mmap(descriptor, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ))


def _granted_on_advice(setting: Path) -> bool:
    """Whether the bracketed choice in the kernel's setting lets MADV_HUGEPAGE do anything."""
    try:
        choices = setting.read_text().split()
    except OSError:
        return False
    return any(f"[{choice}]" in choices for choice in _GRANTED_ON_ADVICE)
