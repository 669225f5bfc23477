"""The examples run: against a fleet of scripted workers, with the suite they name, on the simulator."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from diptych.live.fleet_file import plan_workers, read_fleet_file
from diptych.models.embedded import EMBEDDED_NAME
from diptych.testing import check_engine

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
ADDRESS = "127.0.0.1:8000"
"""Where the examples expect a server; tests take whichever port is free."""
LIMIT_S = 120.0
"""Only a hang meets it."""


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    """Address of a fleet that serves scripted workers under the embedded model's name."""
    command = [sys.executable, "-m", "diptych.cli", "serve", "--scripted", "--model", EMBEDDED_NAME]
    command += ["--port", "0", "--pool-mib", "16", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            events = (json.loads(line) for line in process.stdout)
            ready = next((event for event in events if event["event"] == "ready"), None)
            assert ready is not None, f"the fleet did not start, exit code {process.wait(LIMIT_S)}"
            yield ready["url"].removeprefix("http://")
        finally:
            process.terminate()
            process.stdout.read()
            process.wait(LIMIT_S)


def run_example(name: str, *, address: str = ADDRESS) -> str:
    """What the example prints."""
    source = (EXAMPLES / name).read_text().replace(ADDRESS, address)
    result = subprocess.run(
        [sys.executable, "-"], input=source, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def load_example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["openai_chat.py", "bedrock_converse.py"])
def test_a_client_streams_an_answer(name: str, served: str) -> None:
    source = (EXAMPLES / name).read_text()
    assert ADDRESS in source
    assert f'"{EMBEDDED_NAME}"' in source
    text = run_example(name, address=served)
    assert re.search(r"[a-z ]{10}", text), text


def test_the_custom_engine_passes_the_suite() -> None:
    assert "keeps every property" in run_example("custom_engine.py")


def test_the_suite_would_notice_a_wrong_custom_engine() -> None:
    module = load_example("custom_engine")

    class PeekingEngine(module.ToyEngine):  # type: ignore[misc, name-defined]
        """Its rows see whatever lies in the page behind their own position."""

        def _span(self, pool, span):  # type: ignore[no-untyped-def]
            kept = super()._span(pool, span)
            last = pool[span.pages[-1], 1, -1]
            return [row + last.sum() for row in kept]

    with pytest.raises(AssertionError, match="check_stale_memory"):
        check_engine(PeekingEngine)


def test_the_fleet_file_can_be_planned() -> None:
    file = read_fleet_file(EXAMPLES / "fleet.toml")
    plans = plan_workers(file.worker, cores=[0, 1])
    assert [(plan.name, plan.format, plan.core) for plan in plans] == [
        ("prefill-0", "int8", 0),
        ("decode-0", "int4", 1),
        ("decode-1", "int4", 0),
    ]
    assert file.model == EMBEDDED_NAME


def test_the_question_to_the_simulator_is_answered() -> None:
    lines = run_example("what_if.py").splitlines()
    assert len(lines) == 2
    for line in lines:
        found = re.search(r"p50 +([\d.]+) ms, p95 +([\d.]+) ms \((\d+) requests", line)
        assert found, line
        median, late = float(found[1]), float(found[2])
        # No prompt can be done before its own tokens are computed, at 1 ms each.
        assert 512 / 2 < median <= late
        assert int(found[3]) == 100


def test_every_example_is_run_here() -> None:
    tested = Path(__file__).read_text()
    assert [p.name for p in EXAMPLES.iterdir() if p.is_file() and p.name not in tested] == []
