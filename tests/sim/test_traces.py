"""Golden traces: what the machines do in stories worth telling. `make traces` rewrites them."""

from __future__ import annotations

from pathlib import Path

import pytest

from diptych.sim.script import LINE, BadScript, read_script, retell

FOLDER = Path(__file__).resolve().parent.parent / "traces"
STORIES = sorted(FOLDER.glob("*.txt"))


@pytest.mark.parametrize("path", STORIES, ids=lambda path: path.stem)
def test_the_story_is_still_told_the_same_way(path: Path) -> None:
    told = path.read_text()
    assert retell(told) == told, "run `make traces` and read the difference"


def test_there_are_stories_and_each_says_why_it_is_told() -> None:
    assert len(STORIES) >= 12
    assert [path.name for path in STORIES if not path.read_text().startswith("# ")] == []


def test_a_changed_script_changes_its_trace() -> None:
    told = (FOLDER / "disaggregated.txt").read_text()
    changed = told.replace("prompt=text:42", "prompt=text:43", 1)
    assert retell(changed).partition(LINE)[2] != told.partition(LINE)[2]


@pytest.mark.parametrize(
    "line",
    ["worker", "request r1 at=1ms prompt=a:1 lengths=x", "fault kill", "sing a song", "worker w pages=many"],
)
def test_bad_lines_are_named(line: str) -> None:
    with pytest.raises(BadScript, match=line.split(" ")[0]):
        read_script(line)


STORY_TELLS = {
    "aggregated": ["split=0", "1 whole"],
    "client_gone": ["4 client gone", "RequestReleased"],
    "control_restarts": ["ControlLost", "DoorJoined", "HostStated", "2 whole"],
    "decode_dies": ["FenceWorker", "StreamInterrupted", "StreamDrained", "target lost"],
    "disaggregated": ["OfferAnswered", "bytes_moved=0", "1 whole"],
    "door_lost": ["DoorLost", "RequestReleased", "1 whole"],
    "next_turn": ["ContextLent", "ContextReturned", "cached_tokens=28"],
    "preemption": ["PauseStream", "StreamPaused", "preempted", "2 whole"],
    "prefill_dies": ["SourceLost", "EstateSettled", "inherited=(0", "1 whole"],
    "queue_full": ["RequestRejected", "retry_after_ns", "1 overloaded"],
    "two_models": ["large-0@1: TargetRequested", "small-0@1: TargetRequested", "1 unknown_model"],
    "worker_hangs": ["it was silent", "WorkerLost", "1 whole"],
}


@pytest.mark.parametrize(("name", "words"), STORY_TELLS.items(), ids=STORY_TELLS)
def test_a_story_holds_what_it_is_about(name: str, words: list[str]) -> None:
    trace = (FOLDER / f"{name}.txt").read_text().partition(LINE)[2]
    assert [word for word in words if word not in trace] == []


def test_the_partial_story_splits_in_the_middle() -> None:
    trace = (FOLDER / "partial.txt").read_text().partition(LINE)[2]
    last = trace.rpartition("RequestRouted r3")[2].partition("\n")[0]
    split = int(last.partition("split=")[2].split()[0])
    assert 0 < split < (41 - 1) // 4 * 4
    assert "source=prefill-0@1" in last
