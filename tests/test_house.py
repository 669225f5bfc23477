"""Size and names of the house: files of one screenful of ideas, functions of one screen."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60
ROOMS_FOR_NOTHING = {"util", "utils", "common", "helper", "helpers", "manager", "misc"}
SUFFIXES = {".py", ".c", ".cc", ".cpp", ".h", ".hpp"}
CONTROL_WORDS = {
    "if",
    "for",
    "while",
    "switch",
    "catch",
    "else",
    "do",
    "namespace",
    "struct",
    "class",
    "enum",
}


def sources() -> list[Path]:
    found = [path for room in ("src", "tests", "bench") for path in (ROOT / room).rglob("*")]
    return sorted(p for p in found if p.suffix in SUFFIXES and "build" not in p.relative_to(ROOT).parts)


def python_functions(text: str) -> list[tuple[str, int]]:
    nodes = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    return [(node.name, (node.end_lineno or node.lineno) - node.lineno + 1) for node in nodes]


def braced_functions(text: str) -> list[tuple[str, int]]:
    """(name, lines) of C++ function bodies: a block whose opening follows a closing parenthesis."""
    text = re.sub(
        r'^[ \t]*#[^\n]*|//[^\n]*|/\*.*?\*/|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])\'',
        blank,
        text,
        flags=re.DOTALL | re.MULTILINE,
    )
    found, opened = [], []
    for mark in re.finditer(r"[{}]", text):
        if mark.group() == "{":
            head = re.split(r"[;{}]", text[: mark.start()])[-1]
            opened.append((head, text.count("\n", 0, mark.start())))
        elif opened:
            head, line = opened.pop()
            name = re.search(r"(\w+)\s*\(", head)
            if name and name.group(1) not in CONTROL_WORDS and "=" not in head.split("(")[0]:
                found.append((name.group(1), text.count("\n", 0, mark.start()) - line + 1))
    return found


def blank(match: re.Match[str]) -> str:
    """Comments and strings vanish, their line breaks stay."""
    return re.sub(r"[^\n]", " ", match.group())


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_short(path: Path) -> None:
    text = path.read_text()
    lines = text.count("\n")
    assert lines <= FILE_LINES_MAX, f"{lines} lines"
    functions = python_functions(text) if path.suffix == ".py" else braced_functions(text)
    assert [(name, count) for name, count in functions if count > FUNCTION_LINES_MAX] == []


def test_no_room_is_named_for_nothing_in_particular() -> None:
    names = {part for path in sources() for part in (*path.relative_to(ROOT).parts[:-1], path.stem)}
    assert names & ROOMS_FOR_NOTHING == set()


def test_the_measure_of_braced_functions_sees_long_ones() -> None:
    body = "\n".join("  x += 1;  // {\n#if defined(A)" for _ in range(35))
    text = 'int f(int x) {\n  if (x) { y("{"); }\n' + body + "\n}\nint g() { return 0; }\n"
    assert braced_functions(text) == [("f", 73), ("g", 1)]
