"""How much an engine slows down while others compute on the other cores of its host: they share its memory,
its cache and often its clock."""

from __future__ import annotations

import os
import signal
import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from diptych.sim.costs.profiling import Bench

_ROUNDS = 7
_CONTEXT = 256
_TOKENS = 64
_SEQUENCES = 4


def slowdown(bench: Bench, cores: Sequence[int]) -> float:
    """Of steps on the first of `cores` while the same engine computes prompts on all others, at least 1.
    Only for an engine without threads of its own, because this forks."""
    if len(cores) < 2:
        return 1.0
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cores[0]})
    try:
        with _others(bench, cores[1:]) as others:
            alone: list[tuple[int, ...]] = []
            beside: list[tuple[int, ...]] = []
            for _ in range(_ROUNDS):
                _signal(others, signal.SIGSTOP)
                alone.append(_steps_ns(bench))
                _signal(others, signal.SIGCONT)
                beside.append(_steps_ns(bench))
    finally:
        os.sched_setaffinity(0, before)
    # The shortest of each: what else the machine does lengthens some of them, on either side.
    fast, slow = ([min(taken) for taken in zip(*rounds, strict=True)] for rounds in (alone, beside))
    ratios: list[float] = [late / early for late, early in zip(slow, fast, strict=True)]
    return max(1.0, statistics.median(ratios))


def _steps_ns(bench: Bench) -> tuple[int, int, int]:
    """Of one decoding sequence, of some, and of a prompt."""
    context = min(_CONTEXT, bench.context_max // 2)
    some = min(_SEQUENCES, bench.places)
    prompt_ns = bench.prompt_ns(min(_TOKENS, context), 0)
    return bench.decode_ns(1, context), bench.decode_ns(some, context), prompt_ns


@contextmanager
def _others(bench: Bench, cores: Sequence[int]) -> Iterator[list[int]]:
    """Processes that compute until they are ended, or their parent is."""
    parent, children = os.getpid(), []
    try:
        for core in cores:
            child = os.fork()
            if not child:
                _compute(bench, core, parent)
            children.append(child)
        yield children
    finally:
        _signal(children, signal.SIGKILL)
        for child in children:
            os.waitpid(child, 0)


def _compute(bench: Bench, core: int, parent: int) -> None:
    try:
        os.sched_setaffinity(0, {core})
        while os.getppid() == parent:
            bench.prompt_ns(min(_TOKENS, bench.context_max // 2), 0)
    finally:
        os._exit(0)


def _signal(children: Sequence[int], number: int) -> None:
    for child in children:
        os.kill(child, number)
