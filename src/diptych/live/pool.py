"""The pool: one sealed memfd that every worker of the host maps, and how big it may be."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

MEBIBYTE = 1 << 20
HUGE_PAGE_BYTES = 2 * MEBIBYTE
POOL_BYTES_DEFAULT = 1024 * MEBIBYTE
POOL_PAGES_DEFAULT_MAX = 1 << 15
"""Tiny pages (of the scripted engine) would otherwise give millions of them to keep books of."""


def memory_available_bytes(meminfo: Path = Path("/proc/meminfo")) -> int:
    """What the kernel thinks a new program can have without swapping (proc_meminfo(5), MemAvailable)."""
    for line in meminfo.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{meminfo} has no line MemAvailable")


def huge_pages_free(meminfo: Path = Path("/proc/meminfo")) -> int:
    """Reserved and unused huge pages of the default size."""
    for line in meminfo.read_text().splitlines():
        if line.startswith("HugePages_Free:"):
            return int(line.split()[1])
    return 0


def pool_pages(page_bytes: int, pool_bytes: int | None) -> int:
    """Whole pages of a pool: `pool_bytes` where given, else 1 GiB or a quarter of the available memory.

    Raises `ValueError` where the given size holds no page or exceeds the available memory."""
    available = memory_available_bytes()
    if pool_bytes is None:
        wanted = min(POOL_BYTES_DEFAULT, available // 4, POOL_PAGES_DEFAULT_MAX * page_bytes)
        pool_bytes = max(page_bytes, wanted)
    if pool_bytes < page_bytes:
        raise ValueError(f"pool of {pool_bytes} bytes is smaller than one page of {page_bytes} bytes")
    if pool_bytes > available:
        raise ValueError(f"pool of {pool_bytes} bytes; the machine has {available} available")
    return pool_bytes // page_bytes


def create_pool(size_bytes: int) -> int:
    """Descriptor of a zeroed memfd that can neither grow nor shrink; in huge pages where enough are
    reserved. Its memory is taken page by page as workers write."""
    huge = huge_pages_free() * HUGE_PAGE_BYTES >= size_bytes
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING | (os.MFD_HUGETLB if huge else 0)
    descriptor = os.memfd_create("diptych-pool", flags)
    rounded = -(-size_bytes // HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES if huge else size_bytes
    os.ftruncate(descriptor, rounded)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL)
    return descriptor
