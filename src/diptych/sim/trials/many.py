"""Scenarios by name on many processes, as they come."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from itertools import islice
from multiprocessing import get_context

from diptych.sim.trials.trial import Verdict, try_named

BLOCK = 4
"""Scenarios that a process is given at once."""


def cores() -> int:
    return len(os.sched_getaffinity(0))


def try_all(names: Iterable[str], jobs: int) -> Iterator[Verdict]:
    """Verdicts in any order; `names` is read only as far as there is work for it, so the caller can end
    it by what came of the first ones. With one job everything happens in this process."""
    if jobs == 1:
        yield from map(try_named, names)
        return
    source = iter(names)
    # Not forked: a process that has threads (rich's progress) must not be.
    spawned = get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=spawned, initializer=_leave_interrupts) as pool:
        running: set[Future[list[Verdict]]] = set()
        try:
            while True:
                while len(running) < 2 * jobs and (block := list(islice(source, BLOCK))):
                    running.add(pool.submit(_try_block, block))
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield from future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _leave_interrupts() -> None:
    """They are the caller's, who ends with what there is."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _try_block(names: list[str]) -> list[Verdict]:
    return [try_named(name) for name in names]
