"""The host's agent: it starts, kills, reaps, fences and restarts processes, and decides nothing else.

    supervisor ──host link──> packer (ends when the weights lie in memfds)
               ──host link──> control
               ──host link──> door-0@1
               ──host link──> prefill-0@1, decode-0@1, ...

Every stream socket between two children is a pair made here and handed to both, so nobody listens and
no file is left behind. A child that dies is known by its pidfd, reaped, told to control (`WorkerLost`:
nothing of that incarnation can happen any more) and started again after a pause that grows.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable

from diptych.core.config import SECOND_NS
from diptych.core.facts import ConnectionLost, Fact, WorkerLost
from diptych.core.ids import CONTROL, incarnation
from diptych.live.child import Child, connect
from diptych.live.hosts.hub import Hub, open_hub
from diptych.live.hosts.upstream import Upstream
from diptych.live.launch import (
    ConnectionCut,
    FenceAsked,
    HostMessage,
    PackAsked,
    Packed,
    ProcessStarted,
    Served,
    StartFailed,
    StopAsked,
)
from diptych.live.launching import (
    control_launch,
    door_launch,
    host_stated,
    process_started,
    worker_launch,
    worker_spawned,
)
from diptych.live.pool import create_pool, pool_pages
from diptych.live.serve_plan import ServePlan
from diptych.live.slot import Slot

START_FAILURES_MAX = 3  # So many deaths of one process before the fleet first served end the start.
RECONNECT_S = 0.05
"""A dying process may lose its sockets this long before it can be reaped."""
CUT_S = 2.0  # How long a child may take to end after it was asked to, beyond the grace.
DOOR = "door-0"


class Supervisor:
    """Runs a plan to its end. `tell` gets lines for people; `served` is called when the fleet serves."""

    def __init__(
        self,
        plan: ServePlan,
        tell: Callable[[str], None],
        served: Callable[[str, int], None],
        upstream: Upstream | None = None,
    ) -> None:
        """With `upstream` this is the agent of a host that has joined a fleet: workers only."""
        self._plan = plan
        self._upstream = upstream
        self._hub: Hub | None = None
        self._tell = tell
        self._on_served = served
        self._control = Slot(CONTROL, "diptych.live.control")
        self._door = Slot(DOOR, "diptych.live.door")
        self._workers = {
            worker.name: Slot(worker.name, "diptych.live.worker", worker.core) for worker in plan.workers
        }
        self._given_up: set[str] = set()
        """Workers that live and that a connection broke off from; control has them killed."""
        self._packer: Child | None = None
        self._packed: Packed | None = None
        self._memory: list[int] = []  # Descriptors of token table and weights.
        self._pool = -1
        self._pool_pages = 0
        # Once a door has listened, its successors listen there too, also where any port would do.
        self._port = plan.port
        self._serving = False
        self._stopping = False
        self._code = 0
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = self._loop.create_future()

    async def run(self) -> int:
        """Serves until a signal or a failed start; returns the exit code when every child is reaped."""
        for number in (signal.SIGINT, signal.SIGTERM):
            self._loop.add_signal_handler(number, self._signalled)
        self._loop.set_exception_handler(self._broken)
        plan = self._plan
        formats = sorted({worker.format for worker in plan.workers if worker.engine == "native"})
        engines = sorted({worker.engine for worker in plan.workers})
        self._packer = Child(
            "diptych.live.packer", "packer", received=self._received, reaped=self._packer_reaped
        )
        asked = PackAsked(
            model=plan.model, engines=tuple(engines), formats=tuple(formats), page_tokens=plan.page_tokens
        )
        self._packer.link.send(asked)
        # They import while the packer packs, and wait for their launch messages.
        for slot in self._slots():
            self._spawn(slot)
        try:
            return await self._ended
        finally:
            if self._hub is not None:
                self._hub.close()
            for descriptor in (*self._memory, self._pool):
                if descriptor >= 0:
                    os.close(descriptor)

    # ---- starting -----------------------------------------------------------------------------

    def _packer_reaped(self, child: Child, code: int) -> None:
        self._packer = None
        if self._stopping:
            self._finish_if_alone()
        elif self._packed is None:
            self._fail(child.failure or f"the packer died (exit code {code})")
        else:
            self._start_fleet(self._packed)

    def _start_fleet(self, packed: Packed) -> None:
        wanted = self._plan.fingerprint
        if wanted is not None and packed.model.fingerprint != wanted:
            self._fail(f"model: {packed.model.name} has other weights here than the fleet's")
            return
        try:
            self._pool_pages = pool_pages(packed.model.page_bytes, self._plan.pool_bytes)
            self._pool = create_pool(self._pool_pages * packed.model.page_bytes)
        except (ValueError, OSError) as error:
            self._fail(f"pool: {error}")
            return
        self._tell(
            f"pool: {self._pool_pages} pages of {packed.model.page_bytes} bytes; "
            f"{packed.model.name} packed in {packed.seconds:.1f} s"
        )
        if self._upstream is not None:
            self.state()
        elif self._plan.listen is not None:
            self._hub = open_hub(self._plan, packed, self, self._tell, self._fail)
        for slot in self._slots():
            self._launch(slot)

    def _restart(self, slot: Slot) -> None:
        slot.restart = None
        self._spawn(slot)
        self._launch(slot)

    def _spawn(self, slot: Slot) -> None:
        slot.epoch = max(slot.epoch, self._plan.epochs_from) + 1
        identity = CONTROL if slot is self._control else incarnation(slot.name, slot.epoch)
        child = Child(slot.module, identity, received=self._received, reaped=self._reaped, core=slot.core)
        slot.child = child
        self._tell(f"{identity}: started, pid {child.pid}{slot.place}")

    def _launch(self, slot: Slot) -> None:
        """Says to a child what it is and connects it with the partners that were launched before it."""
        child = slot.child
        assert child is not None
        child.launched = True
        if slot is self._control:
            self._launch_control(child)
        elif slot is self._door:
            self._launch_door(child)
        else:
            self._launch_worker(child)
        if self._hub is not None:
            self._hub.launched(child)

    def _launch_control(self, child: Child) -> None:
        child.link.send(control_launch(self._plan, self._control.epoch))
        workers = self._live_workers()
        identities = tuple(worker.identity for worker in workers)
        child.link.send(host_stated(self._plan, self._pool_pages, identities))
        for worker in workers:
            if not worker.served:
                child.link.send(worker_spawned(self._plan, worker.identity))
            child.link.send(process_started(self._plan, worker.identity, worker.pid))
            connect(worker, child, self._control.epoch)
            if worker.identity in self._given_up:
                child.link.send(ConnectionLost(peer=worker.identity))
        door = self._door.live
        if door is not None:
            connect(door, child, self._control.epoch)

    def _launch_door(self, child: Child) -> None:
        assert self._packed is not None
        launch = door_launch(self._plan, self._packed, self._pool_pages, child.identity, self._port)
        child.link.send(launch)
        for worker in self._live_workers():
            connect(worker, child, self._control.epoch)
        control = self._control.live
        if control is not None:
            connect(child, control, self._control.epoch)

    def _launch_worker(self, child: Child) -> None:
        assert self._packed is not None
        launch = worker_launch(self._plan, self._packed, self._pool_pages, child.identity)
        child.link.send(launch, (self._pool, *self._memory))
        # Peers and doors first: once control knows of the worker, either may be named to it.
        for other in self._live_workers():
            if other is not child:
                connect(other, child, self._control.epoch)
        if self._upstream is not None:
            self._upstream.launched(child)
        door, control = self._door.live, self._control.live
        if door is not None:
            connect(door, child, self._control.epoch)
        if control is not None:
            control.link.send(worker_spawned(self._plan, child.identity))
            control.link.send(process_started(self._plan, child.identity, child.pid))
            connect(child, control, self._control.epoch)

    # ---- running ------------------------------------------------------------------------------

    def _received(self, child: Child, message: HostMessage | Fact, descriptors: list[int]) -> None:
        match message:
            case Packed():
                self._packed = message
                self._memory = descriptors
            case Served(address=address, port=port):
                self._served(child, address, port)
            case StartFailed(reason=reason):
                child.failure = reason
            case FenceAsked(worker=worker, why=why):
                self.fence(worker, why)
            case ConnectionCut(peer=peer):
                self._cut(child, peer)
            case _:
                raise AssertionError(f"{child.identity} sent {message}")

    def _served(self, child: Child, address: str, port: int) -> None:
        child.served = True
        if child is self._door.child:
            self._port = port
        if not self._serving and (child is self._door.child or self._upstream is not None):
            self._serving = True
            self._on_served(address, port)

    def fence(self, worker: str, why: str) -> None:
        """As control asks: `WorkerLost` follows when the worker is reaped."""
        for slot in self._workers.values():
            if slot.child is not None and slot.child.identity == worker:
                self._tell(f"{worker}: killed ({why})")
                slot.child.kill()
                return
        if self._hub is None or not self._hub.fence(worker, why):
            # Reaped already, perhaps before this control plane could be told.
            self.tell_control(WorkerLost(worker=worker))

    def _cut(self, child: Child, peer: str) -> None:
        """A socket between two children ended. Where the peer died, its reaping says all. Where it lives,
        what lay in the socket is lost: a worker is given up for that, as control gives up one whose own
        socket closes; a door and control get a new one, over which the door tells all that is open."""
        other = next((slot.live for slot in self._slots() if slot.live and slot.live.identity == peer), None)
        if self._stopping or (other is None and (self._hub is None or not self._hub.knows(peer))):
            return
        if other is not None and other is self._control.live:
            self._loop.call_later(RECONNECT_S, self._reconnect, child, other)
        elif (other is None or other is not self._door.live) and not {child.identity, peer} & self._given_up:
            # Both ends tell; one of the two is enough.
            self._given_up.add(peer)
            self.tell_control(ConnectionLost(peer=peer))

    def _reconnect(self, door: Child, control: Child) -> None:
        if door.alive and control.alive and not self._stopping:
            connect(door, control, self._control.epoch)

    def _reaped(self, child: Child, code: int) -> None:
        slot = self._slot_of(child)
        slot.child = None
        self._given_up.discard(child.identity)
        if slot.name in self._workers:
            self.tell_control(WorkerLost(worker=child.identity))
        if self._stopping:
            self._go_on_stopping()
            return
        pause_s = slot.died(self._loop.time() - child.started_s)
        why = child.failure or (f"exit code {code}" if code >= 0 else signal.Signals(-code).name)
        if self._packed is None or (
            not self._serving and (child.failure or slot.failures >= START_FAILURES_MAX)
        ):
            self._fail(f"{child.identity}: {why}")
            return
        self._tell(f"{child.identity}: gone ({why}), starts again in {pause_s:.1f} s")
        slot.restart = self._loop.call_later(pause_s, self._restart, slot)

    def tell_control(self, message: Fact | ProcessStarted) -> None:
        if self._upstream is not None:
            self._upstream.tell(message)
        elif self._control.live is not None:
            self._control.live.link.send(message)

    # ---- for other hosts --------------------------------------------------------------------------

    def state(self) -> None:
        """Tells a control that knows nothing of this host what runs here, as soon as there is anything."""
        if self._upstream is None or not self._pool_pages:
            return
        workers = self._live_workers()
        names = tuple(worker.identity for worker in workers)
        self.tell_control(host_stated(self._plan, self._pool_pages, names))
        for worker in workers:
            if not worker.served:
                self.tell_control(worker_spawned(self._plan, worker.identity))
            self.tell_control(process_started(self._plan, worker.identity, worker.pid))

    def local_children(self) -> list[Child]:
        return [slot.live for slot in self._slots() if slot.live is not None]

    @property
    def control_epoch(self) -> int:
        return self._control.epoch

    def abandon(self) -> None:
        """Ends without grace; `run` returns when every child is reaped."""
        self._stopping = True
        self._kill_all()

    def _slot_of(self, child: Child) -> Slot:
        return next(slot for slot in self._slots() if slot.child is child)

    def _slots(self) -> tuple[Slot, ...]:
        workers = tuple(self._workers.values())
        return workers if self._upstream is not None else (self._control, self._door, *workers)

    def _live_workers(self) -> list[Child]:
        return [slot.live for slot in self._workers.values() if slot.live is not None]

    # ---- ending -------------------------------------------------------------------------------

    def _signalled(self) -> None:
        if self._stopping or not self._serving:
            self._stopping = True
            self._kill_all()
        else:
            self._stop()

    def _stop(self) -> None:
        self._stopping = True
        for slot in self._slots():
            if slot.restart is not None:
                slot.restart.cancel()
        grace_ns = self._plan.grace_ns
        self._tell(f"stopping: open streams have {grace_ns / SECOND_NS:g} s; interrupt again to end at once")
        if self._door.child is None:
            self._stop_rest()
            return
        self._door.child.link.send(StopAsked())
        self._loop.call_later(grace_ns / SECOND_NS + CUT_S, self._door.child.kill)

    def _go_on_stopping(self) -> None:
        if self._door.child is None:
            self._stop_rest()
        self._finish_if_alone()

    def _stop_rest(self) -> None:
        for slot in self._slots():
            if slot.child is not None:
                slot.child.link.send(StopAsked())
                self._loop.call_later(CUT_S, slot.child.kill)
        self._finish_if_alone()

    def _fail(self, why: str) -> None:
        self._tell(f"failed: {why}")
        self._code = 1
        self._stopping = True
        self._kill_all()

    def _kill_all(self) -> None:
        for slot in self._slots():
            if slot.restart is not None:
                slot.restart.cancel()
            if slot.child is not None:
                slot.child.kill()
        if self._packer is not None:
            self._packer.kill()
        self._finish_if_alone()

    def _finish_if_alone(self) -> None:
        alone = self._packer is None and all(slot.child is None for slot in self._slots())
        if alone and not self._ended.done():
            self._ended.set_result(self._code)

    def _broken(self, loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        """A callback raised: our bug. Nothing half-run stays behind."""
        loop.default_exception_handler(context)
        with contextlib.suppress(ProcessLookupError):
            self._fail(str(context.get("exception") or context["message"]))
