"""The command line. Each command is a module of this package with `add_parser` and `run`, and is imported
only when it is asked for: `diptych status` must not wait for engines and tokenizers.

Exit codes of every command: 0 ok, 1 failure, 2 wrong usage, 3 server not reachable, 4 not found,
130 interrupted.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "serve": "serve a model over HTTP",
    "worker": "let this machine's workers join a fleet served elsewhere",
    "certs": "certificates for a fleet's hosts",
    "chat": "talk to a served model in the terminal",
    "status": "workers and requests of a running server",
    "trace": "how one request was served",
    "replay": "replay the logs of a recorded run",
    "doctor": "check this machine and say what to do",
    "models": "list or fetch models",
    "simulate": "run a workload through a fleet in virtual time",
    "profile": "measure this machine's engines for simulate",
}

_EPILOG = """\
exit codes: 0 ok, 1 failure, 2 wrong usage, 3 server not reachable, 4 not found, 130 interrupted"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code. Wrong usage raises `SystemExit(2)`, as argparse does."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    command = next((each for each in given if not each.startswith("-")), None)
    parser = argparse.ArgumentParser(
        prog="diptych",
        description="Disaggregated LLM inference: prefill on one kind of worker, decode on another.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"diptych {_version()}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, summary in COMMANDS.items():
        if name == command:
            importlib.import_module(f"diptych.cli.{name}").add_parser(subparsers)
        else:
            subparsers.add_parser(name, help=summary)
    parsed = parser.parse_args(given)
    module = importlib.import_module(f"diptych.cli.{parsed.command}")
    try:
        code: int = module.run(parsed)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader of our output has seen enough (`diptych status | head`).
        sys.stderr.close()
        return 0
    return code


def _version() -> str:
    try:
        return version("diptych")
    except PackageNotFoundError:
        return "(not installed)"
