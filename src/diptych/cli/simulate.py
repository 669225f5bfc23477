"""`diptych simulate`: a fleet in virtual time, by the machines that serve live traffic.

Exit codes: 0 ok, 1 the fleet could not carry out the workload, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from diptych.sim.costs.file import CostFile
    from diptych.sim.report.figures import Figures
    from diptych.sim.report.perfetto import Perfetto
    from diptych.sim.timed.plan import Plan
    from diptych.sim.timed.world import TimedWorld
    from diptych.sim.workloads.ask import Workload

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Run a workload through a fleet in virtual time. Scheduler, router, page books and workers are the ones
that serve live traffic; only durations come from a cost model. Without options: one prefill and one
decode worker with round, invented costs. `diptych profile` measures this machine's."""

_EPILOG = """\
workloads (KIND:name=value,...; lengths are A, A-B uniform, or A~S log-normal with median A, sigma S):
  poisson:rate=2,requests=200,input=512~0.5,output=64-256,shared=0
  bursts:size=16,every=10,requests=160,input=...,output=...,shared=...
  closed:clients=8,think=1,requests=200,input=...,output=...,shared=...
  agents:rate=0.2,conversations=20,turns=3-8,system=1024,input=200,output=150,think=2
  mooncake:TRACE.jsonl[,block=512]   Mooncake trace; take --page-tokens 512 with it
  azure:TRACE.csv                    Azure LLM inference trace

exit codes: 0 ok, 1 failure, 2 wrong usage"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "simulate",
        help="run a workload through a fleet in virtual time",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("fleet", nargs="?", type=Path, metavar="FLEET.toml", help="as for serve --fleet")
    work = parser.add_argument_group("workload")
    work.add_argument("--workload", metavar="SPEC", help="see below (poisson:rate=2,requests=200)")
    work.add_argument("--seed", type=int, default=0, help="of arrivals and lengths (0)")
    work.add_argument("--speedup", type=float, default=1.0, help="arrivals so many times as fast (1)")
    work.add_argument("--limit", type=int, help="the first so many requests or conversations")
    fleet = parser.add_argument_group("fleet")
    fleet.add_argument("--prefill", action="append", metavar="WORKERS", help="as for serve")
    fleet.add_argument("--decode", action="append", metavar="WORKERS", help="as for serve")
    fleet.add_argument("--costs", type=Path, metavar="FILE", help="cost file, as profile writes it")
    fleet.add_argument("--page-tokens", type=int, help="tokens of a page (the cost file's, or 16)")
    fleet.add_argument("--pages", type=int, help="pages of each worker (from pool_mib, or 4096)")
    fleet.add_argument("--chunk-tokens", type=int, default=512, help="prompt tokens of a step (512)")
    fleet.add_argument("--mixed-chunk-tokens", type=int, default=64, help="of a step that also decodes (64)")
    fleet.add_argument("--quantum-tokens", type=int, default=32, help="steps of a run at most (32)")
    fleet.add_argument("--running-max", type=int, default=64, help="sequences that decode together (64)")
    fleet.add_argument("--queue-max", type=int, default=256, help="waiting requests before refusal (256)")
    fleet.add_argument("--context-max", type=int, default=1 << 20, help="longest prompt and answer (2^20)")
    out = parser.add_argument_group("report")
    out.add_argument("--slo-ttft", type=float, metavar="MS", help="time to first token for goodput")
    out.add_argument("--slo-itl", type=float, metavar="MS", help="mean time between tokens for goodput")
    out.add_argument("--json", type=Path, metavar="FILE", help="figures as JSON; - for standard output")
    out.add_argument("--html", type=Path, metavar="FILE", help="page with plots, in one file")
    out.add_argument("--trace", type=Path, metavar="FILE", help="requests over workers, for Perfetto")


def run(arguments: argparse.Namespace) -> int:
    from diptych.live.fleet_file import FleetError
    from diptych.sim.costs.model import BadCosts
    from diptych.sim.events import Violation
    from diptych.sim.report.perfetto import Perfetto
    from diptych.sim.workloads.ask import BadWorkload
    from diptych.sim.workloads.spec import DEFAULT, Common, read_workload

    text = arguments.workload or DEFAULT
    try:
        costs, plan = _plan(arguments)
        common = Common(seed=arguments.seed, speedup=arguments.speedup, limit=arguments.limit)
        workload = read_workload(text, common)
        for path in (arguments.json, arguments.html, arguments.trace):
            _check_folder(path)
    except (FleetError, BadCosts, BadWorkload, OSError) as error:
        print(f"diptych simulate: {error}", file=sys.stderr)
        return 2
    tracer = Perfetto() if arguments.trace else None
    begun = time.perf_counter()
    try:
        world = _simulate(plan, workload, tracer, quiet=str(arguments.json) == "-")
    except (Violation, BadWorkload) as error:
        print(f"diptych simulate: {error}", file=sys.stderr)
        return 1
    seconds = time.perf_counter() - begun
    return _report(arguments, text, costs, world, tracer, seconds)


def _check_folder(path: Path | None) -> None:
    if path is not None and str(path) != "-" and not path.absolute().parent.is_dir():
        raise OSError(f"{path}: no such folder")


def _plan(arguments: argparse.Namespace) -> tuple[CostFile, Plan]:
    from diptych.sim.costs.file import read_costs
    from diptych.sim.fleet import Limits, default_costs, plan_fleet, read_groups

    file, groups = read_groups(arguments.fleet, arguments.prefill or (), arguments.decode or ())
    costs = default_costs(groups) if arguments.costs is None else read_costs(arguments.costs)
    limits = Limits(
        page_tokens=arguments.page_tokens or costs.page_tokens,
        pages=arguments.pages,
        chunk_tokens=arguments.chunk_tokens,
        mixed_chunk_tokens=arguments.mixed_chunk_tokens,
        quantum_tokens=arguments.quantum_tokens,
        running_max=arguments.running_max,
        queue_max=arguments.queue_max,
        context_tokens_max=arguments.context_max,
    )
    return costs, plan_fleet(file, groups, costs, limits)


def _simulate(plan: Plan, workload: Workload, tracer: Perfetto | None, *, quiet: bool) -> TimedWorld:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from diptych.sim.timed.replay import replay

    columns = (TextColumn("simulating"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    off = quiet or not console.is_terminal
    with Progress(*columns, TextColumn("{task.fields[now]}"), console=console, disable=off) as bar:
        task = bar.add_task("", total=workload.total, now="")

        def progress(ended: int, now_ns: int) -> None:
            bar.update(task, completed=ended, now=f"{now_ns / 1e9:.1f} s virtual")

        return replay(plan, workload, tracer=tracer, progress=None if off else progress)


def _report(
    arguments: argparse.Namespace,
    text: str,
    costs: CostFile,
    world: TimedWorld,
    tracer: Perfetto | None,
    seconds: float,
) -> int:
    from rich.console import Console

    from diptych.sim.report.figures import Slo, figures
    from diptych.sim.report.page import page
    from diptych.sim.report.terminal import show

    found = figures(world, Slo(ttft_ms=arguments.slo_ttft, itl_ms=arguments.slo_itl))
    about = _about(arguments, text, costs, found)
    if str(arguments.json) == "-":
        print(_document(about, found))
    else:
        if arguments.json is not None:
            arguments.json.write_text(_document(about, found) + "\n", encoding="utf-8")
        console = Console(highlight=False)
        for name, value in about:
            console.print(f"{name}: {value}", style="dim", markup=False)
        show(found, console)
        console.print(
            f"simulated in {seconds:.2f} s, {found.requests / seconds:,.0f} requests/s", style="dim"
        )
    if arguments.html is not None:
        arguments.html.write_text(page(found, world.meter, about), encoding="utf-8")
    if tracer is not None:
        tracer.write(arguments.trace)
    return 0 if found.served else 1


def _about(
    arguments: argparse.Namespace, text: str, costs: CostFile, found: Figures
) -> list[tuple[str, str]]:
    words = ", ".join(f"{name} {value}" for name, value in costs.about.items()) or "a cost file by hand"
    workers = ", ".join(f"{worker.name} ({worker.pages} pages)" for worker in found.workers)
    source = "" if arguments.costs is None else f"{arguments.costs}: "
    return [("workload", f"{text}, seed {arguments.seed}"), ("workers", workers), ("costs", source + words)]


def _document(about: list[tuple[str, str]], found: Figures) -> str:
    import msgspec

    document: dict[str, Any] = {"about": dict(about), "figures": msgspec.to_builtins(found)}
    return msgspec.json.format(msgspec.json.encode(document), indent=2).decode()
