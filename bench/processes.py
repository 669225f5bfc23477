"""What a tree of processes costs, read from /proc: CPU time and memory (proc(5))."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

import msgspec

PROC = Path("/proc")
POOL_NAME = "memfd:diptych-pool"
_MAPPING = re.compile(r"[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+\s*(.*)")


class Memory(msgspec.Struct, frozen=True):
    """Proportional set size in bytes: a page shared by n processes counts 1/n in each."""

    total: int
    pool: int
    """The part that is the pool of KV pages."""


def tree(pid: int) -> list[int]:
    """`pid` and the live processes below it."""
    children: dict[int, list[int]] = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
                if state not in "ZX":
                    children.setdefault(int(parent), []).append(int(entry.name))
    found = [pid]
    for one in found:
        found += children.get(one, [])
    return found


def cpu_seconds(pid: int) -> float:
    """CPU time of a process's live threads: to the nanosecond from schedstat, else by clock ticks."""
    try:
        tasks = [(task / "schedstat").read_text() for task in (PROC / str(pid) / "task").iterdir()]
        return sum(int(text.split()[0]) for text in tasks) / 1e9
    except FileNotFoundError:
        fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(pid: int) -> Memory:
    """Memory of one process; what others share with it counts in part."""
    total = pss_bytes((PROC / str(pid) / "smaps_rollup").read_text())
    return Memory(total, pss_bytes((PROC / str(pid) / "smaps").read_text(), POOL_NAME))


def pss_bytes(smaps: str, name: str = "") -> int:
    """Sum of `Pss` in the text of smaps or smaps_rollup over the mappings whose name holds `name`."""
    total = 0
    counted = False
    for line in smaps.splitlines():
        mapping = _MAPPING.match(line)
        if mapping:
            counted = name in mapping[1]
        elif counted and line.startswith("Pss:"):
            total += int(line.split()[1]) * 1024
    return total


def command(pid: int) -> str:
    """What a process runs, in short: its `-m` module, its script, or its program."""
    return short_command((PROC / str(pid) / "cmdline").read_bytes())


def short_command(line: bytes) -> str:
    words = [word.decode(errors="replace") for word in line.split(b"\0") if word]
    if not words or not Path(words[0]).name.startswith("python"):
        return Path(words[0]).name if words else "?"
    if "-m" in words[:-1]:
        return words[words.index("-m") + 1]
    return Path(next((word for word in words[1:] if not word.startswith("-")), words[0])).name


class Memfd(msgspec.Struct, frozen=True):
    resident_bytes: int
    huge: bool
    """In huge pages: what is resident is rounded up to them."""


def memfds(pid: int, name: str) -> dict[int, Memfd]:
    """Open memfds of a process whose name holds `name`, by inode."""
    found: dict[int, Memfd] = {}
    for link in (PROC / str(pid) / "fd").iterdir():
        with contextlib.suppress(OSError):
            if name in os.readlink(link):
                status = link.stat()
                huge = os.statvfs(link).f_bsize > os.sysconf("SC_PAGE_SIZE")
                found[status.st_ino] = Memfd(status.st_blocks * 512, huge)
    return found
