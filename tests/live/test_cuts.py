"""A connection that ends while both its processes live: nobody waits for ever, no stream is lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from death_checks import SEEDED, check_equal, undisturbed
from fleet_harness import Fleet, eventually, fleet, whole
from socket_cutting import cut

PROMPT = "a hinge that opens by itself is no hinge " * 6
COSTS = ("--scripted-step-us", "5000", "--scripted-prompt-token-us", "1000")


@pytest.fixture(scope="module")
def running() -> Iterator[Fleet]:
    with fleet("--scripted", "--pool-mib", "1", *COSTS) as started:
        yield started


@pytest.fixture
def healthy(running: Fleet) -> Iterator[Fleet]:
    with whole(running):
        yield running


def pid_of(running: Fleet, name: str) -> int:
    if name in ("control", "door"):
        return running.pid_of(name)
    return int(running.worker(name)["pid"])


@pytest.mark.parametrize("moment", ["prefill", "stream"])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("control", "decode-0"),
        ("control", "prefill-0"),
        ("prefill-0", "decode-0"),
        ("door", "decode-0"),
        ("door", "prefill-0"),
        ("door", "control"),
    ],
)
def test_a_cut_connection_leaves_no_trace_in_the_text(
    healthy: Fleet, one: str, other: str, moment: str
) -> None:
    request: dict[str, Any] = {"prompt": f"{one} {other} {moment} {PROMPT}", "max_tokens": 80} | SEEDED
    pids = pid_of(healthy, one), pid_of(healthy, other)
    stream = healthy.stream(**request)
    if moment == "prefill":
        healthy.wait_prefilling()
    else:
        stream.wait_for_chunks(5)
    assert cut(*pids)
    stream.result()
    healthy.wait_all_ready()
    assert pid_of(healthy, "door") == pids[0] or one != "door", "the door was killed"
    check_equal(stream, undisturbed(healthy, request), request)


def test_two_workers_that_lose_each_other_cost_one_of_them(healthy: Fleet) -> None:
    before = {name: pid_of(healthy, name) for name in ("prefill-0", "decode-0")}
    told = len(healthy.texts("starts again"))
    assert cut(*before.values())
    eventually(lambda: len(healthy.texts("starts again")) > told, "a worker that is started again")
    healthy.wait_all_ready()
    kept = [name for name, pid in before.items() if pid_of(healthy, name) == pid]
    assert len(kept) == 1
