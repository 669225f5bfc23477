"""Interpreted and compiled core side by side: the same benchmark in the other build's interpreter.

A benchmark that knows both measures itself, and asks `elsewhere` for the same figures of the other build; the
program that is asked is its own file with `--one ARGUMENTS`, which prints them as JSON.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

COMPILED_PYTHON = Path(__file__).resolve().parents[1] / ".venv-compiled" / "bin" / "python"


def build() -> str:
    """`compiled` or `interpreted`: how the core of this interpreter runs."""
    spec = importlib.util.find_spec("diptych.core.worker.machine")
    return "interpreted" if spec is None or (spec.origin or "").endswith(".py") else "compiled"


def add_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--compiled",
        type=Path,
        metavar="PYTHON",
        help="interpreter with a compiled core (default: that of `make compiled`, where it is)",
    )


def others(chosen: Path | None) -> list[Path]:
    """The interpreter of the compiled build, if there is one to stand beside this one."""
    if chosen is None and (build() == "compiled" or not COMPILED_PYTHON.exists()):
        if build() == "interpreted":
            print("No compiled core beside this one: `make compiled`, or --compiled PYTHON", file=sys.stderr)
        return []
    return [chosen or COMPILED_PYTHON]


def elsewhere(python: Path, program: Path, *arguments: str) -> Any:
    """What `program --one ARGUMENTS` prints there. Raises `RuntimeError` with its last words, or where the
    core is not compiled there."""
    command = [str(python), str(program), "--one", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{python}: {done.stderr.strip()[-400:]}")
    answer = json.loads(done.stdout)
    if answer["build"] != "compiled":
        raise RuntimeError(f"{python}: its core is {answer['build']}")
    return answer["figures"]


def print_one(figures: Any) -> int:
    """The asked program's side."""
    print(json.dumps({"build": build(), "figures": figures}))
    return 0
