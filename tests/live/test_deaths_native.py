"""The kill tests on the real model: native int8 prefill, native int4 decode. Only content is compared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from death_checks import KINDS, SEEDED, check_death, check_equal, check_whole, undisturbed
from fleet_harness import Fleet, fleet, whole

pytestmark = pytest.mark.model

TOKENS = 24
STORY = (
    "The old mapmaker kept two drawers, one for the coasts he had seen and one for the coasts that "
    "sailors had only described to him. Every winter he took a sheet from the second drawer, "
    "compared it with the letters of that year, and either moved it to the first or tore it up. "
)


@pytest.fixture(scope="module")
def running() -> Iterator[Fleet]:
    with fleet("--pool-mib", "256") as started:
        yield started


@pytest.fixture
def healthy(running: Fleet) -> Iterator[Fleet]:
    with whole(running):
        yield running


def body(salt: str, **fields: Any) -> dict[str, Any]:
    return {"prompt": f"({salt}) {STORY * 8}", "max_tokens": TOKENS, "temperature": 0} | fields


def test_an_unlike_pair_serves_one_prompt(healthy: Fleet) -> None:
    request = body("walk", **SEEDED)
    stream = undisturbed(healthy, request)
    trace = healthy.trace(stream.request_id)
    assert (trace["prefill_worker"], trace["decode_worker"]) == ("prefill-0", "decode-0")
    assert trace["split"] == (trace["prompt_tokens"] - 1) // 16 * 16
    assert trace["handoff"]["pages"] == trace["split"] // 16
    assert trace["handoff"]["bytes_moved"] == 0
    assert len(trace["recipe"]) == 2
    again = undisturbed(healthy, request)
    assert again.texts == stream.texts
    assert healthy.trace(again.request_id)["cached_tokens"] == trace["split"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("moment", ["prefill", "stream"])
@pytest.mark.parametrize("victim", ["prefill-0", "decode-0"])
def test_a_killed_worker_leaves_no_trace_in_the_text(
    healthy: Fleet, victim: str, moment: str, kind: str
) -> None:
    check_death(healthy, victim, moment, body(f"{victim} {moment} {kind}", **KINDS[kind]))


def test_control_killed_in_mid_stream(healthy: Fleet) -> None:
    request = body("control", **SEEDED)
    stream = healthy.stream(**request)
    stream.wait_for_chunks(8)
    healthy.kill(healthy.pid_of("control"))
    check_whole(stream.result(), request)
    healthy.wait_all_ready()
    check_equal(stream, undisturbed(healthy, request), request)
