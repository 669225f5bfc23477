"""`diptych models`: which models are at hand, and fetching one.

Exit codes: 0 ok, 1 the fetch failed, 2 wrong usage, 4 no such model.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

_EPILOG = "exit codes: 0 ok, 1 failure, 2 wrong usage, 4 no such model"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "models", help="list or fetch models", description="Models at hand.", epilog=_EPILOG
    )
    actions = parser.add_subparsers(dest="action", metavar="list | fetch")
    listing = actions.add_parser("list", help="models on this machine and how to get others", epilog=_EPILOG)
    fetch = actions.add_parser("fetch", help="fetch a model into the cache", epilog=_EPILOG)
    fetch.add_argument("model", nargs="?", help="known name or Hugging Face id (default: the embedded model)")
    for part in (parser, listing, fetch):
        part.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="output as JSON")


def run(arguments: argparse.Namespace) -> int:
    as_json = getattr(arguments, "json", False)
    if arguments.action == "fetch":
        return _fetch(arguments.model, as_json=as_json)
    return _list(as_json=as_json)


def known_models() -> list[dict[str, Any]]:
    """The embedded model and whatever GGUF files lie beside it in the cache."""
    from diptych.models.embedded import EMBEDDED_NAME, SIZE_BYTES, embedded_path, embedded_present

    path = embedded_path()
    models: list[dict[str, Any]] = [
        {
            "name": EMBEDDED_NAME,
            "present": embedded_present(),
            "path": str(path),
            "bytes": SIZE_BYTES,
            "get": "diptych models fetch",
        }
    ]
    others = sorted(path.parent.glob("*.gguf")) if path.parent.is_dir() else []
    models += [
        {
            "name": other.stem,
            "present": True,
            "path": str(other),
            "bytes": other.stat().st_size,
            "get": f"diptych serve --model {other}",
        }
        for other in others
        if other != path
    ]
    return models


def _list(*, as_json: bool) -> int:
    models = known_models()
    if as_json:
        print(json.dumps({"models": models}, indent=2))
        return 0
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False)
    for column in ("model", "MB", "here", "path, or how to get it"):
        table.add_column(column, overflow="fold")
    for model in models:
        where = model["path"] if model["present"] else model["get"]
        here = "[green]yes[/]" if model["present"] else "no"
        table.add_row(escape(model["name"]), str(model["bytes"] // 1_000_000), here, escape(where))
    console.print(table)
    console.print(
        "\n[dim]Also: any GGUF file or safetensors folder (serve --model PATH), Hugging Face ids with the "
        "extra 'hub'. Architectures: Llama, Qwen2, Qwen3.[/]"
    )
    return 0


def _fetch(model: str | None, *, as_json: bool) -> int:
    from diptych.models.embedded import EMBEDDED_NAME
    from diptych.models.errors import ModelError, ModelNotFoundError
    from diptych.models.resolve import locate

    name = model or EMBEDDED_NAME
    try:
        path, served_name = locate(name)
    except ModelNotFoundError as error:
        return _fail(str(error), 4 if Path(name).suffix or "/" not in name else 1, as_json=as_json)
    except (ModelError, OSError) as error:
        return _fail(str(error), 1, as_json=as_json)
    if as_json:
        print(json.dumps({"name": served_name, "path": str(path)}))
    else:
        Console(highlight=False).print(f"{escape(served_name)}: {escape(str(path))}", soft_wrap=True)
    return 0


def _fail(why: str, code: int, *, as_json: bool) -> int:
    if as_json:
        print(json.dumps({"error": why}))
    else:
        sys.stderr.write(f"diptych models: {why}\n")
    return code
