"""`diptych certs`: a certificate authority for one fleet, and a certificate for each of its hosts.

Exit codes: 0 written, 1 could not be written, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from rich.console import Console

_DESCRIPTION = """\
Make a certificate authority for a fleet (once) and certificates for its hosts. Copy ca.pem and a host's
own NAME.pem and NAME.key to that host; keep ca.key where no host can read it."""
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
DAYS = 825


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "certs",
        help="certificates for a fleet's hosts",
        description=_DESCRIPTION,
        epilog="exit codes: 0 written, 1 could not be written, 2 wrong usage",
    )
    parser.add_argument("folder", type=Path, help="where they are written")
    parser.add_argument("host", nargs="+", help="names of hosts; the one that serves is host-0")
    parser.add_argument("--days", type=int, default=DAYS, help=f"how long they are good for ({DAYS})")


def run(arguments: argparse.Namespace) -> int:
    console = Console(highlight=False)
    wrong = [name for name in arguments.host if not _NAME.fullmatch(name)]
    if wrong or not 1 <= arguments.days <= 36500:
        what = f"host: {wrong[0]!r}; 1 to 32 of a-z, 0-9 and -" if wrong else "--days: 1 to 36500"
        console.print(f"[bold red]diptych certs:[/] {what}")
        return 2
    try:
        from diptych.live.hosts.certificates import make_certificates
    except ImportError:
        console.print(
            "[bold red]diptych certs:[/] needs the package cryptography: pip install 'diptych[hosts]'"
        )
        return 1
    try:
        written = make_certificates(arguments.folder, arguments.host, arguments.days)
    except (OSError, ValueError) as error:
        console.print(f"[bold red]diptych certs:[/] {error}")
        return 1
    for path in written:
        console.print(f"wrote {path}")
    return 0
