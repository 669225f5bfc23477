"""`docs/field-failures.md` claims nothing that is not there: numbers, counts, tests, checkers, reasons."""

from __future__ import annotations

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs" / "field-failures.md").read_text()
REPORTS = 53
KINDS = ("caught", "not yet", "does not apply")
REASON_WORDS_MIN = 8


class Row(NamedTuple):
    number: int
    report: str
    failure: str
    kind: str
    how: str


def read_rows(text: str) -> list[Row]:
    lines = [line for line in text.splitlines() if re.match(r"\| \d+ \|", line)]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [Row(int(number), *rest) for number, *rest in cells]


ROWS = read_rows(TEXT)
rows = pytest.mark.parametrize("row", ROWS, ids=lambda row: str(row.number))


def named(row: Row) -> list[tuple[str, str]]:
    """(file, name) of every span of the form `file::name`."""
    return [(file, name) for file, name in re.findall(r"`([\w./-]+)::([^`]+)`", row.how)]


@cache
def defined(file: str) -> frozenset[str]:
    """Functions, classes and constants at the top of a module, and the rules that its checkers name."""
    tree = ast.parse((ROOT / file).read_text())
    names: set[str] = set()
    for node in tree.body:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                names.add(node.name)
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                names.add(name)
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="Violation"), args=[ast.Constant(value=str(rule)), *_]):
                names.add(rule)
    return frozenset(names)


def test_every_report_has_one_line_in_order() -> None:
    assert [row.number for row in ROWS] == list(range(1, REPORTS + 1))
    assert [row.number for row in ROWS if not re.search(r"[\w-]+( PR)?#\d+", row.report)] == []
    assert [row.number for row in ROWS if len(row.failure.split()) < 4] == []


def test_the_figures_in_the_head_are_those_of_the_table() -> None:
    said = re.search(
        r"Of (\d+)\s+reports, (\d+) are caught, (\d+) are not yet, and (\d+) do not apply\.", TEXT
    )
    assert said is not None
    counts = Counter(row.kind for row in ROWS)
    assert tuple(map(int, said.groups())) == (REPORTS, *(counts[kind] for kind in KINDS))
    assert set(counts) == set(KINDS)


@rows
def test_what_is_named_exists(row: Row) -> None:
    assert [f"{file}::{name}" for file, name in named(row) if name not in defined(file)] == []
    spans = re.findall(r"`((?:src|tests|docs)/[^`:]+)`", row.how)
    assert [span for span in spans if not (ROOT / span).exists()] == []


@rows
def test_a_line_rests_on_a_test_or_gives_its_reason(row: Row) -> None:
    if row.kind == "caught":
        tests = [name for file, name in named(row) if file.startswith("tests/")]
        assert tests
        assert [name for name in tests if not name.startswith("test_")] == []
    else:
        assert len(re.sub(r"`[^`]*`", "", row.how).split()) >= REASON_WORDS_MIN


def test_a_name_that_is_not_there_is_noticed() -> None:
    line = "| 1 | a#1 | it was lost at once | caught | `src/diptych/sim/pool.py::{}` |"
    (real,) = read_rows(line.format("stale page"))
    (invented,) = read_rows(line.format("stale pages"))
    test_what_is_named_exists(real)
    with pytest.raises(AssertionError, match="stale pages"):
        test_what_is_named_exists(invented)
    with pytest.raises(AssertionError):
        test_a_line_rests_on_a_test_or_gives_its_reason(real)
