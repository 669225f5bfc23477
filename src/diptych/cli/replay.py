"""`diptych replay DIR`: the logs of `diptych serve --record DIR`, through fresh machines of the core.

Exit codes: 0 replayed exactly, 1 a log differs or is broken, 2 wrong usage, 4 no logs there.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import msgspec
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from diptych.core.errors import DiptychError
from diptych.live.log_diff import in_words
from diptych.live.log_file import LogBroken, log_paths
from diptych.live.replay import Replay, ReplayFailed, ReplayReport

__all__ = ["add_parser", "run"]

_EPILOG = "exit codes: 0 replayed exactly, 1 a log differs or is broken, 2 wrong usage, 4 no logs in DIR"
_DESCRIPTION = """\
Replays the logs that `diptych serve --record DIR` wrote: every machine must ask for the same actions again,
and every message must have come as its sender's log says it was sent. Stops at the first difference."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "replay", help="replay the logs of a recorded run", description=_DESCRIPTION, epilog=_EPILOG
    )
    parser.add_argument("folder", metavar="DIR", type=Path, help="what serve --record named")
    parser.add_argument("--json", action="store_true", help="one document, for programs")


def run(arguments: argparse.Namespace) -> int:
    try:
        paths = log_paths(arguments.folder)
    except OSError as error:
        return _fail(arguments, f"{arguments.folder}: {error.strerror}", 4)
    if not paths:
        return _fail(arguments, f"{arguments.folder}: no logs there", 4)
    try:
        replay = Replay(paths)
        report = replay.run()
    except (ReplayFailed, LogBroken) as error:
        return _differs(arguments, error)
    except OSError as error:
        return _fail(arguments, str(error), 1)
    empty = [str(path) for path in replay.empty]
    if arguments.json:
        print(json.dumps({"exact": True, **msgspec.to_builtins(report), "empty": empty, "failure": None}))
    else:
        _show(report, empty)
    return 0


def _fail(arguments: argparse.Namespace, text: str, code: int) -> int:
    if arguments.json:
        print(json.dumps({"exact": False, "failure": {"text": text}}))
    else:
        print(f"diptych replay: {text}", file=sys.stderr)
    return code


def _differs(arguments: argparse.Namespace, error: DiptychError) -> int:
    if not isinstance(error, ReplayFailed):
        return _fail(arguments, str(error), 1)
    if arguments.json:
        failure = {
            "text": str(error),
            "path": str(error.path),
            "line": error.line,
            "machine": error.machine,
            "fact": in_words(error.fact),
            "expected": [in_words(one) for one in error.expected],
            "got": [in_words(one) for one in error.got],
            "differences": list(error.differences),
        }
        print(json.dumps({"exact": False, "failure": failure}))
        return 1
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(f"[bold red]not exact[/]  {escape(error.what)}")
    console.print(f"  machine   {escape(error.machine)}")
    console.print(f"  at        {escape(str(error.path))}:{error.line}")
    console.print(f"  fact      {escape(in_words(error.fact))}")
    for name, values in (("expected", error.expected), ("got", error.got)):
        for index, value in enumerate(values):
            console.print(f"  {name:<8}  {index}: {escape(in_words(value))}")
    for line in error.differences:
        console.print(f"  [bold]differs[/]   {escape(line)}")
    return 1


def _show(report: ReplayReport, empty: list[str]) -> None:
    console = Console(highlight=False)
    table = Table("machine", "steps", "sent", "received", "end", box=None)
    for machine in report.machines:
        end = machine.fate + (", last record torn" if machine.torn else "")
        numbers = (machine.steps, machine.sent, machine.received)
        table.add_row(escape(machine.name), *map(str, numbers), end)
    console.print(table)
    steps = sum(machine.steps for machine in report.machines)
    console.print(
        f"[bold green]exact[/]  {steps} steps of {len(report.machines)} machines; {report.matched} messages "
        f"came as they were sent, {report.unmatched} from senders without a log (doors)",
        soft_wrap=True,
    )
    for loss in report.lost:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(loss.kinds.items()))
        console.print(
            f"  lost: {escape(loss.sender)} to {escape(loss.receiver)}, {loss.why}: {kinds}", soft_wrap=True
        )
    for path in empty:
        console.print(f"  {escape(path)}: its process was killed before the first record", soft_wrap=True)
    if not all(machine.same_code for machine in report.machines):
        console.print("[yellow]recorded by another version of the core than this one[/]")
