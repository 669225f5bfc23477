"""`diptych worker`: this machine's workers join a fleet that is served elsewhere.

Exit codes: 0 ended in order, 1 could not start, was refused or broke, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
from pathlib import Path

import msgspec
from rich.console import Console

from diptych.live.fleet_file import ROLES, FleetError, WorkerPlan, parse_group, plan_workers
from diptych.live.hosts.security import HostsError, is_loopback, read_token, split_address
from diptych.live.pool import MEBIBYTE

_DESCRIPTION = """\
Run workers on this machine for a fleet that `diptych serve --listen` serves on another one. KV pages go
from host to host over TCP, under claims that the fleet's own key opens."""

_EPILOG = """\
  ENGINE[:FORMAT][xN], e.g. native:int8, native:int4x2, scripted:wide

exit codes: 0 ended in order, 1 failure, 2 wrong usage"""
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "worker",
        help="let this machine's workers join a fleet",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--join", required=True, metavar="HOST:PORT", help="where `serve --listen` listens")
    parser.add_argument("--token-file", required=True, type=Path, help="file with the fleet's token")
    parser.add_argument("--name", help="what this host is called in the fleet (the machine's name)")
    parser.add_argument("--engine", default="native", metavar="WORKERS", help="the workers (see below)")
    parser.add_argument("--role", default="decode", choices=ROLES, help="what they prefer (decode)")
    parser.add_argument("--certs", type=Path, help="folder of `diptych certs`; needed beyond the loopback")
    parser.add_argument("--address", default="127.0.0.1", help="address where others fetch pages (127.0.0.1)")
    parser.add_argument("--model", help="the fleet's model on this machine, where it is not known by name")
    parser.add_argument(
        "--pool-mib", type=int, help="memory for KV pages (1024, or a quarter of what is free)"
    )
    parser.add_argument(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="of the engine",
    )
    parser.add_argument("--kv-plain", action="store_true", help="pages go without TLS (as serve)")
    parser.add_argument("--no-checksums", action="store_true", help="do not check pages that come over")


def run(arguments: argparse.Namespace) -> int:
    from diptych.live.hosts.agent import Agent, AgentPlan, JoinRefused

    console = Console(stderr=True, highlight=False)
    try:
        name = arguments.name or _machine_name()
        address, port = split_address("--join", arguments.join)
        if arguments.certs is None and not (is_loopback(address) and is_loopback(arguments.address)):
            raise HostsError("--certs: needed where other machines are talked to; see `diptych certs`")
        plan = AgentPlan(
            name=name,
            hub_address=address,
            hub_port=port,
            token=read_token(arguments.token_file),
            workers=_workers(arguments, name),
            model=arguments.model,
            pool_bytes=None if arguments.pool_mib is None else arguments.pool_mib * MEBIBYTE,
            address=arguments.address,
            certs=None if arguments.certs is None else str(arguments.certs),
            checksums=not arguments.no_checksums,
            kv_plain=arguments.kv_plain,
        )
    except (FleetError, HostsError) as error:
        console.print(f"[bold red]diptych worker:[/] {error}", markup=True)
        return 2

    def tell(line: str) -> None:
        print(f"{name}: {line}", flush=True)

    async def stay() -> int:
        return await Agent(plan, tell, lambda: tell("serving")).run()

    try:
        return asyncio.run(stay())
    except (JoinRefused, HostsError, OSError, TimeoutError) as error:
        console.print(f"[bold red]diptych worker:[/] {arguments.join}: {error or type(error).__name__}")
        return 1


def _workers(arguments: argparse.Namespace, name: str) -> tuple[WorkerPlan, ...]:
    """Named after the host: a fleet's workers have names of their own wherever they are."""
    if not _NAME.fullmatch(name):
        raise FleetError(f"--name: {name!r}; 1 to 32 of a-z, 0-9 and -")
    group = parse_group(arguments.engine, arguments.role)
    worker = f"{name[:20].rstrip('-')}-{arguments.role}"
    named = msgspec.structs.replace(group, name=worker, options=dict(map(_option, arguments.option)))
    return plan_workers([named], sorted(os.sched_getaffinity(0)))


def _option(text: str) -> tuple[str, int | float | str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise FleetError(f"--option: {text!r} is not NAME=VALUE")
    for number in (int, float):
        with contextlib.suppress(ValueError):
            return name, number(value)
    return name, value


def _machine_name() -> str:
    return re.sub(r"[^a-z0-9-]+", "-", os.uname().nodename.lower()).strip("-")[:32] or "host"
