"""The shared half of every benchmark: bounds, exit status, the JSON document."""

from __future__ import annotations

import importlib.util
import io
import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console

BENCH = Path(__file__).parents[2] / "bench"


@pytest.fixture(scope="module")
def report() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_report", BENCH / "report.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("value", "bound", "kept"),
    [
        (1.0, ">= 1.0", True),
        (0.99, ">= 1.0", False),
        (0.02, "< 0.02", False),
        (0.0, "== 0", True),
        (5.0, "<= 5", True),
        (2.0, "> 2", False),
        (math.nan, "< 1", False),
        (math.nan, ">= 1", False),
    ],
)
def test_bounds(report: ModuleType, value: float, bound: str, kept: bool) -> None:
    assert report.holds(value, bound) is kept


def test_a_missed_must_fails_and_a_missed_goal_does_not(report: ModuleType, tmp_path: Path) -> None:
    def status(**fields: Any) -> int:
        row = report.Row(name="speed", value=50.0, unit="tok/s", against="peer 1.2", **fields)
        console = Console(file=io.StringIO(), width=120)
        found: int = report.finish("x", [row], tmp_path / "deep" / "x.json", console=console)
        return found

    assert status(ratio=0.9, must=">= 1.0") == 1
    assert status(ratio=1.1, must=">= 1.0", goal=">= 2.0") == 0
    # Without a ratio the bound is on the value.
    assert status(must="< 40") == 1
    document = json.loads((tmp_path / "deep" / "x.json").read_text())
    assert list(document) == ["bench", "machine", "versions", "rows"]
    assert set(document["rows"][0]) == {"name", "value", "unit", "against", "ratio", "must", "goal"}
    assert document["machine"]["cores"] >= 1
    assert document["machine"]["cpu"]
    assert document["versions"]["numpy"]


def test_table_shows_every_row(report: ModuleType) -> None:
    text = io.StringIO()
    rows = [
        report.Row(name="first", value=0.00012, unit="nats", against="peer"),
        report.Row(name="second", value=3.0, unit="s", against="peer", must="< 2"),
    ]
    report.finish("bench name", rows, console=Console(file=text, width=120))
    for piece in ("bench name", "against peer", "first", "0.00012", "nats", "second", "< 2"):
        assert piece in text.getvalue()


def test_best_and_median(report: ModuleType) -> None:
    assert report.best_and_median([3.0, 1.0, 2.0], lower_is_better=True) == (1.0, 2.0)
    assert report.best_and_median([3.0, 1.0, 2.0], lower_is_better=False) == (3.0, 2.0)


def test_prompts_are_many_and_differ() -> None:
    prompts = (BENCH / "prompts.txt").read_text(encoding="utf-8").strip().split("\n\n")
    assert len(prompts) >= 64
    assert len({prompt[:20] for prompt in prompts}) == len(prompts)
    assert min(map(len, prompts)) > 100
