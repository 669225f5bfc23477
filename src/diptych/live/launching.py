"""What each child is told at its start, from the plan and from what the packer found. Pure."""

from __future__ import annotations

from diptych.core.config import ControlConfig
from diptych.core.facts import HostStated, WorkerSpawned
from diptych.core.ids import Incarnation, worker_name
from diptych.live.fleet_file import WorkerPlan
from diptych.live.launch import ControlLaunch, DoorLaunch, Packed, ProcessStarted, WorkerLaunch
from diptych.live.serve_plan import ServePlan


def control_launch(plan: ServePlan, epoch: int) -> ControlLaunch:
    config = ControlConfig(
        epoch=epoch,
        lease_ns=plan.lease_ns,
        # One patience for both: who waits longer for words waits longer for deeds.
        overrun_ns=plan.lease_ns,
        exact_wait_ns=plan.exact_wait_ns,
    )
    return ControlLaunch(config=config, host=plan.host, record_folder=plan.record_folder)


def host_stated(plan: ServePlan, pool_pages: int, workers: tuple[Incarnation, ...]) -> HostStated:
    return HostStated(host=plan.host, pool_pages=pool_pages, workers=workers, shares=shares(plan, pool_pages))


def shares(plan: ServePlan, pool_pages: int) -> tuple[tuple[str, int], ...]:
    """Pages for each worker by the weights of the plan; they add up to the pool."""
    total = sum(worker.share for worker in plan.workers)
    result = []
    taken = weight = 0
    for worker in plan.workers:
        weight += worker.share
        end = pool_pages * weight // total
        result.append((worker.name, end - taken))
        taken = end
    return tuple(result)


def door_launch(plan: ServePlan, packed: Packed, pool_pages: int, door: Incarnation, port: int) -> DoorLaunch:
    return DoorLaunch(
        door=door,
        address=plan.address,
        port=port,
        model=packed.model,
        pool_pages=pool_pages,
        page_tokens=plan.page_tokens,
        scripted=plan.scripted,
        records_path=plan.records_path,
        grace_ns=plan.grace_ns,
    )


def worker_launch(plan: ServePlan, packed: Packed, pool_pages: int, worker: Incarnation) -> WorkerLaunch:
    own = _plan_of(plan, worker)
    return WorkerLaunch(
        worker=worker,
        host=plan.host,
        role=own.role,
        engine=own.engine,
        format=own.format,
        formats=tuple(dict.fromkeys(other.format for other in plan.workers if other.engine == own.engine)),
        options=own.options,
        model=packed.model,
        weights=packed.weights,
        pool_pages=pool_pages,
        page_tokens=plan.page_tokens,
        lease_ns=plan.lease_ns,
        core=own.core,
        record_folder=plan.record_folder,
        exchange=plan.exchange,
    )


def worker_spawned(plan: ServePlan, worker: Incarnation) -> WorkerSpawned:
    return WorkerSpawned(worker=worker, host=plan.host, limit_ns=plan.start_limit_ns)


def process_started(plan: ServePlan, worker: Incarnation, pid: int) -> ProcessStarted:
    own = _plan_of(plan, worker)
    return ProcessStarted(worker=worker, pid=pid, role=own.role, engine=own.engine, format=own.format)


def _plan_of(plan: ServePlan, worker: Incarnation) -> WorkerPlan:
    return next(own for own in plan.workers if own.name == worker_name(worker))
