"""Golden traces: a readable script of a small fleet and what happens to it, and what came of it below.

    # Why this story is told.
    set page_tokens=4 latency=100us
    worker prefill-0 role=prefill numerics=int8,int4 pages=32
    worker decode-0 role=decode numerics=int4,int8 pages=32
    request r1 at=20ms prompt=text:18 lengths=5
    fault kill decode-0 at=40ms
    ---
    20.100 control < door-0: RequestArrived r1 ...
        -> decode-0@1: TargetRequested r1.1 ...

Each word `name=value` is a field of the scenario's structs; times carry a unit and name the field
without its `_ns`. Above the line is the script, below it the facts as they came and, indented, the
actions each was answered with; heartbeats are left out.

`python -m diptych.sim.script FOLDER` rewrites every `*.txt` there. Read the difference before you keep it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from diptych.core.config import ControlConfig
from diptych.sim.run import watch
from diptych.sim.scenario import Fault, RequestPlan, Scenario, WorkerPlan
from diptych.sim.trace import Recorder

LINE = "---"
Plan = TypeVar("Plan")
_UNITS_NS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": 1_000_000_000}


class BadScript(Exception):
    """A line of a script that cannot be read; the message names it."""


def retell(text: str) -> str:
    """The same script with the trace that the machines give for it now. Raises `BadScript`, and `Failed`
    when a checker complains."""
    script = text.partition(LINE + "\n")[0]
    scenario, whole = read_script(script)
    recorder = Recorder(steps_max=None)
    outcome = watch(scenario, recorder)
    lines = recorder.lines
    if not whole:
        arrived = (number for number, line in enumerate(lines) if "RequestArrived" in line)
        lines = lines[next(arrived, 0) :]
    ends = ", ".join(f"{count} {name}" for name, count in outcome.failures.items())
    lines.append(f"{outcome.whole} whole" + (f", {ends}" if ends else ""))
    return script + LINE + "\n" + "\n".join(lines) + "\n"


def read_script(script: str) -> tuple[Scenario, bool]:
    """The scenario, and whether the trace begins at the very start instead of the first request."""
    workers: list[WorkerPlan] = []
    requests: list[RequestPlan] = []
    faults: list[Fault] = []
    fields: dict[str, Any] = {}
    control: dict[str, Any] = {}
    whole = False
    for line in script.splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        pairs = dict(word.split("=", 1) for word in words[1:] if "=" in word)
        names = [word for word in words[1:] if "=" not in word]
        match words[0], names:
            case "set", []:
                fields |= _fields(pairs)
            case "control", []:
                control |= _fields(pairs)
            case "worker", [name]:
                workers.append(_struct(WorkerPlan, line, name=name, **_fields(pairs)))
            case "request", [name]:
                requests.append(_struct(RequestPlan, line, request=name, **_fields(pairs)))
            case "next", [name]:
                follow = _struct(RequestPlan, line, request=name, **_fields(pairs))
                requests[-1] = msgspec.structs.replace(requests[-1], follow=follow)
            case "fault", [kind, target]:
                faults.append(_struct(Fault, line, kind=kind, target=target, **_fields(pairs)))
            case "show", ["start"]:
                whole = True
            case _:
                raise BadScript(line)
    config = _struct(ControlConfig, script, **control)
    fields |= {"workers": tuple(workers), "requests": tuple(requests), "faults": tuple(faults)}
    return Scenario(control=config, **fields), whole


def _fields(pairs: dict[str, str]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for name, text in pairs.items():
        time = re.fullmatch(r"(\d+)(ns|us|ms|s)", text)
        if time:
            fields[f"{name}_ns"] = int(time.group(1)) * _UNITS_NS[time.group(2)]
        elif name == "prompt":
            pieces = (piece.split(":") for piece in text.split(","))
            fields[name] = [(stream, int(count)) for stream, count in pieces]
        elif name in ("numerics", "models", "lengths", "doors"):
            fields[name] = text.split(",")
        else:
            fields[name] = int(text) if text.isdigit() else text
    return fields


def _struct(kind: type[Plan], line: str, /, **fields: Any) -> Plan:
    try:
        return msgspec.convert(fields, kind, strict=False)
    except msgspec.ValidationError as error:
        raise BadScript(f"{line}: {error}") from error


def rewrite(folder: Path) -> list[Path]:
    """Retells every script of a folder; returns the files that changed."""
    changed = []
    for path in sorted(folder.glob("*.txt")):
        text = path.read_text()
        told = retell(text)
        if told != text:
            path.write_text(told)
            changed.append(path)
    return changed


if __name__ == "__main__":
    for changed_path in rewrite(Path(sys.argv[1])):
        print(f"rewrote {changed_path}")
