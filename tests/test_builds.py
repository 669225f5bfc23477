"""The two builds of one source: which one is under test is no accident, and they do the same.

`make test` asks twice: the editable install is interpreted, the wheel's core is compiled (in which case
`DIPTYCH_TEST_BUILD` says `compiled`).
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import os
import pickle
import subprocess
import sys
import traceback
from pathlib import Path
from types import ModuleType

import pytest

import diptych.core
from diptych.core import facts
from diptych.core.config import ControlConfig, WorkerConfig
from diptych.core.control import ControlPlane
from diptych.core.errors import ImpossibleFact
from diptych.core.facts import Fact
from diptych.core.recipe_run import Run
from diptych.core.worker import Worker

ROOT = Path(__file__).resolve().parent.parent
BUILD = os.environ.get("DIPTYCH_TEST_BUILD", "interpreted")
COMPILED = BUILD == "compiled"
VALUES = {"actions", "config", "errors", "recipe_run", "counts", "status"}
"""Modules of the core that only define values and errors."""
PROGRAM = """
import diptych.core.worker.machine as machine
from diptych.sim.run import simulate
from diptych.sim.seeds.mixed import random_scenario
print(machine.__file__)
print(*(simulate(random_scenario(seed)).digest for seed in ({seeds})))
"""
SEEDS = (1, 2, 4, 6)


@pytest.fixture(scope="module")
def translator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compiled_core", ROOT / "cmake" / "compiled_core.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def translated(translator: ModuleType) -> list[str]:
    """Names of all modules that are meant to be compiled."""
    libraries = translator.LIBRARIES.values()
    paths = [path for places in libraries for path in translator.modules(ROOT / "src", places)]
    return [path.removesuffix(".py").replace("/", ".") for path in paths]


def config() -> WorkerConfig:
    return WorkerConfig(
        worker="w@1", host="h", role="both", engine="scripted", models=("m",), numerics=("int8",),
        formats=("int8",), context_tokens_max=64,
    )  # fmt: skip


def test_the_build_under_test_is_the_one_that_was_asked_for(translator: ModuleType) -> None:
    files = {name: importlib.import_module(name).__file__ or "" for name in translated(translator)}
    suffix = ".so" if COMPILED else ".py"
    assert len(files) > 20
    assert {name: file for name, file in files.items() if not file.endswith(suffix)} == {}


def test_all_of_the_core_but_values_is_translated(translator: ModuleType) -> None:
    core = [path for path in (ROOT / "src/diptych/core").rglob("*.py") if path.name != "__init__.py"]
    left = {path.stem for path in core if path.parent.name != "facts"}
    left -= {name.rpartition(".")[2] for name in translated(translator)}
    assert left == VALUES


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ("class A: pass", True),
        ("class A: pass\nclass B(A): pass", True),
        ("class Seat(Protocol): pass", True),
        ("class A(msgspec.Struct, frozen=True): pass", False),
        ("class A(msgspec.Struct): pass", False),
        ("class A(Fact): pass", False),
        ("class A(Exception): pass", False),
        ("@dataclass\nclass A: pass", False),
    ],
)
def test_what_mypyc_would_change_is_left_out(translator: ModuleType, line: str, kept: bool) -> None:
    assert translator.compilable(line) is kept


@pytest.mark.skipif(not COMPILED, reason="there is nothing to compare: this is the interpreted build")
@pytest.mark.parametrize("hash_seed", ["0", "4242"])
def test_interpreted_and_compiled_seeds_are_told_the_same_way(hash_seed: str) -> None:
    told = {}
    for build, path in {".py": str(ROOT / "src"), ".so": ""}.items():
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path}
        program = PROGRAM.format(seeds=", ".join(map(str, SEEDS)))
        done = subprocess.run(
            [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
        )
        file, told[build] = done.stdout.splitlines()
        assert file.endswith(build)
    assert told[".so"] == told[".py"]
    assert len(set(told[".so"].split())) == len(SEEDS)


def test_values_stay_frozen_hashable_and_of_few_bytes() -> None:
    run = Run("int8", 16)
    assert {run: 1}[Run("int8", 16)] == 1
    with pytest.raises(AttributeError):
        run.end = 17  # type: ignore[misc]


def test_an_impossible_fact_names_state_and_line_in_both_builds() -> None:
    worker = Worker(config())
    with pytest.raises(ImpossibleFact, match=r"w@1: no row for DoorJoined in state any") as caught:
        worker.step(0, facts.DoorJoined(door="d"))
    assert (caught.value.machine, caught.value.state) == ("w@1", "any")
    last = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert last.filename.endswith("diptych/core/worker/machine.py")
    assert last.name == "step"
    lines = (ROOT / "src" / "diptych" / last.filename.rpartition("diptych/")[2]).read_text().splitlines()
    assert lines[(last.lineno or 0) - 1].strip().startswith("raise ImpossibleFact(")


def test_a_machine_takes_facts_and_nothing_else() -> None:
    class Strange(Fact, frozen=True):
        pass

    for machine in (Worker(config()), ControlPlane(ControlConfig())):
        with pytest.raises(ImpossibleFact, match="Strange"):
            machine.step(0, Strange())
        with pytest.raises((ImpossibleFact, TypeError)):
            machine.step(0, None)  # type: ignore[arg-type]


@pytest.mark.skipif(not COMPILED, reason="true of compiled classes only")
def test_compiled_machines_refuse_what_would_not_work() -> None:
    """No interpreted class takes the place of a compiled one, no snapshot is taken by accident, and a time
    is a number."""
    with pytest.raises(TypeError):
        type("Fake", (Worker,), {})(config())
    with pytest.raises(TypeError):
        pickle.loads(pickle.dumps(Worker(config())))
    with pytest.raises(TypeError):
        copy.deepcopy(Worker(config()))
    with pytest.raises(TypeError):
        Worker(config()).step("now", facts.DeadlinePassed())  # type: ignore[arg-type]


def test_sources_lie_beside_the_build() -> None:
    """Logs of a recorded run name the sources of the core by content: both builds have the same."""
    assert diptych.core.__file__ is not None
    installed = Path(diptych.core.__file__).parent
    names = {path.relative_to(installed) for path in installed.rglob("*.py")}
    sources = ROOT / "src" / "diptych" / "core"
    assert names == {path.relative_to(sources) for path in sources.rglob("*.py")}
    assert [name for name in names if (installed / name).read_bytes() != (sources / name).read_bytes()] == []


@pytest.mark.skipif(not COMPILED, reason="the interpreted explorer explores")
def test_the_explorer_says_that_it_needs_the_source(capsys: pytest.CaptureFixture[str]) -> None:
    from diptych.sim.explorer.__main__ import main

    with pytest.raises(SystemExit) as ended:
        main(["pair"])
    assert ended.value.code == 2
    assert "the build in .venv-dev is interpreted" in capsys.readouterr().err
