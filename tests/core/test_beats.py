"""How often a worker tells control how it is: seldom, and at once where its speed is not what it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diptych.core import facts
from diptych.core.config import SECOND_NS
from diptych.core.worker.beats import BEATS_APART_NS


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


def test_a_busy_worker_that_control_hears_of_puts_its_beats_off(table: Callable[..., Any]) -> None:
    """At most three in a row, and none that control does not hear of it between."""
    worker = table(beat_ns=SECOND_NS)
    beats_until(worker, 2 * SECOND_NS)
    worker.ask("stays", tokens=33)
    seen = []
    for second in range(8):
        worker.ask(f"r{second}", tokens=5)
        worker.release(f"r{second}")
        seen.append(beats_until(worker, (3 + second) * SECOND_NS))
    assert seen == [0, 0, 0, 1, 0, 0, 0, 1]
    assert beats_until(worker, 13 * SECOND_NS) == 3, "nothing was told meanwhile"


def test_an_idle_worker_shows_its_pages_at_the_next_beat(table: Callable[..., Any]) -> None:
    worker = table(beat_ns=SECOND_NS)
    beats_until(worker, 2 * SECOND_NS)
    worker.ask()
    worker.release()
    assert beats_until(worker, 3 * SECOND_NS) == 1


def test_an_overdue_run_is_told_however_much_control_hears(table: Callable[..., Any]) -> None:
    worker = table(beat_ns=SECOND_NS, overrun_factor=1, chunk_tokens=32, prefill_ns_per_token=1_000_000)
    beats_until(worker, 2 * SECOND_NS)
    worker.ask("stays", tokens=33)
    worker.fix("stays")
    for second in range(4):
        worker.ask(f"r{second}", tokens=5)
        assert beats_until(worker, (3 + second) * SECOND_NS) == 1


def speed_beat(worker: Any, duration_ns: int) -> int | None:
    """Runs a prompt of 8 tokens a step through the worker; when it wants to beat because of its speed."""
    worker.ask(tokens=33)
    worker.fix()
    run, worker.run = worker.run, None
    worker.say(facts.StepsRan(run=run.run, steps=1, duration_ns=duration_ns))
    return worker.machine.next_deadline_ns()


def test_what_others_can_see_is_no_reason_to_beat_early(table: Callable[..., Any]) -> None:
    worker = table(beat_ns=SECOND_NS)
    beats_until(worker, 2 * SECOND_NS)
    due_ns = worker.machine.next_deadline_ns()
    worker.ask()
    worker.fix()
    worker.ran()
    assert worker.machine.next_deadline_ns() == due_ns


def test_a_speed_that_moved_is_told_soon_and_not_again(table: Callable[..., Any]) -> None:
    worker = table(beat_ns=SECOND_NS, chunk_tokens=32, prefill_ns_per_token=1_000_000)
    beats_until(worker, 2 * SECOND_NS)
    due_ns = speed_beat(worker, 64_000_000)
    assert due_ns is not None
    assert due_ns <= worker.now_ns + BEATS_APART_NS
    worker.now_ns = due_ns
    beat = next(fact for fact in worker.say(facts.DeadlinePassed()) if isinstance(fact, facts.WorkerBeat))
    assert beat.prefill_ns_per_token == 2_000_000
    assert worker.machine.next_deadline_ns() == worker.now_ns + SECOND_NS


def test_a_speed_that_moved_a_little_waits_for_the_next_beat(table: Callable[..., Any]) -> None:
    worker = table(beat_ns=SECOND_NS, chunk_tokens=32, prefill_ns_per_token=1_000_000)
    beats_until(worker, 2 * SECOND_NS)
    due_ns = worker.machine.next_deadline_ns()
    assert speed_beat(worker, 38_000_000) == due_ns


def test_a_run_is_overdue_when_it_takes_a_multiple_of_its_prediction(table: Callable[..., Any]) -> None:
    """A host that is busy for a while makes every run late; that alone is no reason to be killed."""
    worker = table(beat_ns=SECOND_NS, overrun_factor=4, chunk_tokens=32, prefill_ns_per_token=SECOND_NS // 32)
    worker.ask(tokens=33)
    worker.fix()
    started_ns, predicted_ns = worker.now_ns, worker.run.predicted_ns
    overdue_ns = {}
    while worker.now_ns < started_ns + 7 * predicted_ns:
        worker.now_ns = worker.machine.next_deadline_ns() - 1_000_000
        for fact in worker.say(facts.DeadlinePassed()):
            if isinstance(fact, facts.WorkerBeat):
                overdue_ns[worker.now_ns - started_ns] = fact.run_overdue_ns
    late = {ran_ns: due_ns for ran_ns, due_ns in overdue_ns.items() if due_ns}
    assert min(late) > 4 * predicted_ns
    assert all(due_ns == ran_ns - 4 * predicted_ns for ran_ns, due_ns in late.items())
