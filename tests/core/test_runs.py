"""What a run is made of: which prompt work may begin a run of many steps, and what ends it early."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from diptych.core import facts
from diptych.core.actions import EndRun
from diptych.core.recipe import OPEN_END, join

P = "prefill-0@1"
FOREIGN_PAGES = (100, 101)
INT8 = join(("int8", OPEN_END))


def only(told: list[facts.Fact], kind: type[facts.Fact]) -> Any:
    found = [fact for fact in told if isinstance(fact, kind)]
    assert len(found) == 1, f"{kind.__name__} in {told}"
    return found[0]


def fetching(table: Any) -> None:
    only(table.ask(), facts.TargetReserved)
    table.fix(split=8, source=P)


def test_a_run_that_begins_with_tails_alone_goes_on_decoding(table: Callable[..., Any]) -> None:
    """Nobody waits for what a tail computes; control hears of the stream as its first step begins."""
    bench = table()
    fetching(bench)
    told = bench.offer(FOREIGN_PAGES)
    assert [(span.first, span.count, span.sample) for span in bench.run.prompts] == [(8, 2, True)]
    assert bench.run.steps_max == 4
    only(told, facts.StreamStarted)
    assert bench.run.tables[-1].start == 0
    assert len(bench.run.tables[-1].pages) * 4 >= 10 + 4 - 1
    assert bench.ran() == []
    assert (bench.run.prompts, bench.run.steps_max) == ((), 4)
    assert only(bench.finish(emitted=8), facts.StreamEnded).outputs == ((0, 8),)
    assert bench.home()


def test_a_run_that_seals_shared_pages_is_one_step(table: Callable[..., Any]) -> None:
    """Whoever asks for the same prompt meanwhile finds them in the tree."""
    bench = table(chunk_tokens=64)
    bench.ask()
    bench.fix()
    assert [span.count for span in bench.run.prompts] == [8, 2]
    assert bench.run.steps_max == 1


def test_a_tail_that_measures_the_prefill_rate_is_one_step(table: Callable[..., Any]) -> None:
    bench = table(page_tokens=32, chunk_tokens=64)
    bench.say(
        facts.TargetRequested(
            request="r", attempt=1, door="door-0", model="model", prompt_tokens=20, page_hashes=(),
            starts=(facts.SequenceStart(0, 0),), tokens_max=8,
        )
    )  # fmt: skip
    bench.fix()
    assert ([span.count for span in bench.run.prompts], bench.run.steps_max) == ([20], 1)


def test_a_newcomer_ends_a_run_that_began_with_tails(table: Callable[..., Any]) -> None:
    bench = table()
    fetching(bench)
    bench.offer(FOREIGN_PAGES)
    bench.ask("new")
    fixed = facts.RecipeFixed(request="new", attempt=1, recipe=INT8, split=0)
    assert EndRun(run=bench.run.run) in bench.machine.step(bench.now_ns, fixed)
    bench.ran(steps=1)
    assert [span.request for span in bench.run.prompts] == ["new"]
    assert bench.run.steps_max == 1


def test_a_release_ends_a_run_that_began_with_the_tail(table: Callable[..., Any]) -> None:
    bench = table()
    fetching(bench)
    bench.offer(FOREIGN_PAGES)
    released = facts.RequestReleased(request="r", attempt=1)
    assert EndRun(run=bench.run.run) in bench.machine.step(bench.now_ns, released)
    bench.ran(steps=1)
    assert bench.dropped == [("r", 1)]
    assert bench.home()
