"""`core/` and `wire/` have no clock, no input or output, no randomness, no threads: by their syntax trees."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "src" / "diptych"
IMPURE_MODULES = {
    *("asyncio", "concurrent", "ctypes", "datetime", "fcntl", "glob", "io", "logging", "mmap", "os", "queue"),
    *("multiprocessing", "pathlib", "random", "secrets", "select", "selectors", "shutil", "signal", "socket"),
    *("ssl", "subprocess", "sys", "tempfile", "threading", "time", "uuid", "warnings"),
}
IMPURE_CALLS = {"open", "print", "input", "exec", "eval", "compile", "__import__", "hash", "vars", "globals"}
ALLOWED_OUTSIDE = {"core": {"msgspec"}, "wire": {"msgspec", "numpy"}}
ALLOWED_ROOMS = {"core": {"core"}, "wire": {"core", "wire"}}
SEAMS = {"core": set(), "wire": {"diptych.engine.interface"}}
"""Modules of other rooms that hold nothing but values and protocols."""


def modules(room: str) -> list[Path]:
    return sorted((PACKAGE / room).rglob("*.py"))


def imported(tree: ast.AST) -> list[str]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative import"
            assert node.module is not None
            names += [node.module] if node.module != "diptych" else [f"diptych.{a.name}" for a in node.names]
    return names


def impurities(room: str, text: str) -> list[str]:
    tree = ast.parse(text)
    found = []
    for name in imported(tree):
        top, *rest = name.split(".")
        if top == "diptych":
            if name not in SEAMS[room] and (not rest or rest[0] not in ALLOWED_ROOMS[room]):
                found.append(f"imports {name}")
        elif top in IMPURE_MODULES or (
            top not in sys.stdlib_module_names and top not in ALLOWED_OUTSIDE[room]
        ):
            found.append(f"imports {name}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in IMPURE_CALLS:
            found.append(f"calls {node.func.id}")
        if isinstance(node, ast.Global | ast.AsyncFunctionDef | ast.Await):
            found.append(type(node).__name__)
    return found


@pytest.mark.parametrize(
    "path", [*modules("core"), *modules("wire")], ids=lambda p: f"{p.parent.name}/{p.name}"
)
def test_pure_rooms_import_and_call_nothing_impure(path: Path) -> None:
    room = path.relative_to(PACKAGE).parts[0]
    assert impurities(room, path.read_text()) == []


@pytest.mark.parametrize("path", modules("core"), ids=lambda p: p.name)
def test_the_core_never_iterates_a_set(path: Path) -> None:
    """Sets of strings iterate in another order in every process; dicts and sorted() do not."""
    tree = ast.parse(path.read_text())
    loops = [n.iter for n in ast.walk(tree) if isinstance(n, ast.For | ast.comprehension)]
    unordered = [
        ast.unparse(loop)
        for loop in loops
        if isinstance(loop, ast.Set | ast.SetComp)
        or (isinstance(loop, ast.Call) and ast.unparse(loop.func) in {"set", "frozenset"})
    ]
    assert unordered == []


@pytest.mark.parametrize(
    "line",
    ["import time", "from os import path", "import torch", "from diptych.live import driver", "x = open('f')",
     "from diptych import engine", "async def f(): pass"],
)  # fmt: skip
def test_the_purity_check_sees(line: str) -> None:
    assert impurities("core", line) != []
