"""Timing on a shared machine: ahead of the neighbours where that is permitted, and on one core.

`nice` does not help between sessions: Linux weighs autogroups (one a session, sched(7)) against each
other first. So a benchmark goes into a session of its own and raises that session's autogroup, which
needs root; what it starts inherits both. Without root it runs at the usual priority and says so.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

AUTOGROUP_NICE = -15
_HANDED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def take_priority() -> str:
    """Goes on in a child with a raised session of its own, and returns words for the report.

    The calling process only waits, hands signals on and exits with the child's status. To be called
    before anything else is started."""
    child = os.fork()
    if child:
        _stand_by(child)
    os.setsid()
    for number in _HANDED_ON:
        signal.signal(number, _end)
    try:
        Path("/proc/self/autogroup").write_text(str(AUTOGROUP_NICE), encoding="ascii")
    except OSError:
        return "usual priority (raising it needs root)"
    return f"autogroup at nice {AUTOGROUP_NICE}"


def _end(number: int, _frame: FrameType | None) -> None:
    """An exception, so that fleets are stopped on the way out."""
    sys.exit(128 + number)


def _stand_by(child: int) -> NoReturn:
    for number in _HANDED_ON:
        signal.signal(number, lambda received, _frame: os.kill(child, received))
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)


@contextmanager
def pinned() -> Iterator[int]:
    """Binds this process, and the children it starts meanwhile, to the last core that it may use."""
    allowed = os.sched_getaffinity(0)
    core = max(allowed)
    os.sched_setaffinity(0, {core})
    try:
        yield core
    finally:
        os.sched_setaffinity(0, allowed)


def output_of(command: Sequence[str]) -> str:
    """Standard output of `command`. Raises `RuntimeError` with its last words where it fails."""
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        words = (result.stderr or result.stdout).strip().splitlines() or ["no output"]
        raise RuntimeError(f"{Path(command[0]).name} ended with {result.returncode}: {words[-1]}")
    return result.stdout
