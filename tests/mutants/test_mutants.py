"""Every deliberate bug still applies, and a few are tried; `make mutants` tries them all."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

Tool = Callable[[str], ModuleType]
TRIED = {
    "a claim is not paid for": "wrong payment",
    "a cancelled target frees the pages that it claims": "private pages",
    "a page's hash forgets the pages before it": "test_hashing.py",
}
"""Each with a word of how it is caught."""


def test_every_mutant_applies_once_and_is_still_a_program(tool: Tool, tmp_path: Path) -> None:
    mutants, package = tool("catalog").MUTANTS, tool("mutant").PACKAGE
    assert len(mutants) >= 24
    assert len({mutant.name for mutant in mutants}) == len(mutants)
    for mutant in mutants:
        file = tmp_path / mutant.file
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text((package / mutant.file).read_text())
        mutant.apply(tmp_path)
        assert ast.dump(ast.parse(file.read_text())) != ast.dump(
            ast.parse((package / mutant.file).read_text())
        ), f"{mutant.name} changes nothing"


def test_a_mutant_whose_text_is_gone_says_so(tool: Tool, tmp_path: Path) -> None:
    (tmp_path / "file.py").write_text("a\n")
    with pytest.raises(ValueError, match=r"lost: 0 matches in file\.py"):
        tool("mutant").Mutant("lost", "file.py", "b", "c").apply(tmp_path)


def test_the_sound_package_passes_what_mutants_are_asked(tool: Tool, tmp_path: Path) -> None:
    trial = tool("trial")
    verdict = trial.try_mutant(None, trial.snapshot(str(tmp_path)), 1, tests=False)
    assert (verdict.by, verdict.reason) == (None, "")


@pytest.mark.parametrize("name", TRIED)
def test_a_few_are_caught(tool: Tool, tmp_path: Path, name: str) -> None:
    (mutant,) = (mutant for mutant in tool("catalog").MUTANTS if mutant.name == name)
    trial = tool("trial")
    verdict = trial.try_mutant(mutant, trial.snapshot(str(tmp_path)), 0 if mutant.test else 1)
    assert TRIED[name] in f"{verdict.by} {verdict.reason}"
