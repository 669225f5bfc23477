"""The document of `diptych status --json`, and what doors are told of the fleet by themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from diptych.core.control.status import ControlStatus, WorkerStatus
from diptych.core.ids import incarnation, worker_epoch, worker_name
from diptych.live.fleet_state import FleetState
from diptych.live.launch import ProcessStarted

READY = "ready"


def status_document(status: ControlStatus, processes: Mapping[str, ProcessStarted]) -> dict[str, Any]:
    """Workers as control knows them, joined with their processes as the supervisor told them; one that
    was started and has not joined is `loading`."""
    joined = {incarnation(worker.name, worker.epoch): worker for worker in status.workers}
    workers = [_worker(worker, processes.get(name)) for name, worker in joined.items()]
    workers += [_loading(process) for name, process in processes.items() if name not in joined]
    return {
        "workers": sorted(workers, key=lambda worker: str(worker["name"])),
        "requests": {
            "queued": status.queued,
            "prefilling": status.prefilling,
            "transferring": status.transferring,
            "decoding": status.decoding,
        },
        "models": list(status.models),
        "control": READY,
    }


def fleet_state(status: ControlStatus, planned: Sequence[str]) -> FleetState:
    """Whether anybody serves, and whether all of `planned` (worker names) do."""
    ready = {worker.name for worker in status.workers if worker.state == READY}
    return FleetState(ready=bool(ready), complete=bool(planned) and ready.issuperset(planned))


def _worker(worker: WorkerStatus, process: ProcessStarted | None) -> dict[str, Any]:
    pages = (worker.pages_free, worker.pages_held, worker.pages_cached)
    return {
        "name": worker.name,
        "role": worker.role,
        "engine": worker.engine,
        "format": worker.format,
        "pid": process.pid if process else None,
        "state": worker.state,
        "epoch": worker.epoch,
        "pages": dict(zip(("free", "held", "cached"), pages, strict=True)) | {"total": sum(pages)},
        "streams": worker.streams,
        "pending_tokens": worker.pending_tokens,
        "prefill_us_per_token": worker.prefill_ns_per_token / 1e3,
        "decode_us_per_step": worker.decode_ns_per_step / 1e3,
    }


def _loading(process: ProcessStarted) -> dict[str, Any]:
    return {
        "name": worker_name(process.worker),
        "role": process.role,
        "engine": process.engine,
        "format": process.format,
        "pid": process.pid,
        "state": "loading",
        "epoch": worker_epoch(process.worker),
        "pages": {"free": 0, "held": 0, "cached": 0, "total": 0},
    }
