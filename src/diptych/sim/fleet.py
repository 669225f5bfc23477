"""From a fleet file and a cost file to what the simulator runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from diptych.core.config import SECOND_NS, ControlConfig
from diptych.live.fleet_file import (
    FleetError,
    FleetFile,
    WorkerGroup,
    default_groups,
    parse_group,
    plan_workers,
    read_fleet_file,
)
from diptych.live.fleet_file import WorkerPlan as LiveWorker
from diptych.sim.costs.file import ANY_WORKER, CostFile
from diptych.sim.costs.model import PS_PER_NS, BadCosts, ConstantCosts, StepCosts
from diptych.sim.scenario import MILLISECOND_NS, Scenario, WorkerPlan
from diptych.sim.timed.plan import Plan

MEBIBYTE = 1 << 20
PAGES_DEFAULT = 4096
MODEL = "model"
LEASE_S = 3.0


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What `serve` fixes or finds out from the model, as options of a simulation."""

    page_tokens: int = 16
    pages: int | None = None
    """Of each worker; None: the file's `pool_mib` by shares, else `PAGES_DEFAULT`."""
    chunk_tokens: int = 512
    mixed_chunk_tokens: int = 64
    quantum_tokens: int = 32
    running_max: int = 64
    queue_max: int = 256
    context_tokens_max: int = 1 << 20

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if value is not None and not 1 <= value <= 1 << 40:
                raise FleetError(f"--{name.replace('_', '-')}: {value}; 1 to {1 << 40}")


def read_groups(
    path: Path | None, prefill: Sequence[str], decode: Sequence[str]
) -> tuple[FleetFile, tuple[WorkerGroup, ...]]:
    """Workers of the file, or of the short forms, or the default pair. Raises as `read_fleet_file`."""
    file = FleetFile() if path is None else read_fleet_file(path)
    given = [parse_group(text, "prefill") for text in prefill]
    given += [parse_group(text, "decode") for text in decode]
    if file.worker and given:
        raise FleetError("the fleet file names the workers: no --prefill or --decode then")
    return file, file.worker or tuple(given) or default_groups(aggregated=False, engine="scripted")


def default_costs(groups: Sequence[WorkerGroup]) -> CostFile:
    """What scripted workers declare; for others round figures of no machine in particular."""
    if all(group.engine == "scripted" for group in groups) and any(group.options for group in groups):
        return CostFile(workers={}, about={"scripted": "as the fleet file declares"})
    costs = ConstantCosts(
        step_ns=4 * MILLISECOND_NS, prompt_token_ns=MILLISECOND_NS // 10, decode_row_ns=MILLISECOND_NS // 5
    )
    words = "4 ms a step, 0.1 ms a prompt token, 0.2 ms a sequence (diptych profile measures this machine)"
    return CostFile(workers={ANY_WORKER: costs}, about={"invented": words})


def plan_fleet(file: FleetFile, groups: Sequence[WorkerGroup], costs: CostFile, limits: Limits) -> Plan:
    """Raises `FleetError` and `BadCosts` naming the field."""
    live = plan_workers(groups, range(costs.host.cores))
    if costs.page_tokens != limits.page_tokens and costs.page_bytes:
        page_bytes = costs.page_bytes * limits.page_tokens // costs.page_tokens
    else:
        page_bytes = costs.page_bytes
    pages = _pages(file, live, page_bytes, limits)
    found = {worker.name: _costs(worker, costs) for worker in live}
    formats = tuple(dict.fromkeys(worker.format for worker in live))
    lease_ns = round((file.lease_s if file.lease_s is not None else LEASE_S) * SECOND_NS)
    scenario = Scenario(
        workers=tuple(
            _worker(worker, formats, own, found[worker.name], limits)
            for worker, own in zip(live, pages, strict=True)
        ),
        requests=(),
        control=ControlConfig(lease_ns=lease_ns, queue_max=limits.queue_max),
        page_tokens=limits.page_tokens,
        latency_ns=costs.link.latency_ns,
        beat_ns=lease_ns // 3,
    )
    return Plan(
        scenario=scenario,
        costs=found,
        link=costs.link,
        host=costs.host,
        cores={worker.name: _core(worker) for worker in live},
        page_bytes=page_bytes,
    )


def _core(worker: LiveWorker) -> int | None:
    """Where it computes; None for one that sleeps, or computes elsewhere (an accelerator)."""
    return worker.core if worker.options.get("device", "cpu") == "cpu" else None


def _costs(worker: LiveWorker, costs: CostFile) -> StepCosts:
    """A scripted worker's own declaration comes before the cost file, unless that has measured it; in a
    fleet of which others declare something it costs nothing, as live."""
    measured = costs.named(worker.name, worker.engine, worker.format)
    if measured is not None:
        return measured
    if worker.engine == "scripted" and (worker.options or not costs.workers):
        known = ConstantCosts.__struct_fields__
        return ConstantCosts(**{name: int(worker.options[name]) for name in known if name in worker.options})
    return costs.of(worker.name, worker.engine, worker.format)


def _pages(file: FleetFile, live: Sequence[LiveWorker], page_bytes: int, limits: Limits) -> list[int]:
    if limits.pages is not None:
        return [limits.pages] * len(live)
    if file.pool_mib is None or not page_bytes:
        return [PAGES_DEFAULT] * len(live)
    total = sum(worker.share for worker in live)
    pages = [file.pool_mib * MEBIBYTE // page_bytes * worker.share // total for worker in live]
    if min(pages) < 1:
        raise FleetError(f"pool_mib: {file.pool_mib} MiB hold no page of {page_bytes} bytes for every worker")
    return pages


def _worker(
    worker: LiveWorker, formats: tuple[str, ...], pages: int, costs: StepCosts, limits: Limits
) -> WorkerPlan:
    """Numerics are formats: every worker can compute those of the whole fleet, its own first, as the
    native engine does. First guesses of its rates are measured as `live/engines.py` does it."""
    probe = 32
    prefill_ps = costs.prompt_ps([(0, probe)])
    base, slope = costs.decode_line(1)
    if prefill_ps < 0 or base < 0:
        raise BadCosts(f"{worker.name}: a step costs less than nothing")
    return WorkerPlan(
        name=worker.name,
        role=worker.role,
        numerics=(worker.format, *(name for name in formats if name != worker.format)),
        models=(MODEL,),
        pages=pages,
        load_ns=MILLISECOND_NS,
        prefill_ns_per_token=max(1, prefill_ps // probe // PS_PER_NS),
        decode_ns_per_step=max(1, (base + slope * (probe + 1)) // PS_PER_NS),
        quantum_tokens=limits.quantum_tokens,
        chunk_tokens=limits.chunk_tokens,
        mixed_chunk_tokens=limits.mixed_chunk_tokens,
        running_max=limits.running_max,
        context_tokens_max=limits.context_tokens_max,
    )
