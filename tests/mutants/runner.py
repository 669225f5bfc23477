"""The process of one mutant. `runner.py FOLDER seeds handoff-1 mixed-1 ...` runs scenarios under all
checkers, `runner.py FOLDER tests tests/core ...` runs tests, with the package that lies in FOLDER.

Ends with 1 when a seed or a test fails, after the first; with 0 when none does.
"""

from __future__ import annotations

import os
import sys

folder, subject, *names = sys.argv[1:]
os.nice(10)
sys.dont_write_bytecode = True
# An editable install may answer for the package before the path is asked.
sys.meta_path = [finder for finder in sys.meta_path if finder.__module__.startswith("_frozen_importlib")]
sys.path.insert(0, folder)

import diptych  # noqa: E402

assert diptych.__file__ is not None
assert diptych.__file__.startswith(folder), "not the mutant's package"


def run_seeds(names: list[str]) -> int:
    from diptych.sim.run import Failed, simulate
    from diptych.sim.seeds import scenario

    for name in names:
        try:
            simulate(scenario(name))
        except Failed as failure:
            print(f"caught by {name}: {failure.reason}".replace("\n", " "))
            return 1
    return 0


def run_tests(paths: list[str]) -> int:
    import pytest

    return int(pytest.main(["-q", "-x", "--tb=no", "-p", "no:cacheprovider", *paths]))


if __name__ == "__main__":
    sys.exit(run_seeds(names) if subject == "seeds" else run_tests(names))
