"""`python -m diptych.sim.states FILE`: writes the state tables of the core as a document.

All but the diagrams is read off the code: states and their meaning from the constants that name them,
rows from the tables, what a row does from its handler. The arrows of the diagrams are written down here,
and a test holds them against what simulated runs really do.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import msgspec

from diptych.core.control import machine as control_machine
from diptych.core.control import request as control_states
from diptych.core.control import requests as control_rows
from diptych.core.facts import Fact
from diptych.core.worker import machine as worker_machine
from diptych.core.worker import sequence as worker_states
from diptych.core.worker import source as source_rows
from diptych.core.worker import target as target_rows

Handler = Callable[..., None]
Rows = dict[str, dict[type[Fact], Handler]]
ABSENT = "absent"

REQUEST_LIFE = {
    (ABSENT, "queued"): "arrived",
    (ABSENT, "adopting"): "open at a door that joins",
    ("queued", "reserving"): "a target can take it",
    ("queued", ABSENT): "gone, or late",
    ("reserving", "prefilling"): "pages reserved",
    ("reserving", "queued"): "refused, or planned anew",
    ("reserving", "streaming"): "started, the source lost meanwhile",
    ("reserving", "draining"): "target lost",
    ("reserving", ABSENT): "too long, gone, late",
    ("prefilling", "reserving"): "source lost",
    ("prefilling", "streaming"): "started",
    ("prefilling", "draining"): "target lost, preempted",
    ("prefilling", "queued"): "preempted, the door said it first",
    ("prefilling", ABSENT): "gone, late",
    ("streaming", "draining"): "target lost, preempted",
    ("streaming", "queued"): "preempted, the door said it first",
    ("streaming", ABSENT): "ended, gone, late",
    ("draining", "queued"): "the door says what the client has",
    ("draining", ABSENT): "all had ended, gone, late",
    ("adopting", "streaming"): "its worker still has it",
    ("adopting", "draining"): "no worker has it, preempted",
    ("adopting", "queued"): "preempted, the door said it first",
    ("adopting", ABSENT): "ended, gone, late",
}
TARGET_LIFE = {
    (ABSENT, "waiting"): "asked",
    ("waiting", "reserved"): "pages set aside",
    ("waiting", ABSENT): "released",
    ("reserved", "fetching"): "recipe with a source",
    ("reserved", "running"): "recipe without a source",
    ("reserved", ABSENT): "released",
    ("fetching", "reserved"): "source lost",
    ("fetching", "running"): "all claimed",
    ("fetching", ABSENT): "released",
    ("running", "closing"): "released in a run",
    ("running", ABSENT): "ended, preempted, released",
    ("closing", ABSENT): "the run ended",
}
SOURCE_LIFE = {
    (ABSENT, "computing"): "asked",
    (ABSENT, "waiting"): "asked for a target of another pool",
    ("waiting", "computing"): "pages set aside",
    ("waiting", "asking"): "pages set aside, the context is at the target",
    ("waiting", ABSENT): "released, no pages for too long",
    ("computing", "asking"): "the context is at the target",
    ("asking", "computing"): "context lent",
    ("asking", ABSENT): "released, target lost",
    ("computing", "offering"): "all computed",
    ("computing", "closing"): "released in a run",
    ("computing", ABSENT): "released, target lost",
    ("offering", ABSENT): "all answered, released, target lost",
    ("closing", ABSENT): "the run ended",
}


class Table(msgspec.Struct, frozen=True):
    """One machine's part that has states: one instance for each attempt at a request."""

    title: str
    module: ModuleType
    """Has `ROWS`."""
    states: ModuleType
    """Has the constants that name the states, each with its meaning below it."""
    life: dict[tuple[str, str], str]


TABLES = (
    Table("A request at control", control_rows, control_states, REQUEST_LIFE),
    Table("A target at its worker (D)", target_rows, worker_states, TARGET_LIFE),
    Table("A source at its worker (P)", source_rows, worker_states, SOURCE_LIFE),
)
INTRODUCTION = """\
# State tables

Written by `make states` from the tables in the code; a test says whether it is current. A fact is looked
up in the row of the state that its subject is in. *ignored*: it is late, repeated or foreign, and changes
nothing. *impossible*: there is no row, and the machine raises `ImpossibleFact`, for only a bug of our own
can bring it. Facts that carry the attempt of another than the current one never reach a request's rows at
control; at workers every attempt is a subject of its own, and one it does not know is `absent`.

The arrows of the diagrams are held against simulated runs with faults by a test: every change of state
that happens is drawn, and every one that is drawn happens.
"""


def document() -> str:
    parts = [INTRODUCTION]
    for table in TABLES:
        parts += [f"## {table.title}\n", _source(table.module), _meanings(table), _rows(table.module.ROWS)]
        parts += [_handlers(handler for row in table.module.ROWS.values() for handler in row.values())]
        parts += [_diagram(table.life)]
    for title, module in (
        ("Facts about the whole control plane", control_machine),
        ("Facts about the whole worker", worker_machine),
    ):
        parts += [f"## {title}\n", _source(module), _machine(module._ROWS)]
    return "\n".join(parts)


def meanings(module: ModuleType) -> dict[str, str]:
    """State names and what the strings below their constants say."""
    body = ast.parse(inspect.getsource(module)).body
    found: dict[str, str] = {}
    for node, below in pairwise(body):
        if not (isinstance(node, ast.Assign) and isinstance(below, ast.Expr)):
            continue
        name, text = node.value, below.value
        if isinstance(name, ast.Constant) and isinstance(text, ast.Constant):
            found[str(name.value)] = " ".join(str(text.value).split())
    return found


def _source(module: ModuleType) -> str:
    return f"In `src/{module.__name__.replace('.', '/')}.py`.\n"


def _meanings(table: Table) -> str:
    known = {ABSENT: "Not known here: not yet, or not any more."} | meanings(table.states)
    rows = (f"| `{state}` | {known[state]} |" for state in table.module.ROWS)
    return "\n".join(["| state | meaning |", "|---|---|", *rows, ""])


def _rows(rows: Rows) -> str:
    kinds = dict.fromkeys(kind for row in rows.values() for kind in row)
    lines = [
        "| fact | " + " | ".join(f"`{state}`" for state in rows) + " |",
        "|---" * (len(rows) + 1) + "|",
    ]
    for kind in kinds:
        cells = (_cell(row.get(kind)) for row in rows.values())
        lines.append(f"| `{kind.__name__}` | " + " | ".join(cells) + " |")
    return "\n".join([*lines, ""])


def _cell(handler: Handler | None) -> str:
    if handler is None:
        return "*impossible*"
    name = _name(handler)
    return "*ignored*" if name == "ignore" else f"`{name}`"


def _name(handler: Handler) -> str:
    return handler.__name__.lstrip("_")


def _handlers(handlers: Iterable[Handler]) -> str:
    """What the handlers that say anything say."""
    lines = []
    for handler in dict.fromkeys(handlers):
        text = inspect.getdoc(handler)
        if text and _name(handler) != "ignore":
            lines.append(f"- `{_name(handler)}`: {' '.join(text.split())}")
    return "\n".join([*lines, ""])


def _diagram(life: dict[tuple[str, str], str]) -> str:
    lines = ["```mermaid", "stateDiagram-v2"]
    for (before, after), why in life.items():
        ends = ("[*]" if state == ABSENT else state for state in (before, after))
        lines.append("    {} --> {}: {}".format(*ends, why))
    return "\n".join([*lines, "```", ""])


def _machine(rows: dict[type[Fact], Handler]) -> str:
    """A table without states: the fact alone chooses the row."""
    lines = ["| fact | handler | |", "|---|---|---|"]
    for kind, handler in rows.items():
        text = " ".join((inspect.getdoc(handler) or "").split())
        lines.append(f"| `{kind.__name__}` | `{_name(handler)}` | {text} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(document())
