"""A stream whose numerics died with their only worker: it waits, goes on with others, or ends, as asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from death_checks import SEEDED, check_equal, check_whole, undisturbed
from fleet_harness import Fleet, Stream, fleet
from hold_down import HoldDown

FLEET = """
exact_wait_s = {wait_s}
pool_mib = 1
{workers}
"""
WORKER = """
[[worker]]
role = "{role}"
engine = "scripted"
options = {{ own_format_only = 1, step_ns = 5_000_000, prompt_token_ns = 300_000 }}
"""


def unlike_pair(folder: Path, wait_s: float) -> AbstractContextManager[Fleet]:
    """Each worker computes its own numerics only, so neither can stand in for the other."""
    path = folder / "fleet.toml"
    workers = "".join(WORKER.format(role=role) for role in ("prefill", "decode"))
    path.write_text(FLEET.format(workers=workers, wait_s=wait_s))
    return fleet("--fleet", str(path))


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """It waits longer than any restart takes."""
    with unlike_pair(tmp_path_factory.mktemp("patient"), 300) as started:
        started.wait_all_ready()
        yield started


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with unlike_pair(tmp_path_factory.mktemp("impatient"), 0.5) as started:
        started.wait_all_ready()
        yield started


def body(salt: str, **fields: Any) -> dict[str, Any]:
    return {"prompt": salt + "two panels and nobody else " * 8, "max_tokens": 60} | SEEDED | fields


def broken_stream(running: Fleet, request: dict[str, Any]) -> tuple[Stream, HoldDown]:
    stream = running.stream(**request)
    stream.wait_for_chunks(8)
    hold = HoldDown(running, "decode-0")
    running.kill(running.worker("decode-0")["pid"])
    return stream, hold


def test_it_waits_for_the_restart_and_is_the_same(patient: Fleet) -> None:
    request = body("waits ")
    whole = undisturbed(patient, request)
    stream, hold = broken_stream(patient, request)
    hold.lift()
    check_equal(stream.result(), whole, request)
    assert patient.trace(stream.request_id)["exact"] is True


def test_it_goes_on_with_other_numerics_and_its_record_says_so(impatient: Fleet) -> None:
    request = body("goes on ")
    stream, hold = broken_stream(impatient, request)
    check_whole(stream.result(), request)
    record = impatient.trace(stream.request_id)
    assert record["exact"] is False
    assert record["attempts"][-1]["target"] == "prefill-0@1"
    hold.lift()
    impatient.wait_all_ready()
    impatient.wait_pages_home()


def test_it_ends_with_the_reason_where_no_others_are_wanted(impatient: Fleet) -> None:
    stream, hold = broken_stream(impatient, body("ends ", exact=True))
    stream.result()
    assert "numerics" in str(stream.error)
    assert impatient.trace(stream.request_id)["failure"]
    hold.lift()
    impatient.wait_all_ready()
    impatient.wait_pages_home()
