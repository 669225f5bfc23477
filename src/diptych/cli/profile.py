"""`diptych profile`: measures this machine's engines and writes the cost file that `simulate` reads.

Exit codes: 0 ok, 1 an engine could not be built, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import mmap
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diptych.engine.interface import Engine
    from diptych.live.fleet_file import WorkerPlan
    from diptych.live.launch import ModelSource
    from diptych.models.weights import Model
    from diptych.sim.costs.file import Costs
    from diptych.sim.costs.profiling import Grid

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Measure the engines of a fleet on this machine, one core each: a prompt by tokens and context, a decode
step by sequences and context, a step of both, and what a handoff's messages take. Best done on an idle
machine."""

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
        plans = plan_workers(file.worker or groups or default_groups(aggregated=False), ())
        if not 1 <= arguments.page_tokens <= 1 << 16:
            raise FleetError(f"--page-tokens: {arguments.page_tokens}; 1 to {1 << 16}")
        if not arguments.out.absolute().parent.is_dir():
            raise FleetError(f"--out: {arguments.out.parent} is no folder")
    except (FleetError, OSError) as error:
        print(f"diptych profile: {error}", file=sys.stderr)
        return 2
    return _measure(arguments, plans, arguments.model or file.model)


def _measure(arguments: argparse.Namespace, plans: Sequence[WorkerPlan], model: str | None) -> int:
    from diptych.models.errors import ModelError
    from diptych.sim.costs.file import CostFile, write_costs
    from diptych.sim.costs.profiling import QUICK, Grid, measure_link

    # Before there are threads and models in this process: it forks.
    link = measure_link()
    found: dict[str, Costs] = {}
    try:
        source, loaded = _source(plans[0].engine, model, arguments.page_tokens)
        for plan in {f"{plan.engine}:{plan.format}": plan for plan in plans}.values():
            name = f"{plan.engine}:{plan.format}"
            found[name] = _measured(plan, source, loaded, QUICK if arguments.quick else Grid())
    except (ModelError, ValueError, ImportError, OSError) as error:
        print(f"diptych profile: {error}", file=sys.stderr)
        return 1
    about = {"measured on": _cpu(), "model": source.name, "system": f"{platform.system()}, one core"}
    costs = CostFile(
        workers=found,
        link=link,
        page_tokens=arguments.page_tokens,
        page_bytes=source.page_bytes,
        about=about,
    )
    write_costs(arguments.out, costs)
    print(f"{arguments.out}: costs of {', '.join(found)}; diptych simulate --costs {arguments.out}")
    return 0


def _source(engine: str, model: str | None, page_tokens: int) -> tuple[ModelSource, Model | None]:
    """What a worker's launch message says of the model, and its weights where engines need some."""
    import msgspec

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


def _measured(plan: WorkerPlan, source: ModelSource, loaded: Model | None, grid: Grid) -> Costs:
    from rich.console import Console

    from diptych.sim.costs.profiling import Bench

    engine = _engine(plan, source, loaded)
    name = f"{plan.engine}:{plan.format}"
    try:
        with Console(stderr=True).status(name) as status:
            return Bench(engine, grid).measure(lambda what: status.update(f"{name}: {what}"))
    finally:
        engine.close()


def _engine(plan: WorkerPlan, source: ModelSource, loaded: Model | None) -> Engine:
    """As a worker process builds it, with the weights of its own format only."""
    from diptych.live.engines import build_engine
    from diptych.live.launch import WorkerLaunch

    weights: Mapping[str, memoryview] = {}
    if plan.engine == "native":
        from diptych.engine.native.packing import pack, packed_bytes

        assert loaded is not None
        memory = memoryview(mmap.mmap(-1, packed_bytes(loaded.config, plan.format)))
        pack(loaded, plan.format, memory)
        weights = {plan.format: memory}
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
