"""Deliberate bugs of `tests/mutants`: exploring one small fleet finds each, and tells how to get there."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from diptych.sim.explorer import _search

pytestmark = pytest.mark.interpreted  # The copy is changed as source.
MUTANTS = Path(__file__).parent.parent / "mutants"
ALONE = """
import sys
sys.meta_path = [finder for finder in sys.meta_path if finder.__module__.startswith("_frozen_importlib")]
sys.path.insert(0, sys.argv.pop(1))
from diptych.sim.explorer.__main__ import main
sys.exit(main())
"""
"""The package in a folder, whatever an editable install would say."""

FOUND = {
    "facts of an old attempt count": ("pair-death", "KeyError"),
    "a cancelled target frees the pages that it claims": ("pair", "private pages booked"),
    "a late offer of a lost source is claimed": ("pair-death", "claim on the dead"),
}
"""Mutant: (configuration, what the story must tell)."""


@pytest.mark.parametrize("name", FOUND)
def test_a_deliberate_bug_is_found_and_told(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(str(MUTANTS))
    catalog = importlib.import_module("catalog")
    mutant = next(mutant for mutant in catalog.MUTANTS if mutant.name == name)
    package = importlib.import_module("mutant").PACKAGE
    for room in ("core", "sim", "wire"):
        shutil.copytree(
            package / room, tmp_path / "diptych" / room, ignore=shutil.ignore_patterns("__pycache__")
        )
    # The compiled search lies beside its source, or where an editable install put it.
    shutil.copy(_search.__file__, tmp_path / "diptych" / "sim" / "explorer")
    for file in package.glob("*.py"):
        shutil.copy(file, tmp_path / "diptych")
    mutant.apply(tmp_path / "diptych")
    configuration, told = FOUND[name]
    command = [sys.executable, "-B", "-c", ALONE, str(tmp_path), configuration, "--jobs", "1"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"BROKEN: {configuration}" in done.stdout
    steps = re.findall(r"^ *(\d+)\. ", done.stdout, flags=re.MULTILINE)
    assert [int(step) for step in steps] == list(range(1, len(steps) + 1))
    assert re.search(r"^  => .*" + re.escape(told), done.stdout, flags=re.MULTILINE), done.stdout
