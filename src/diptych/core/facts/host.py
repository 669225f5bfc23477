"""What a host's supervisor tells control, and what a driver tells its own machine."""

from __future__ import annotations

from diptych.core.facts.base import Fact
from diptych.core.ids import Incarnation, RequestId


class WorkerSpawned(Fact, frozen=True):
    """A process was started; it must join within `limit_ns` (loading, compiling)."""

    worker: Incarnation
    host: str
    limit_ns: int


class WorkerLost(Fact, frozen=True):
    """The process is killed and reaped: nothing of this incarnation can happen any more."""

    worker: Incarnation


class HostStated(Fact, frozen=True):
    """What one host's agent runs: the pool it made and the workers alive in it."""

    host: str
    pool_pages: int
    workers: tuple[Incarnation, ...]
    shares: tuple[tuple[str, int], ...]
    """Pages meant for each worker name."""


class ConnectionLost(Fact, frozen=True):
    """The socket of a peer closed; whether its process is gone is not known yet."""

    peer: str


class DeadlinePassed(Fact, frozen=True):
    """The moment that `next_deadline_ns()` named has come. Drivers say it without a request; inside
    control it becomes a fact about the request whose own deadline it was."""

    request: RequestId | None = None


class DriverStalled(Fact, frozen=True):
    """The driver of this machine itself stood still for so long: leases move by that."""

    duration_ns: int


class ControlJoined(Fact, frozen=True):
    """A control plane (perhaps a new one) is there: introduce yourself again."""

    epoch: int


class ControlLost(Fact, frozen=True):
    pass
