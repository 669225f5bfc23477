"""`diptych serve`: one fleet on this machine, in the foreground.

Exit codes: 0 ended in order, 1 could not start or broke, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import secrets
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from rich.console import Console

from diptych.core.config import SECOND_NS
from diptych.live.fleet_file import (
    FleetError,
    FleetFile,
    WorkerGroup,
    default_groups,
    parse_group,
    plan_workers,
    read_fleet_file,
)
from diptych.live.hosts.security import HostsError, is_loopback, read_token, server_context, split_address
from diptych.live.launch import ExchangeLaunch
from diptych.live.pool import MEBIBYTE
from diptych.live.serve_plan import ListenPlan, ServePlan

SCRIPTED_MODEL = "scripted"
FIRST_QUESTION = "In one sentence: what is a diptych?"
_SCRIPTED = {
    "scripted_step_us": ("step_ns", 1000),
    "scripted_prompt_token_us": ("prompt_token_ns", 1000),
    "scripted_decode_row_us": ("decode_row_ns", 1000),
    "scripted_end_every": ("end_every", 1),
}
"""Command-line options and the engine's own, with the factor between their units."""

_DESCRIPTION = """\
Serve a model over HTTP (OpenAI and Bedrock APIs) with prefill and decode in separate worker processes.
Without options: one native worker that prefers prefill in int8 and one that prefers decode in int4, one
core each, over one pool of KV pages. With a single core, one worker does both."""

_EPILOG = """\
workers:
  ENGINE[:FORMAT][xN], e.g. native:int8, native:int4x2, torch:float32, scripted:wide
  engines: native (int8, int4, bf16), torch (float32, bf16), scripted (wide, narrow)

exit codes: 0 ended in order, 1 failure, 2 wrong usage"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "serve",
        help="serve a model over HTTP",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    fleet = parser.add_argument_group("fleet")
    fleet.add_argument("--model", help="GGUF file, model folder, known name or Hugging Face id")
    fleet.add_argument("--prefill", action="append", metavar="WORKERS", help="prefill workers (see below)")
    fleet.add_argument("--decode", action="append", metavar="WORKERS", help="decode workers (see below)")
    fleet.add_argument("--aggregated", action="store_true", help="one worker for both halves")
    fleet.add_argument("--fleet", type=Path, metavar="FILE", help="workers from a TOML fleet file")
    fleet.add_argument(
        "--pool-mib", type=int, help="memory for KV pages (1024, or a quarter of what is free)"
    )
    door = parser.add_argument_group("door")
    door.add_argument("--host", help="address to listen on (127.0.0.1)")
    door.add_argument("--port", type=int, help="port to listen on (8000; 0: any free one)")
    door.add_argument("--records", metavar="FILE", help="append a JSON line for every request")
    door.add_argument("--first-answer", action="store_true", help="ask one question and print the answer")
    hosts = parser.add_argument_group("other hosts")
    hosts.add_argument("--listen", metavar="HOST:PORT", help="let workers of other machines join here")
    hosts.add_argument("--token-file", type=Path, help="file with the token that they must have")
    hosts.add_argument("--certs", type=Path, help="folder of `diptych certs`; needed beyond the loopback")
    hosts.add_argument("--kv-plain", action="store_true", help="pages go without TLS: readable on the way")
    time_ = parser.add_argument_group("time")
    time_.add_argument("--lease", type=float, metavar="S", help="silence after which a worker is killed (3)")
    time_.add_argument("--grace", type=float, metavar="S", help="time for open streams after SIGTERM (10)")
    time_.add_argument(
        "--exact-wait",
        type=float,
        metavar="S",
        help="how long a broken stream waits for a worker with its numerics before it takes others (30)",
    )
    scripted = parser.add_argument_group("scripted engine (no model; for tests and examples)")
    scripted.add_argument("--scripted", action="store_true", help="default fleet of scripted workers")
    scripted.add_argument("--scripted-step-us", type=float, help="cost of a step")
    scripted.add_argument("--scripted-prompt-token-us", type=float, help="cost of a prompt token")
    scripted.add_argument("--scripted-decode-row-us", type=float, help="cost of a decoded token")
    scripted.add_argument("--scripted-end-every", type=int, help="one token in so many ends the turn")
    parser.add_argument("--record", metavar="DIR", help="log every step of every machine there, for replay")
    parser.add_argument("--json", action="store_true", help="events as JSON lines")


def run(arguments: argparse.Namespace) -> int:
    voice = Voice(as_json=arguments.json)
    try:
        plan = make_plan(arguments, sorted(os.sched_getaffinity(0)))
    except (FleetError, HostsError, OSError) as error:
        voice.error(str(error))
        return 2
    return asyncio.run(_serve(plan, voice, first_answer=arguments.first_answer))


def make_plan(arguments: argparse.Namespace, cores: list[int]) -> ServePlan:
    """The plan that the command line, then the fleet file, then the defaults give. Raises `FleetError`
    naming the option and its limit, and `OSError` for an unreadable fleet file."""
    file = FleetFile() if arguments.fleet is None else read_fleet_file(arguments.fleet)
    workers = plan_workers(_groups(arguments, file, cores), cores)
    scripted = workers[0].engine == "scripted"
    defaults = ServePlan(model="", workers=workers)
    pool_mib = _first(arguments.pool_mib, file.pool_mib)
    lease_s = _first(arguments.lease, file.lease_s, defaults.lease_ns / SECOND_NS)
    grace_s = _first(arguments.grace, file.grace_s, defaults.grace_ns / SECOND_NS)
    exact_wait_s = _first(arguments.exact_wait, file.exact_wait_s, defaults.exact_wait_ns / SECOND_NS)
    port = _first(arguments.port, file.port, defaults.port)
    if pool_mib is not None and pool_mib < 1:
        raise FleetError(f"--pool-mib: {pool_mib}; at least 1")
    if not 0.1 <= lease_s <= 3600:
        raise FleetError(f"--lease: {lease_s}; 0.1 to 3600 seconds")
    if not 0 <= grace_s <= 3600:
        raise FleetError(f"--grace: {grace_s}; 0 to 3600 seconds")
    if not 0 <= exact_wait_s <= 3600:
        raise FleetError(f"--exact-wait: {exact_wait_s}; 0 to 3600 seconds")
    if not 0 <= port <= 65535:
        raise FleetError(f"--port: {port}; 0 to 65535")
    listen, exchange = _listening(arguments)
    return ServePlan(
        listen=listen,
        exchange=exchange,
        model=_first(arguments.model, file.model, SCRIPTED_MODEL if scripted else _embedded_name()),
        workers=workers,
        address=_first(arguments.host, file.host, defaults.address),
        port=port,
        pool_bytes=None if pool_mib is None else pool_mib * MEBIBYTE,
        lease_ns=round(lease_s * SECOND_NS),
        grace_ns=round(grace_s * SECOND_NS),
        exact_wait_ns=round(exact_wait_s * SECOND_NS),
        records_path=arguments.records,
        record_folder=None if arguments.record is None else _record_folder(Path(arguments.record)),
    )


def _listening(arguments: argparse.Namespace) -> tuple[ListenPlan | None, ExchangeLaunch | None]:
    """Where other hosts join, and how pages go to and from them. Raises `HostsError`."""
    if arguments.listen is None:
        if arguments.token_file is not None or arguments.certs is not None:
            raise HostsError("--token-file and --certs are for --listen")
        return None, None
    address, port = split_address("--listen", arguments.listen)
    if arguments.token_file is None:
        raise HostsError("--token-file: nobody may join without a token")
    if arguments.certs is None and not is_loopback(address):
        raise HostsError("--certs: needed to listen beyond the loopback; see `diptych certs`")
    certs = None if arguments.certs is None else str(arguments.certs)
    if arguments.certs is not None:
        server_context(arguments.certs, "host-0")
    listen = ListenPlan(address=address, port=port, token=read_token(arguments.token_file), certs=certs)
    exchange = ExchangeLaunch(
        address=address,
        key=secrets.token_bytes(32),
        certs=None if arguments.kv_plain else certs,
        certificate="host-0",
    )
    return listen, exchange


def _groups(arguments: argparse.Namespace, file: FleetFile, cores: list[int]) -> tuple[WorkerGroup, ...]:
    given = [(role, text) for role in ("prefill", "decode") for text in getattr(arguments, role) or ()]
    options = {
        engine_name: int(value * factor)
        for name, (engine_name, factor) in _SCRIPTED.items()
        if (value := getattr(arguments, name)) is not None
    }
    if file.worker and (given or arguments.aggregated or arguments.scripted):
        raise FleetError("--fleet names the workers: no --prefill, --decode, --aggregated or --scripted then")
    if given and arguments.aggregated:
        raise FleetError("--aggregated runs one worker for both halves: no --prefill or --decode then")
    if file.worker:
        return file.worker
    if given:
        groups = tuple(parse_group(text, role) for role, text in given)
    else:
        aggregated = arguments.aggregated or (len(cores) < 2 and not arguments.scripted)
        groups = default_groups(aggregated=aggregated, engine="scripted" if arguments.scripted else "native")
    if options and any(group.engine != "scripted" for group in groups):
        raise FleetError("--scripted-...: only for fleets of scripted workers")
    return tuple(
        WorkerGroup(
            role=group.role,
            engine=group.engine,
            format=group.format,
            count=group.count,
            options=dict(options),
        )
        for group in groups
    )


def _record_folder(folder: Path) -> str:
    """The folder, made where it is not there; its logs are of one run."""
    from diptych.live.log_file import log_paths

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise FleetError(f"--record: {folder}: {error.strerror}") from error
    if log_paths(folder):
        raise FleetError(f"--record: {folder} holds the logs of another run; name a new or empty folder")
    return str(folder.absolute())


def _embedded_name() -> str:
    from diptych.models.embedded import EMBEDDED_NAME

    return EMBEDDED_NAME


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


class Voice:
    """What the command says: lines for people, or JSON lines for programs."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._console = Console(highlight=False, stderr=False)
        self._started_s = time.monotonic()

    def tell(self, text: str) -> None:
        self._say("note", text, f"[dim]{self._since():6.2f} s[/]  {_escape(text)}")

    def ready(self, url: str) -> None:
        since = self._since()
        if self._as_json:
            self._print_json({"event": "ready", "url": url, "seconds": since})
            return
        self._console.print(f"[bold green]ready[/] after {since:.1f} s: [bold]{url}[/]")

    def answered(self, url: str, model: str, answer: str) -> None:
        if self._as_json:
            self._print_json({"event": "answer", "question": FIRST_QUESTION, "answer": answer})
            return
        self._console.print(f"\n[bold]you[/]     {FIRST_QUESTION}")
        self._console.print(f"[bold]model[/]   {_escape(answer.strip())}\n")
        self._console.print("Ask the next one:\n")
        body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hello"}]})
        self._console.print(
            f"  curl {url}/v1/chat/completions -H 'content-type: application/json' \\", soft_wrap=True
        )
        self._console.print(f"    -d '{_escape(body)}'", soft_wrap=True)
        self._console.print(f"  {own_command()} chat --url {url}\n", soft_wrap=True)

    def error(self, text: str) -> None:
        if self._as_json:
            self._print_json({"event": "error", "text": text})
        else:
            Console(stderr=True, highlight=False).print(f"[bold red]diptych serve:[/] {_escape(text)}")

    def _say(self, event: str, text: str, markup: str) -> None:
        if self._as_json:
            self._print_json({"event": event, "text": text, "seconds": self._since()})
        else:
            self._console.print(markup, soft_wrap=True)

    def _since(self) -> float:
        return time.monotonic() - self._started_s

    @staticmethod
    def _print_json(document: dict[str, object]) -> None:
        sys.stdout.write(json.dumps(document) + "\n")
        sys.stdout.flush()


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


async def _serve(plan: ServePlan, voice: Voice, *, first_answer: bool) -> int:
    from diptych.live.supervisor import Supervisor

    asking: set[asyncio.Task[None]] = set()

    def served(address: str, port: int) -> None:
        url = _url(address, port)
        voice.ready(url)
        if first_answer:
            asking.add(asyncio.get_running_loop().create_task(_ask_first(url, voice)))

    workers = ", ".join(f"{worker.name} ({worker.engine} {worker.format})" for worker in plan.workers)
    voice.tell(f"model {plan.model}; workers {workers}")
    code = await Supervisor(plan, voice.tell, served).run()
    for task in asking:
        task.cancel()
    return code


def _url(address: str, port: int) -> str:
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


async def _ask_first(url: str, voice: Voice) -> None:
    try:
        model, answer = await asyncio.to_thread(_chat_once, url, FIRST_QUESTION)
    except (OSError, ValueError, LookupError) as error:
        voice.error(f"the first question failed: {error}")
        return
    voice.answered(url, model, answer)


def _chat_once(url: str, question: str) -> tuple[str, str]:
    """Model name and answer. Raises `OSError`, and `ValueError` or `LookupError` for a strange answer."""
    from urllib.request import Request, urlopen

    with urlopen(f"{url}/v1/models", timeout=10) as response:
        model: str = json.load(response)["data"][0]["id"]
    body = {"model": model, "messages": [{"role": "user", "content": question}], "max_tokens": 64}
    request = Request(
        f"{url}/v1/chat/completions", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urlopen(request, timeout=60) as response:
        answer: str = json.load(response)["choices"][0]["message"]["content"]
    return model, answer


def own_command() -> str:
    """How to call this program again: by name where the shell finds it, else by its path."""
    if shutil.which("diptych"):
        return "diptych"
    program = Path(sys.argv[0])
    return os.path.relpath(program) if program.name == "diptych" else f"{sys.executable} -m diptych.cli"
