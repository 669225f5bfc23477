"""Threads: pinned where asked, asleep between steps, gone after close."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TASKS = Path("/proc/self/task")


def threads() -> set[str]:
    return {entry.name for entry in TASKS.iterdir()}


def eventually(condition: Any) -> bool:
    """Polls for at most ten seconds, so that a loaded machine does not fail the test."""
    for _ in range(1000):
        if condition():
            return True
        time.sleep(0.01)
    return False


def state(thread: str) -> str:
    return (TASKS / thread / "stat").read_text().rsplit(")", 1)[1].split()[0]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_threads_run_on_their_cores_and_sleep_between_steps(tiny: Any, host: Any) -> None:
    mine = os.sched_getaffinity(0)
    first, second = sorted(mine)[:2]
    before = threads()
    try:
        box = host(tiny(), threads=2, cores=[first, second])
        (helper,) = threads() - before
        box.whole(np.arange(30, dtype=np.int32), "bf16")
        assert os.sched_getaffinity(0) == {first}
        assert os.sched_getaffinity(int(helper)) == {second}
        assert eventually(lambda: state(helper) == "S")
        box.engine.close()
        assert eventually(lambda: helper not in threads())
    finally:
        os.sched_setaffinity(0, mine)


def test_more_threads_than_work(tiny: Any, host: Any) -> None:
    tokens = np.arange(3, dtype=np.int32)
    want = host(tiny(), ["int8"]).whole(tokens, "int8")
    box = host(tiny(), ["int8"], threads=7)
    for _ in range(20):
        np.testing.assert_array_equal(box.whole(tokens, "int8"), want)
