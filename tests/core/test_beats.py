"""How often a worker tells control how it is: at once after news, seldom when idle."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diptych.core import facts
from diptych.core.config import SECOND_NS
from diptych.core.worker.machine import BUSY_BEAT_NS


def beats_until(table: Any, end_ns: int) -> int:
    """Lets every deadline pass on time and counts the beats."""
    count = 0
    while (due_ns := table.machine.next_deadline_ns()) < end_ns:
        table.now_ns = due_ns - 1_000_000
        told = table.say(facts.DeadlinePassed())
        count += sum(isinstance(fact, facts.WorkerBeat) for fact in told)
    return count


def test_an_idle_worker_beats_no_more_often_than_asked(table: Callable[..., Any]) -> None:
    quiet = table(beat_ns=SECOND_NS)
    beats_until(quiet, 2 * SECOND_NS)
    assert beats_until(quiet, 12 * SECOND_NS) == 10


def test_granted_pages_are_shown_at_once(table: Callable[..., Any]) -> None:
    fresh = table(beat_ns=SECOND_NS)
    assert fresh.machine.next_deadline_ns() <= fresh.now_ns
    beat = next(fact for fact in fresh.say(facts.DeadlinePassed()) if isinstance(fact, facts.WorkerBeat))
    assert beat.pages_free == fresh.pages


def test_news_are_told_within_a_busy_beat(table: Callable[..., Any]) -> None:
    worker = table(beat_ns=SECOND_NS)
    beats_until(worker, 2 * SECOND_NS)
    worker.ask()
    assert worker.machine.next_deadline_ns() <= worker.now_ns + BUSY_BEAT_NS
