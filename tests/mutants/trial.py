"""Runs one mutant in processes of its own: seeds of the simulator first, then tests, until one fails."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
from mutant import PACKAGE, Mutant

ROOT = PACKAGE.parents[1]
RUNNER = Path(__file__).with_name("runner.py")
KINDS = ("handoff", "mixed", "hosts", "network", "strain")
"""Scenarios of the simulator that are asked in turn."""
TESTS = (
    "tests/core",
    "tests/wire",
    "tests/sim/test_checkers.py",
    "tests/sim/test_pressure.py",
    "tests/sim/test_field_failures.py",
    "tests/live/test_driver.py",
)
"""What is asked after the seeds; the tests that compare whole traces are not: any change fails those."""
LIMIT_SECONDS = 400.0


class Verdict(msgspec.Struct, frozen=True):
    mutant: Mutant | None
    by: str | None
    """`handoff-7` or the name of a test; None for a mutant that nobody caught."""
    reason: str


def snapshot(folder: str) -> Path:
    """A copy of package and tests as they are now, for all trials of one round."""
    copy = Path(folder) / "sound"
    shutil.copytree(PACKAGE, copy / "src" / "diptych", ignore=_all_but_python)
    for room in sorted({"/".join(test.split("/")[:2]) for test in TESTS}):
        shutil.copytree(ROOT / room, copy / room, ignore=_all_but_python)
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


def try_mutant(mutant: Mutant | None, sound: Path, seeds: int, *, tests: bool = True) -> Verdict:
    """Asks `seeds` scenarios of each kind, then the tests. Without a mutant: the package as it is."""
    with tempfile.TemporaryDirectory(prefix="mutant-") as folder:
        package = Path(folder) / "diptych"
        shutil.copytree(sound / "src" / "diptych", package)
        if mutant is not None:
            mutant.apply(package)
        verdict = None
        if tests and mutant is not None and mutant.test is not None:
            verdict = _by_tests(mutant, folder, sound, mutant.test)
        if verdict is None:
            verdict = _by_seed(mutant, folder, sound, seeds)
        if verdict is None and tests:
            verdict = _by_tests(mutant, folder, sound, *TESTS)
        return verdict or Verdict(mutant, None, "")


def _all_but_python(folder: str, names: list[str]) -> set[str]:
    return {
        name for name in names if not name.endswith(".py") and not os.path.isdir(os.path.join(folder, name))
    }


def _by_seed(mutant: Mutant | None, folder: str, sound: Path, seeds: int) -> Verdict | None:
    names = [f"{kind}-{number}" for number in range(seeds) for kind in KINDS]
    if mutant is not None and mutant.seed is not None:
        names.insert(0, mutant.seed)
    if not names:
        return None
    printed = _run(folder, sound, "seeds", *names)
    caught = re.search(r"^caught by (\S+): (.*)$", printed, flags=re.MULTILINE)
    return Verdict(mutant, caught[1], caught[2]) if caught else None


def _by_tests(mutant: Mutant | None, folder: str, sound: Path, *tests: str) -> Verdict | None:
    printed = _run(folder, sound, "tests", *tests)
    failed = re.search(r"^(?:FAILED|ERROR) (\S+?)(?: - (.*))?$", printed, flags=re.MULTILINE)
    return Verdict(mutant, failed[1], failed[2] or "") if failed else None


def _run(folder: str, sound: Path, *arguments: str) -> str:
    """What the runner printed. A mutant that runs for ever is not caught: nothing failed."""
    command = [sys.executable, str(RUNNER), folder, *arguments]
    try:
        done = subprocess.run(
            command, cwd=sound, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return ""
    if done.returncode not in (0, 1):
        raise RuntimeError(f"the runner of a mutant failed:\n{done.stdout}{done.stderr}")
    return done.stdout
