"""Readings of /proc: of given texts, and of this process and its children."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from types import ModuleType

import pytest

Bench = Callable[[str], ModuleType]

SMAPS = """\
7f0000000000-7f0000100000 rw-s 00000000 00:01 12                         /memfd:diptych-pool (deleted)
Size:               1024 kB
Rss:                 512 kB
Pss:                 256 kB
Pss_Dirty:             4 kB
7f0000200000-7f0000300000 r--s 00000000 00:01 13                         /memfd:diptych-int8 (deleted)
Rss:                 100 kB
Pss:                  50 kB
7f0000400000-7f0000500000 rw-p 00000000 00:00 0
Pss:                   8 kB
7f0000600000-7f0000700000 rw-p 00000000 00:00 0                          [heap]
Pss:                   2 kB
"""
ROLLUP = """\
55a0-7fff ---p 00000000 00:00 0                                          [rollup]
Rss:                 900 kB
Pss:                 316 kB
Pss_Anon:             10 kB
"""


def test_pss_is_summed_by_name(bench: Bench) -> None:
    processes = bench("processes")
    assert processes.pss_bytes(SMAPS) == (256 + 50 + 8 + 2) * 1024
    assert processes.pss_bytes(SMAPS, processes.POOL_NAME) == 256 * 1024
    assert processes.pss_bytes(ROLLUP) == 316 * 1024


@pytest.mark.parametrize(
    ("line", "short"),
    [
        (b"/venv/bin/python3\0-m\0diptych.live.worker\0--host-fd\x0018\0", "diptych.live.worker"),
        (b"/venv/bin/python\0/venv/bin/diptych\0serve\0-m\0", "diptych"),
        (b"/usr/bin/sleep\0-m\x0010\0", "sleep"),
        (b"", "?"),
    ],
)
def test_commands_in_short(bench: Bench, line: bytes, short: str) -> None:
    assert bench("processes").short_command(line) == short


def test_a_tree_holds_children_and_their_children(bench: Bench) -> None:
    processes = bench("processes")
    script = (
        "import subprocess, sys; child = subprocess.Popen(['sleep', '60']); "
        "print(child.pid, flush=True); sys.stdin.read(); child.kill(); child.wait()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        grandchild = int(child.stdout.readline())
        assert processes.tree(child.pid) == [child.pid, grandchild]
        assert {child.pid, grandchild} < set(processes.tree(os.getpid()))
        child.stdin.close()
    assert child.pid not in processes.tree(os.getpid())


def test_cpu_time_counts_work(bench: Bench) -> None:
    processes = bench("processes")
    before_s, started_s = processes.cpu_seconds(os.getpid()), time.process_time()
    while time.process_time() - started_s < 0.1:
        pass
    # Clock ticks, where there is no schedstat, are a hundredth of a second.
    assert processes.cpu_seconds(os.getpid()) - before_s >= 0.08


def test_memfds_tell_what_is_resident(bench: Bench) -> None:
    processes = bench("processes")
    descriptor = os.memfd_create("bench-test")
    try:
        os.ftruncate(descriptor, 1 << 20)
        os.pwrite(descriptor, b"x" * 8192, 65536)
        (found,) = processes.memfds(os.getpid(), "memfd:bench-test").values()
    finally:
        os.close(descriptor)
    assert found.resident_bytes == 8192
    assert not found.huge


def test_memory_of_this_process(bench: Bench) -> None:
    found = bench("processes").memory(os.getpid())
    assert found.total > 1 << 20
    assert found.pool == 0
