"""Child processes that are timed on a shared machine: one core, and ahead of their neighbours if allowed.

`nice` does not help between sessions: Linux schedules autogroups (one a session, sched(7)) against each
other first. A timed child therefore gets a session of its own, whose autogroup is raised. That needs
root; without it the child runs at the usual priority, and the benchmark says so.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

AUTOGROUP_NICE = -15


def pin(core: int | None = None) -> int:
    """Binds this process, and the children it starts from now on, to `core` (default: the last one that
    it may use); returns the core."""
    allowed = sorted(os.sched_getaffinity(0))
    chosen = allowed[-1] if core is None else core
    os.sched_setaffinity(0, {chosen})
    return chosen


def raise_priority(pid: int) -> bool:
    """Raises the autogroup of `pid`, which must have a session of its own. False where not permitted."""
    try:
        Path(f"/proc/{pid}/autogroup").write_text(str(AUTOGROUP_NICE), encoding="ascii")
    except OSError:
        return False
    return True


def popen(command: Sequence[str], **options: Any) -> tuple[subprocess.Popen[str], bool]:
    """Starts `command` in a session of its own; also whether its priority could be raised."""
    child = subprocess.Popen(command, text=True, start_new_session=True, **options)
    return child, raise_priority(child.pid)


def output_of(command: Sequence[str]) -> str:
    """Standard output of `command`, run as a timed child.

    Raises `RuntimeError` with its last words where it fails."""
    child, _ = popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        output, errors = child.communicate()
    except BaseException:
        child.kill()
        child.wait()
        raise
    if child.returncode != 0:
        words = (errors or output).strip().splitlines()
        raise RuntimeError(
            f"{command[0]} ended with {child.returncode}: {words[-1] if words else 'no output'}"
        )
    return output
