"""How the benchmarks of the live fleet turn what they saw into rows."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

Bench = Callable[[str], ModuleType]
BENCH = Path(__file__).parents[2] / "bench"


def by_name(rows: list[Any], part: str) -> Any:
    (found,) = [row for row in rows if part in row.name]
    return found


def record(duration_ms: float, bytes_moved: int = 0) -> dict[str, Any]:
    return {
        "handoff": {"pages": 31, "bytes_moved": bytes_moved, "duration_ms": duration_ms},
        "prefill": {"duration_ms": 400.0},
    }


def test_handoff_rows(bench: Bench) -> None:
    handoff = bench("handoff")

    def rows(*records: dict[str, Any], resident_bytes: int = 10, huge: bool = False) -> list[Any]:
        return handoff.rows_of(handoff.Handoffs(list(records), 1, resident_bytes, huge), kv_bytes=10)

    usual = rows(record(0.2), record(0.4), record(9.0))
    assert by_name(usual, "handoff p50").value == 0.4
    assert by_name(usual, "handoff p95").value == 9.0
    assert not any(row.missed for row in usual)
    assert by_name(rows(record(0.2, 4096)), "bytes moved").missed
    assert by_name(rows(record(1.5)), "handoff p50").missed
    assert by_name(rows(record(0.2), resident_bytes=20), "resident").missed
    assert not by_name(rows(record(0.2), resident_bytes=20, huge=True), "resident").missed


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([5.0], 0.95, 5.0), ([1.0, 2.0], 0.5, 1.0), ([3.0, 1.0, 2.0], 0.5, 2.0), ([1.0, 2.0], 1.0, 2.0)],
)
def test_quantiles(bench: Bench, values: list[float], share: float, expected: float) -> None:
    assert bench("interference").quantile(values, share) == expected


def test_a_quantile_leaves_just_its_share_below(bench: Bench) -> None:
    assert bench("interference").quantile([float(i) for i in range(1, 101)], 0.95) == 95.0


def test_interference_gates_the_spread_of_gaps(bench: Bench) -> None:
    interference = bench("interference")
    quiet = interference.Gaps(p50=5.0, p95=6.0, count=100, prefills=0, prefills_apart=0)
    even = interference.Gaps(p50=5.0, p95=9.9, count=100, prefills=20, prefills_apart=20)
    uneven = interference.Gaps(p50=5.0, p95=60.0, count=100, prefills=20, prefills_apart=0)
    assert not any(row.missed for row in interference.rows_of("1P1D", [400.0], quiet, even, "<= 2"))
    missed = [row for row in interference.rows_of("1P1D", [400.0], quiet, uneven, "<= 2") if row.missed]
    assert [row.ratio for row in missed] == [12.0]


def test_recovery_rows_fail_on_another_text(bench: Bench) -> None:
    client, recovery = bench("client"), bench("recovery")
    answer = client.Answer(request_id="r", sent_s=0.0, pieces_s=[0.5, 0.51, 0.61, 0.62])
    kill = recovery.Disturbed(answer, {}, 0.51, 2)
    found = {name: [kill] for name in ("D in stream", "P in stream", "P in prefill")}
    equal = {name: [True] for name in found}
    rows = recovery.rows_of(found, prefill_s=0.25, again_s=0.4, equal=equal)
    assert not any(row.missed for row in rows)
    assert by_name(rows, "D in stream: longest gap").value == pytest.approx(100)
    assert by_name(rows, "D in stream: longest gap").ratio == pytest.approx(0.25)
    assert by_name(rows, "P in prefill: TTFT").ratio == pytest.approx(2.0)
    rows = recovery.rows_of(found, 0.25, 0.4, equal | {"D in stream": [True, False]})
    assert [row.value for row in rows if row.missed] == [0.5]


def prioritised(script: str) -> subprocess.Popen[str]:
    program = f"import os, sys, time\nfrom prioritised import take_priority\ntake_priority()\n{script}"
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(BENCH)},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_prioritised_program_has_a_session_and_keeps_its_exit_code() -> None:
    child = prioritised("print(os.getsid(0) == os.getpid(), flush=True); sys.exit(7)")
    output, _ = child.communicate()
    assert (output, child.returncode) == ("True\n", 7)


def test_a_signal_reaches_the_prioritised_program() -> None:
    child = prioritised(
        "try:\n print('up', flush=True); time.sleep(60)\nfinally:\n print('cleaned up', flush=True)"
    )
    assert child.stdout is not None
    child.stdout.readline()
    child.send_signal(signal.SIGTERM)
    output, _ = child.communicate()
    assert (output, child.returncode) == ("cleaned up\n", 128 + signal.SIGTERM)


def test_a_failing_command_tells_its_last_words(bench: Bench) -> None:
    output_of = bench("prioritised").output_of
    assert output_of([sys.executable, "-c", "print('fine')"]) == "fine\n"
    with pytest.raises(RuntimeError, match=r"ended with 3: no such model"):
        output_of([sys.executable, "-c", "import sys; print('no such model', file=sys.stderr); sys.exit(3)"])


def test_a_pin_is_taken_off_again(bench: Bench) -> None:
    allowed = os.sched_getaffinity(0)
    with bench("prioritised").pinned() as core:
        assert os.sched_getaffinity(0) == {core}
    assert os.sched_getaffinity(0) == allowed
