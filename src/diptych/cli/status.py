"""`diptych status`: workers and requests of a running server.

Exit codes: 0 ok, 1 failure, 2 wrong usage, 3 not reachable.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from diptych.cli.server_link import LinkError, ServerLink, add_link_options

__all__ = ["add_parser", "run"]

_EPILOG = "exit codes: 0 ok, 1 failure, 2 wrong usage, 3 server not reachable"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "status",
        help="workers and requests of a running server",
        description="Workers and requests of a running server.",
        epilog=_EPILOG,
    )
    add_link_options(parser)
    parser.add_argument("--json", action="store_true", help="the document itself, for programs")


def run(arguments: argparse.Namespace) -> int:
    try:
        document = ServerLink(arguments.url, arguments.api_key).get("/diptych/status")
    except LinkError as error:
        print(f"diptych status: {error}", file=sys.stderr)
        return error.exit_code
    if arguments.json:
        print(json.dumps(document))
    else:
        _show(document)
    return 0


def _show(document: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    # Narrow enough for 80 columns.
    table = Table("worker", "role", "engine", "pid", "state", "epoch", box=None, padding=(0, 1, 0, 0))
    for name in ("free", "held", "cached", "pages"):
        table.add_column(name, justify="right")
    for worker in document.get("workers", []):
        pages = worker.get("pages", {})
        state = str(worker.get("state"))
        colour = "green" if state == "ready" else "yellow"
        engine = f"{worker.get('engine')}:{worker.get('format')}"
        cells = [escape(str(each)) for each in (worker["name"], worker["role"], engine, worker.get("pid"))]
        cells += [f"[{colour}]{escape(state)}[/]", escape(str(worker.get("epoch")))]
        cells += [str(pages.get(name)) for name in ("free", "held", "cached", "total")]
        table.add_row(*cells)
    console = Console()
    console.print(table)
    counts = document.get("requests", {})
    console.print("requests: " + ", ".join(f"{count} {name}" for name, count in counts.items()))
