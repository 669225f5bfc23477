"""`diptych trace ID`: how one request was served.

Exit codes: 0 ok, 1 failure, 2 wrong usage, 3 not reachable, 4 no such request on record.
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any
from urllib.parse import quote

from diptych.cli.server_link import LinkError, ServerLink, add_link_options

__all__ = ["add_parser", "run"]

_EPILOG = "exit codes: 0 ok, 1 failure, 2 wrong usage, 3 server not reachable, 4 no such request on record"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "trace",
        help="how one request was served",
        description="How one request was served: workers, split, handoff, times.",
        epilog=_EPILOG,
    )
    parser.add_argument("id", metavar="ID", help="the request's x-request-id")
    add_link_options(parser)
    parser.add_argument("--json", action="store_true", help="the document itself, for programs")


def run(arguments: argparse.Namespace) -> int:
    path = f"/diptych/trace/{quote(arguments.id, safe='')}"
    try:
        document = ServerLink(arguments.url, arguments.api_key).get(path)
    except LinkError as error:
        print(f"diptych trace: {error}", file=sys.stderr)
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

    table = Table(show_header=False)
    for name, value in document.items():
        table.add_row(escape(name), escape(_words(value)))
    Console().print(table)


def _words(value: Any) -> str:
    """A value of the document as people read it; lists one item a line."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(each)}" for name, each in value.items())
    if isinstance(value, list):
        return "\n".join(_words(each) for each in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "-" if value is None else str(value)
