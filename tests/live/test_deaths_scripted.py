"""Real processes, scripted engines: a stream that meets a death equals the one that met none.

The scripted engine's next token is a hash of every KV entry of its context, and of the numerics that
computed it, so a page that is lost, stale or made by other numerics changes the text.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

import pytest
from death_checks import KINDS, SEEDED, check_death, check_equal, check_whole, undisturbed
from fleet_harness import Fleet, fleet, is_alive, whole

PROMPT = "once upon a time there were two panels on one hinge and nobody could say " * 4
TOKENS = 60
COSTS = ("--scripted-step-us", "3000", "--scripted-prompt-token-us", "2000")
"""A prompt of 292 tokens takes 0.6 s, 60 output tokens take 0.2 s."""


@pytest.fixture(scope="module")
def running() -> Iterator[Fleet]:
    with fleet("--scripted", "--pool-mib", "1", *COSTS) as started:
        yield started


@pytest.fixture
def healthy(running: Fleet) -> Iterator[Fleet]:
    with whole(running):
        yield running


def body(salt: str, **fields: Any) -> dict[str, Any]:
    """A request of its own prompt, so that nothing of it is cached before."""
    return {"prompt": f"{salt} {PROMPT}", "max_tokens": TOKENS, "temperature": 0} | fields


def test_the_two_halves_meet_without_moving_a_byte(healthy: Fleet) -> None:
    stream = undisturbed(healthy, body("walk"))
    trace = healthy.trace(stream.request_id)
    assert (trace["prefill_worker"], trace["decode_worker"]) == ("prefill-0", "decode-0")
    assert trace["split"] == trace["prompt_tokens"] // 16 * 16
    assert trace["handoff"]["pages"] == trace["split"] // 16
    assert trace["handoff"]["bytes_moved"] == 0
    assert trace["output_tokens"] == TOKENS
    assert trace["exact"] is True
    assert trace["finish_reason"] == "length"
    assert trace["reasons"]
    assert len(trace["attempts"]) == 1
    assert 0 < trace["itl_ms"]["p50"] <= trace["itl_ms"]["p99"]
    assert trace["ttft_ms"] > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("moment", ["prefill", "stream"])
@pytest.mark.parametrize("victim", ["prefill-0", "decode-0"])
def test_a_killed_worker_leaves_no_trace_in_the_text(
    healthy: Fleet, victim: str, moment: str, kind: str
) -> None:
    check_death(healthy, victim, moment, body(f"{victim} {moment} {kind}", **KINDS[kind]))


def test_both_workers_killed_at_once(healthy: Fleet) -> None:
    request = body("both", **SEEDED)
    whole = undisturbed(healthy, request)
    stream = healthy.stream(**request)
    stream.wait_for_chunks(10)
    for name in ("prefill-0", "decode-0"):
        healthy.kill(healthy.worker(name)["pid"])
    check_equal(stream.result(), whole, request)


def test_a_stopped_worker_is_fenced_by_its_lease() -> None:
    with fleet("--scripted", "--pool-mib", "1", "--lease", "0.6", *COSTS) as started:
        started.wait_all_ready()
        request = body("stop", **SEEDED)
        whole = undisturbed(started, request)
        pid = started.worker("decode-0")["pid"]
        stream = started.stream(**request)
        stream.wait_for_chunks(5)
        started.kill(pid, signal.SIGSTOP)
        check_equal(stream.result(), whole, request)
        assert not is_alive(pid)
        started.wait_all_ready()
        assert started.worker("decode-0")["epoch"] == 2
        started.wait_pages_home()


def test_streams_go_on_while_control_restarts(healthy: Fleet) -> None:
    request = body("control", **SEEDED)
    whole = undisturbed(healthy, request)
    stream = healthy.stream(**request)
    stream.wait_for_chunks(10)
    healthy.kill(healthy.pid_of("control"))
    check_equal(stream.result(), whole, request)
    healthy.wait_all_ready()
    again = undisturbed(healthy, request)
    assert again.texts == whole.texts


def test_control_killed_in_prefill(healthy: Fleet) -> None:
    request = body("control early", **SEEDED)
    stream = healthy.stream(**request)
    healthy.wait_prefilling()
    healthy.kill(healthy.pid_of("control"))
    check_whole(stream.result(), request)
    healthy.wait_all_ready()
    check_equal(stream, undisturbed(healthy, request), request)


def test_control_and_a_worker_killed_together(healthy: Fleet) -> None:
    request = body("control and decode", **SEEDED)
    whole = undisturbed(healthy, request)
    pid = healthy.worker("decode-0")["pid"]
    stream = healthy.stream(**request)
    stream.wait_for_chunks(10)
    healthy.kill(healthy.pid_of("control"))
    healthy.kill(pid)
    check_equal(stream.result(), whole, request)


def test_requests_that_find_no_control_wait_for_the_next(healthy: Fleet) -> None:
    request = body("no control", **SEEDED)
    healthy.kill(healthy.pid_of("control"))
    stream = healthy.stream(**request)
    check_whole(stream.result(), request)


def test_a_dead_door_frees_its_pages_and_the_next_one_serves(healthy: Fleet) -> None:
    stream = healthy.stream(**body("door"))
    stream.wait_for_chunks(5)
    healthy.kill(healthy.pid_of("door"))
    assert not stream.result().complete
    healthy.wait_all_ready()
    healthy.wait_pages_home()
    undisturbed(healthy, body("after the door"))


def test_a_client_that_leaves_frees_its_pages(healthy: Fleet) -> None:
    stream = healthy.stream(**body("leaver", max_tokens=2000))
    stream.wait_for_chunks(5)
    stream.close()
    healthy.wait_pages_home()
    assert healthy.worker("decode-0")["pages"]["held"] == 0
