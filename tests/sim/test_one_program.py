"""The simulator decides nothing: it holds no scheduler, router, ledger or worker state of its own, and no
room that serves live traffic knows that there is a simulator. By their syntax trees."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent.parent / "src" / "diptych"
MACHINES = {"Worker", "ControlPlane"}
"""What `sim/` may make of the rooms that decide; everything else of theirs the machines make themselves."""
DECIDING_ROOMS = ("diptych.core.worker", "diptych.core.control", "diptych.core.pages")
DECIDERS = (
    "router",
    "schedul",
    "ledger",
    "dispatch",
    "estate",
    "prefixtree",
    "allocat",
    "batcher",
    "admission",
)
LIVE_ROOMS = ("core", "wire", "live", "engine", "api", "transport", "models")


def modules(*rooms: str) -> list[Path]:
    return sorted(path for room in rooms for path in (PACKAGE / room).rglob("*.py"))


def named(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def core_names(tree: ast.AST) -> dict[str, str]:
    """Names that the module has from `core/`, and where each is from."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("diptych.core"):
            found |= {alias.asname or alias.name: f"{node.module}" for alias in node.names}
    return found


def own_decisions(text: str) -> list[str]:
    """What in a module of `sim/` would be a second mind beside the core's."""
    tree = ast.parse(text)
    core, found = core_names(tree), []
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            bases = {ast.unparse(base).split(".")[0].split("[")[0] for base in node.bases}
            found += [f"{node.name} extends {base} of {core[base]}" for base in sorted(bases & set(core))]
            if any(word in node.name.lower() for word in DECIDERS) or node.name in MACHINES:
                found.append(f"defines {node.name}")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            room = core.get(node.func.id, "")
            if room.startswith(DECIDING_ROOMS) and node.func.id[0].isupper() and node.func.id not in MACHINES:
                found.append(f"makes a {node.func.id} of {room}")
        found += [f"writes {ast.unparse(target)}" for target in written(node) if into_machine(target)]
    return found


def written(node: ast.AST) -> Iterator[ast.expr]:
    if isinstance(node, ast.Assign):
        yield from node.targets
    elif isinstance(node, ast.AugAssign | ast.AnnAssign):
        yield node.target
    elif isinstance(node, ast.Delete):
        yield from node.targets


def into_machine(target: ast.expr) -> bool:
    """`x.machine.y = ...`: a state of the core changed behind its one verb."""
    inner = target.value if isinstance(target, ast.Attribute | ast.Subscript) else None
    while inner is not None:
        if isinstance(inner, ast.Attribute) and inner.attr == "machine":
            return True
        inner = inner.value if isinstance(inner, ast.Attribute | ast.Subscript) else None
    return False


def knows_the_simulator(text: str) -> list[str]:
    """Names, attributes and plain strings (docstrings left out) that speak of simulating."""
    tree = ast.parse(text)
    documented = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    words: list[object] = []
    for node in ast.walk(tree):
        words += [getattr(node, name, None) for name in ("id", "attr", "arg", "name", "module")]
        if isinstance(node, ast.Constant) and id(node) not in documented:
            words.append(node.value)
    spoken = [word for word in words if isinstance(word, str)]
    return [word for word in spoken if "simul" in word.lower() or word.startswith("diptych.sim")]


@pytest.mark.parametrize("path", modules("sim"), ids=named)
def test_the_simulator_decides_nothing(path: Path) -> None:
    assert own_decisions(path.read_text()) == []


@pytest.mark.parametrize("path", modules(*LIVE_ROOMS), ids=named)
def test_nothing_that_serves_asks_whether_it_is_simulated(path: Path) -> None:
    assert knows_the_simulator(path.read_text()) == []


def test_both_worlds_drive_the_very_machines() -> None:
    for world in ("sim/world.py", "sim/timed/world.py"):
        core = core_names(ast.parse((PACKAGE / world).read_text()))
        assert core["Worker"] == "diptych.core.worker"
        assert core["ControlPlane"] == "diptych.core.control"


@pytest.mark.parametrize(
    "text",
    [
        "class FastRouter: pass",
        "class Worker: pass",
        "from diptych.core.worker import Worker\nclass Quick(Worker): pass",
        "from diptych.core.pages.ledger import Ledger\nledger = Ledger('w', 4, list)",
        "def f(seat):\n    seat.machine.rates = None",
        "def f(seat):\n    seat.machine.targets.tasks['r'] = 1",
    ],
)
def test_the_search_sees_a_second_mind(text: str) -> None:
    assert own_decisions(text) != []


@pytest.mark.parametrize(
    "text",
    [
        "if simulating: pass",
        "x.simulated = 1",
        "from diptych.sim import world",
        "mode = 'simulate'",
        "f(is_simulation=1)",
    ],
)
def test_the_search_sees_a_question(text: str) -> None:
    assert knows_the_simulator(text) != []
