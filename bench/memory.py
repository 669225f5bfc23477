"""Resident memory of the default fleet without its KV pool, after it has served at some concurrency.

python bench/memory.py [--json FILE]
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

from client import random_prompt
from fleet import fleet
from processes import POOL_NAME, command, memfds, memory
from report import Row, argument_parser, finish

CONCURRENCY = 8
MIB = 1 << 20


def main() -> int:
    arguments = argument_parser(__doc__).parse_args()
    with fleet() as running:
        model = running.client.model()
        bodies = [
            {"model": model, "prompt": random_prompt(512, seed), "max_tokens": 32, "ignore_eos": True}
            for seed in range(CONCURRENCY)
        ]
        with ThreadPoolExecutor(CONCURRENCY) as threads:
            list(threads.map(running.client.complete, bodies))
        pids = running.processes()
        found = {pid: memory(pid) for pid in pids}
        names = {pid: command(pid) for pid in pids}
        pool = {inode for pid in pids for inode in memfds(pid, POOL_NAME)}
        sealed = {
            inode: one.resident_bytes
            for pid in pids
            for inode, one in memfds(pid, "memfd:").items()
            if inode not in pool
        }
    total = sum(one.total - one.pool for one in found.values())
    rows = [
        Row(name="PSS without pool, all processes", value=total / MIB, unit="MiB", must="<= 1024"),
        Row(name="packed weights (memfds, part of it)", value=sum(sealed.values()) / MIB, unit="MiB"),
        Row(name="pool in use", value=sum(one.pool for one in found.values()) / MIB, unit="MiB"),
    ]
    rows += [
        Row(name=f"  {names[pid]} ({pid})", value=(one.total - one.pool) / MIB, unit="MiB")
        for pid, one in found.items()
    ]
    return finish("memory", rows, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
