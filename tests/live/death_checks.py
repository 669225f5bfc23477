"""What the kill tests ask of a stream, whichever engine ran it."""

from __future__ import annotations

from typing import Any

from fleet_harness import Fleet, Stream

GREEDY = {"temperature": 0, "seed": 11}
"""The seed makes the recipe canonical: without one the undisturbed run may rightly take another."""
SEEDED = {"temperature": 1.0, "seed": 11}
KINDS: dict[str, dict[str, Any]] = {
    "greedy": GREEDY,
    "seeded": SEEDED,
    "greedy two": {"n": 2, **GREEDY},
    "seeded two": {"n": 2, **SEEDED},
}


def check_whole(stream: Stream, request: dict[str, Any]) -> None:
    """Every choice is complete, and usage counts every token once."""
    count = request.get("n", 1)
    assert stream.error is None, stream.error
    assert stream.complete
    assert sorted(stream.finishes) == list(range(count))
    assert stream.usage is not None
    assert stream.usage["completion_tokens"] == count * request["max_tokens"]


def check_equal(stream: Stream, whole: Stream, request: dict[str, Any]) -> None:
    check_whole(stream, request)
    assert stream.texts == whole.texts
    assert stream.finishes == whole.finishes
    assert stream.usage is not None
    assert whole.usage is not None
    assert stream.usage["prompt_tokens"] == whole.usage["prompt_tokens"]


def undisturbed(running: Fleet, request: dict[str, Any]) -> Stream:
    whole = running.stream(**request).result()
    check_whole(whole, request)
    return whole


def check_death(running: Fleet, victim: str, moment: str, request: dict[str, Any]) -> None:
    """Kills `victim` while `request` is in prefill or in mid-stream, then runs the request again and
    compares. The disturbed run comes first, so that nothing of its prompt is cached."""
    pid = running.worker(victim)["pid"]
    stream = running.stream(**request)
    if moment == "prefill":
        running.wait_prefilling()
    else:
        stream.wait_for_chunks(8)
    running.kill(pid)
    check_whole(stream.result(), request)
    trace = running.trace(stream.request_id)
    assert trace["exact"] is True
    assert trace["output_tokens"] == request.get("n", 1) * request["max_tokens"]
    outcomes = [attempt["outcome"] for attempt in trace["attempts"]]
    if victim.startswith("decode"):
        assert outcomes == ["target lost", "finished"]
    elif moment == "prefill":
        assert outcomes[0] == "source lost"
    assert outcomes[-1] == "finished"
    running.wait_all_ready()
    whole = undisturbed(running, request)
    assert running.trace(whole.request_id)["recipe"] == trace["recipe"]
    check_equal(stream, whole, request)
