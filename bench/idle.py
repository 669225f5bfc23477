"""CPU time of an idle default fleet, all its processes together, after it has answered once.

python bench/idle.py [--seconds 10] [--json FILE]
"""

from __future__ import annotations

import sys
import time

from client import random_prompt
from fleet import fleet
from processes import command, cpu_seconds
from report import Row, argument_parser, finish

SETTLE_S = 3.0


def main() -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="how long to look (10)")
    arguments = parser.parse_args()
    with fleet() as running:
        body = {"model": running.client.model(), "prompt": random_prompt(64, 1), "max_tokens": 8}
        running.client.complete(body)
        time.sleep(SETTLE_S)
        pids = running.processes()
        before = {pid: cpu_seconds(pid) for pid in pids}
        started_s = time.monotonic()
        time.sleep(arguments.seconds)
        spent = {pid: cpu_seconds(pid) - before[pid] for pid in pids}
        elapsed_s = time.monotonic() - started_s
        names = {pid: command(pid) for pid in pids}
        if running.processes() != pids:
            raise RuntimeError("processes came or went while the fleet was idle")
    total = 100 * sum(spent.values()) / elapsed_s
    rows = [Row(name="idle CPU, all processes", value=total, unit="% of a core", must="< 1")]
    rows += [
        Row(name=f"  {names[pid]} ({pid})", value=100 * spent[pid] / elapsed_s, unit="% of a core")
        for pid in pids
    ]
    return finish("idle", rows, arguments.json)


if __name__ == "__main__":
    sys.exit(main())
