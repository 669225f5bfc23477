"""`diptych profile`: measures this machine's engines and writes the cost file that `simulate` reads.

Exit codes: 0 ok, 1 an engine could not be built, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import mmap
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from diptych.engine.interface import Engine
    from diptych.live.fleet_file import WorkerPlan
    from diptych.live.launch import ModelSource
    from diptych.models.weights import Model
    from diptych.sim.costs.file import Costs, HostCosts, LinkCosts
    from diptych.sim.costs.profiling import Grid, MeasuredDoor

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Measure the engines of a fleet on this machine, one core each: a prompt by tokens and context, a decode
step by sequences and context, a step of both, and how much engines on other cores slow it down; and what
a request takes besides engines, on a fleet whose engines compute nothing. Best done on an idle machine."""

_EPILOG = "exit codes: 0 ok, 1 failure, 2 wrong usage"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "profile",
        help="measure this machine's engines for simulate",
        description=_DESCRIPTION,
        epilog=_EPILOG,
    )
    parser.add_argument("fleet", nargs="?", type=Path, metavar="FLEET.toml", help="as for serve --fleet")
    parser.add_argument("--model", help="as for serve (the embedded model)")
    parser.add_argument("--prefill", action="append", metavar="WORKERS", help="as for serve")
    parser.add_argument("--decode", action="append", metavar="WORKERS", help="as for serve")
    parser.add_argument("--page-tokens", type=int, default=16, help="tokens of a page (16)")
    parser.add_argument("--quick", action="store_true", help="few points, few rounds: seconds, not minutes")
    parser.add_argument("--out", type=Path, default=Path("costs.json"), metavar="FILE", help="(costs.json)")


def run(arguments: argparse.Namespace) -> int:
    from diptych.live.fleet_file import (
        FleetError,
        FleetFile,
        default_groups,
        parse_group,
        plan_workers,
        read_fleet_file,
    )

    try:
        file = FleetFile() if arguments.fleet is None else read_fleet_file(arguments.fleet)
        groups = [
            parse_group(text, role)
            for role in ("prefill", "decode")
            for text in getattr(arguments, role) or ()
        ]
        if file.worker and groups:
            raise FleetError("the fleet file names the workers: no --prefill or --decode then")
        cores = sorted(os.sched_getaffinity(0))
        plans = plan_workers(file.worker or groups or default_groups(aggregated=False), cores)
        if not 1 <= arguments.page_tokens <= 1 << 16:
            raise FleetError(f"--page-tokens: {arguments.page_tokens}; 1 to {1 << 16}")
        if not arguments.out.absolute().parent.is_dir():
            raise FleetError(f"--out: {arguments.out.parent} is no folder")
    except (FleetError, OSError) as error:
        print(f"diptych profile: {error}", file=sys.stderr)
        return 2
    return _measure(arguments, plans, arguments.model or file.model)


def _measure(arguments: argparse.Namespace, plans: Sequence[WorkerPlan], model: str | None) -> int:
    from rich.console import Console

    from diptych.models.errors import ModelError
    from diptych.sim.costs.file import CostFile, write_costs
    from diptych.sim.costs.messages import measure_link
    from diptych.sim.costs.profiling import QUICK, Grid, MeasuredDoor

    # These fork: before there are threads and models in this process.
    link, door = measure_link(), MeasuredDoor()
    grid = QUICK if arguments.quick else Grid()
    found: dict[str, Costs] = {}
    slowest = 1.0
    try:
        with Console(stderr=True).status("") as status:
            source, loaded = _source(plans[0].engine, model, arguments.page_tokens)
            link, host = _besides(link, door, arguments.quick, status.update)
            for name, plan in _kinds(plans).items():
                measured, slower = _measured(plan, source, loaded, grid, door, name, status.update)
                found[name] = measured
                slowest = max(slowest, slower)
    except (ModelError, ValueError, ImportError, OSError, HTTPException) as error:
        print(f"diptych profile: {error}", file=sys.stderr)
        return 1
    finally:
        door.close()
    costs = CostFile(
        workers=found,
        link=link,
        host=msgspec.structs.replace(host, cores=len(os.sched_getaffinity(0)), slowdown=slowest),
        page_tokens=arguments.page_tokens,
        page_bytes=source.page_bytes,
        about={"measured on": _cpu(), "model": source.name, "system": platform.system()},
    )
    write_costs(arguments.out, costs)
    print(f"{arguments.out}: costs of {', '.join(found)}; diptych simulate --costs {arguments.out}")
    return 0


def _besides(
    link: LinkCosts, door: MeasuredDoor, quick: bool, note: Callable[[str], None]
) -> tuple[LinkCosts, HostCosts]:
    """What a request takes besides engines: of messages, and of everything else."""
    from diptych.engine.scripted import ScriptedEngine
    from diptych.sim.costs.free_fleet import free_fleet
    from diptych.sim.costs.paths import solve, take
    from diptych.sim.costs.profiling import QUICK, Bench

    engine = Bench(ScriptedEngine(), QUICK, door).measure(note)
    with free_fleet() as fleet:
        samples = take(fleet, note, rounds=20 if quick else 60)
    return solve(samples, engine, link.page_ns)


def _kinds(plans: Sequence[WorkerPlan]) -> dict[str, WorkerPlan]:
    """One worker of each kind, by the name that a cost file gives it: that of its engine and format, or of
    its group where engines with the same format are told different things."""
    kinds: dict[str, WorkerPlan] = {}
    for plan in plans:
        alike = [other for other in plans if (other.engine, other.format) == (plan.engine, plan.format)]
        same = all(other.options == plan.options for other in alike)
        kinds.setdefault(f"{plan.engine}:{plan.format}" if same else plan.name.rpartition("-")[0], plan)
    return kinds


def _source(engine: str, model: str | None, page_tokens: int) -> tuple[ModelSource, Model | None]:
    """What a worker's launch message says of the model, and its weights where engines need some."""
    from diptych.live.launch import ModelSource
    from diptych.models.embedded import EMBEDDED_NAME
    from diptych.wire.kv import encode_format, panels

    if engine == "scripted":
        from diptych.engine.scripted import ScriptedEngine
        from diptych.models.scripted import scripted_text

        config, path, name, loaded = scripted_text("scripted").config, "", "scripted", None
        kv_format = ScriptedEngine(model=name, page_tokens=page_tokens).kv_format
    else:
        from diptych.models.resolve import load, locate

        found, name = locate(model or EMBEDDED_NAME)
        path, loaded = str(found.resolve()), load(model or EMBEDDED_NAME).model
        config = loaded.config
        kv_format = panels(
            model=loaded.fingerprint,
            layers=config.layers,
            kv_heads=config.kv_heads,
            head_dim=config.head_dim,
            page_tokens=page_tokens,
        )
    source = ModelSource(
        name=name,
        path=path,
        fingerprint=kv_format.model,
        context_max=config.context_max,
        page_bytes=kv_format.page_bytes,
        kv_format=encode_format(kv_format),
        config=msgspec.msgpack.encode(config),
    )
    return source, loaded


def _measured(
    plan: WorkerPlan,
    source: ModelSource,
    loaded: Model | None,
    grid: Grid,
    door: MeasuredDoor,
    name: str,
    note: Callable[[str], None],
) -> tuple[Costs, float]:
    """What its steps cost on its core, and how many times as long they take beside other engines."""
    from diptych.sim.costs.neighbours import slowdown
    from diptych.sim.costs.profiling import Bench

    engine = _engine(plan, source, loaded)
    allowed = os.sched_getaffinity(0)
    try:
        if plan.core is not None:
            os.sched_setaffinity(0, {plan.core})
        bench = Bench(engine, grid, door)
        costs = bench.measure(lambda what: note(f"{name}: {what}"))
        os.sched_setaffinity(0, allowed)
        if plan.engine != "native":
            return costs, 1.0
        note(f"{name}: beside others")
        return costs, slowdown(bench, sorted(allowed))
    finally:
        os.sched_setaffinity(0, allowed)
        engine.close()


def _engine(plan: WorkerPlan, source: ModelSource, loaded: Model | None) -> Engine:
    """As a worker process builds it, with the weights of its own format only."""
    from diptych.live.engines import build_engine
    from diptych.live.launch import WorkerLaunch

    weights: Mapping[str, memoryview] = {}
    if plan.engine == "native":
        from diptych.engine.native.packing import pack, packed_bytes
        from diptych.transport.shared_memory import copy_in_huge_pages

        assert loaded is not None
        memory = memoryview(mmap.mmap(-1, packed_bytes(loaded.config, plan.format)))
        pack(loaded, plan.format, memory)
        weights = {plan.format: copy_in_huge_pages(memory) or memory}
    launch = WorkerLaunch(
        worker=f"{plan.name}@1",
        host="host-0",
        role=plan.role,
        engine=plan.engine,
        format=plan.format,
        formats=(plan.format,),
        options=plan.options,
        model=source,
        weights=tuple(weights),
        pool_pages=0,
        page_tokens=_page_tokens(source),
        lease_ns=0,
        core=None,
    )
    return build_engine(launch, weights)


def _page_tokens(source: ModelSource) -> int:

    from diptych.wire.kv import decode_format

    return decode_format(source.kv_format).page_tokens


def _cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()} ({len(os.sched_getaffinity(0))} cores)"
