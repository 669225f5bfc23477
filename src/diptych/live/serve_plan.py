"""What one `diptych serve` runs, as a value: checked at the edge, read by the supervisor."""

from __future__ import annotations

import msgspec

from diptych.core.config import SECOND_NS, ControlConfig
from diptych.live.fleet_file import WorkerPlan
from diptych.live.launch import ExchangeLaunch


class ListenPlan(msgspec.Struct, frozen=True, kw_only=True):
    """How a fleet takes other hosts in."""

    address: str
    port: int
    token: bytes
    certs: str | None = None
    """Folder with the fleet's certificates; None on the loopback only."""


class ServePlan(msgspec.Struct, frozen=True, kw_only=True):
    model: str
    workers: tuple[WorkerPlan, ...]
    host: str = "host-0"
    """What this host is called in the fleet: its workers share a pool."""
    address: str = "127.0.0.1"
    port: int = 8000
    pool_bytes: int | None = None
    page_tokens: int = 16
    lease_ns: int = 3 * SECOND_NS
    grace_ns: int = 10 * SECOND_NS
    """How long open streams may go on after SIGTERM."""
    exact_wait_ns: int = ControlConfig().exact_wait_ns
    """How long a stream waits for the numerics of its recipe."""
    start_limit_ns: int = 60 * SECOND_NS
    """A worker that has not joined by then is killed and started anew."""
    exchange: ExchangeLaunch | None = None
    """How workers exchange pages with those of other hosts; None where there are none."""
    listen: ListenPlan | None = None
    """Where other hosts may join."""
    epochs_from: int = 0
    """Incarnations are numbered from here: an agent that joined anew names no worker of before again."""
    fingerprint: str | None = None
    """Of the weights that the fleet serves, where this host joins one."""
    records_path: str | None = None
    record_folder: str | None = None
    """Where the machines' steps are recorded, if anywhere."""

    @property
    def scripted(self) -> bool:
        return self.workers[0].engine == "scripted"
