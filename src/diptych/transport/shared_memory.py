"""The local transport: nothing moves. Workers of one host map the same memory, a handoff names pages.

The pool and the packed weights are memfds (memfd_create(2)) made by the supervisor and its packer; here
a worker maps the descriptors it was handed.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from pathlib import Path

__all__ = ["MappedPool", "copy_in_huge_pages", "map_pool", "map_read_only"]

HUGE_PAGE_BYTES = 2 * 1024 * 1024
SHARED_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/shmem_enabled")
PRIVATE_HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
MEMORY = Path("/proc/meminfo")
COPY_SHARE = 16
"""A private copy may take one part in so many of the memory that is to be had."""
_GRANTED_ON_ADVICE = ("always", "within_size", "advise", "madvise", "force")


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


def copy_in_huge_pages(
    weights: memoryview,
    *,
    shared: Path = SHARED_HUGE_PAGES,
    private: Path = PRIVATE_HUGE_PAGES,
    memory: Path = MEMORY,
) -> memoryview | None:
    """A private copy of mapped weights in huge pages, or None where that cannot help or costs too much.

    Decoding reads all weights for every token, and through 4 KiB pages much of that time goes to
    address translation. Kernels grant huge pages to private memory by default, to shared memory only if
    told to (`shared`); where they do the latter, a copy is no use. `private` and `memory` are the
    kernel's setting for private memory and its account of memory.
    """
    if _granted_on_advice(shared) or not _granted_on_advice(private):
        return None
    if weights.nbytes * COPY_SHARE > _available_bytes(memory):
        return None
    copy = mmap.mmap(-1, weights.nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    copy.madvise(mmap.MADV_HUGEPAGE)
    view = memoryview(copy)
    view[:] = weights
    return view.toreadonly()


def _available_bytes(memory: Path) -> int:
    for line in memory.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0


def _granted_on_advice(setting: Path) -> bool:
    """Whether the bracketed choice in the kernel's setting lets MADV_HUGEPAGE do anything."""
    try:
        choices = setting.read_text().split()
    except OSError:
        return False
    return any(f"[{choice}]" in choices for choice in _GRANTED_ON_ADVICE)
