"""The worker process: an engine over the host's pool, driven by a `Worker` machine.

    event loop      facts from control, peers and the step loop -> Driver -> Worker -> actions
    engine thread   the step loop; its frames go to the doors' sockets directly

Nothing it knows outlives it: killed at any moment, what it sent is in its partners' sockets, and the
rest is theirs and control's to settle.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from pathlib import Path

from diptych.core.actions import (
    Action,
    CancelPull,
    CloseClaim,
    DropRequest,
    EndRun,
    OpenClaim,
    PauseStream,
    PullPages,
    RunSteps,
    Send,
)
from diptych.core.config import WorkerConfig
from diptych.core.facts import (
    ControlJoined,
    ControlLost,
    Fact,
    PrefillRequested,
    RecipeFixed,
    RequestReleased,
    StepsRan,
    TargetRefused,
    TargetRequested,
)
from diptych.core.ids import CONTROL, incarnation
from diptych.core.worker import Worker
from diptych.engine.interface import Engine
from diptych.live.driver import Driver
from diptych.live.engines import build_engine, first_rates, worker_config
from diptych.live.host_link import HostLink, send_packet
from diptych.live.launch import (
    Connected,
    ConnectionCut,
    HostMessage,
    Served,
    StartFailed,
    StopAsked,
    WorkerLaunch,
)
from diptych.live.log_file import Origin, Recorder
from diptych.live.page_port import PagePort
from diptych.live.peers import REPLACED, Peers
from diptych.live.process import run_child
from diptych.live.sockets import Connection
from diptych.live.steploop.loop import StepLoop
from diptych.live.steploop.stepper import Stepper
from diptych.live.token_table import TokenTable
from diptych.models.errors import ModelError
from diptych.transport.interface import Region, Transport
from diptych.transport.shared_memory import copy_in_huge_pages, map_pool, map_read_only
from diptych.wire.messages import Message, Told

log = logging.getLogger(__name__)

EXIT_ENGINE_FAILED = 71
SWITCH_INTERVAL_S = 0.0005
"""How long the event loop may keep the interpreter from an engine thread that has a token to deliver."""


class WorkerProcess:
    """One incarnation of one worker, from a built engine to its end."""

    def __init__(
        self,
        config: WorkerConfig,
        engine: Engine,
        tokens: TokenTable,
        end: socket.socket,
        record_folder: Path | None,
        transport: Transport | None = None,
    ) -> None:
        self.stopped: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._loop = asyncio.get_running_loop()
        recorder = Recorder(record_folder, "worker", config.worker, config) if record_folder else None
        self._driver = Driver(Worker(config), self._perform, recorder=recorder)
        self._pages = PagePort(transport, self._driver.feed) if transport is not None else None
        self._control_epoch = 0
        self._peers = Peers(self._from_peer, self._peer_closed)
        self._steps = StepLoop(
            Stepper(engine, lambda token: tokens.token_bytes(token) if token < len(tokens) else b""),
            self._connection,
            self._post,
            self._engine_failed,
            page_tokens=config.page_tokens,
            context_tokens_max=config.context_tokens_max,
        )
        self._steps.start()
        self._driver.start()
        self._link = HostLink(end, self._from_host, lambda: os._exit(1))
        self._link.send(Served())

    def close(self) -> None:
        """Ends the step loop behind the step in hand."""
        self._steps.stop()
        if self._pages is not None:
            self._pages.close()
        self._driver.close()

    # ---- what comes in ------------------------------------------------------------------------

    def _from_host(self, message: HostMessage | Fact, descriptors: list[int]) -> None:
        match message:
            case Connected(peer=peer, epoch=epoch):
                self._peers.adopt(peer, descriptors[0])
                if peer == CONTROL:
                    self._control_epoch = epoch
                    self._driver.feed(ControlJoined(epoch=epoch))
            case StopAsked():
                self.stop()
            case _:
                raise ValueError(f"the supervisor sent a worker {message}")

    def _from_peer(self, peer: str, message: Message) -> None:
        match message:
            case Told(fact=fact, attachment=attachment, number=number):
                sender = incarnation(CONTROL, self._control_epoch) if peer == CONTROL else peer
                if self._pages is not None:
                    self._pages.heard(sender, fact, attachment)
                self._feed(fact, attachment, Origin(sender, number))
            case _:
                raise ValueError(f"{peer} sent a worker {message}")

    def _feed(self, fact: Fact, attachment: bytes, origin: Origin) -> None:
        """The step loop hears of a request before the machine can ask it to run."""
        match fact:
            case TargetRequested() | PrefillRequested():
                self._steps.announce(fact, attachment)
            case RecipeFixed():
                self._steps.fix_recipe(fact)
            case RequestReleased(request=request, attempt=attempt):
                self._steps.forget(request, attempt)
            case _:
                pass
        self._driver.feed(fact, origin)

    def _peer_closed(self, peer: str, why: str) -> None:
        """Of partners other than control, control tells what became of them; that it can, where they
        live and only the socket broke, the supervisor must hear of it."""
        if peer == CONTROL:
            self._driver.feed(ControlLost())
        elif why != REPLACED:
            self._link.send(ConnectionCut(peer=peer))
            if self._pages is not None:
                self._pages.forget(peer)

    def _post(self, fact: StepsRan) -> None:
        self._loop.call_soon_threadsafe(self._driver.feed, fact)

    def _engine_failed(self, error: Exception) -> None:
        """From the engine's thread. What it computed can no longer be trusted: a fresh process can."""
        log.critical("the engine failed, this worker ends: %s", error, exc_info=error)
        logging.shutdown()
        os._exit(EXIT_ENGINE_FAILED)

    def stop(self) -> None:
        if not self.stopped.done():
            self.stopped.set_result(0)

    # ---- what goes out ------------------------------------------------------------------------

    def _perform(self, action: Action) -> None:
        match action:
            case Send(to=to, fact=fact):
                if isinstance(fact, TargetRefused):
                    self._steps.forget(fact.request, fact.attempt)
                self._find(to)
                if self._pages is None:
                    self._peers.tell(to, fact)
                else:
                    self._peers.tell(to, fact, self._pages.attachment(fact))
                    self._pages.said(to, fact)
            case RunSteps() | EndRun() | DropRequest() | PauseStream():
                self._steps.perform(action)
            case OpenClaim() | CloseClaim() | PullPages() | CancelPull() if self._pages is not None:
                self._pages.perform(action)
            case _:
                raise ValueError(f"a worker asked for {action}")

    def _connection(self, name: str) -> Connection | None:
        """None for the dead."""
        self._find(name)
        return self._peers.connection(name)

    def _find(self, name: str) -> None:
        """Control may name a partner before this process has read the supervisor's packet with the socket
        to it: that one is looked for first."""
        if self._peers.connection(name) is None and name != CONTROL:
            self._link.drain()


def _start(
    launch: WorkerLaunch, descriptors: list[int]
) -> tuple[WorkerConfig, Engine, TokenTable, Transport | None]:
    """Maps what the supervisor handed over and builds the engine on it. Raises as `build_engine` does, and
    `OSError` where pages cannot be served."""
    pool_descriptor, table_descriptor, *weight_descriptors = descriptors
    pool = map_pool(pool_descriptor, launch.pool_pages * launch.model.page_bytes)
    tokens = TokenTable(table_descriptor)
    weights = {
        name: map_read_only(descriptor)
        for name, descriptor in zip(launch.weights, weight_descriptors, strict=True)
    }
    for descriptor in descriptors:
        os.close(descriptor)
    # What this worker computes with all day; the other formats stay shared for the day of need.
    preferred = weights.get(launch.format)
    if preferred is not None:
        weights[launch.format] = copy_in_huge_pages(preferred) or preferred
    engine = build_engine(launch, weights)
    rates = first_rates(engine)
    engine.attach_pool(pool.memory, launch.pool_pages)
    log.info(
        "%s: %s %s, %.2f ms a prompt token, %.2f ms a step, huge pages: %s",
        launch.worker,
        launch.engine,
        launch.format,
        rates.prefill_ns_per_token / 1e6,
        rates.decode_ns_per_step / 1e6,
        pool.huge_pages,
    )
    transport = _transport(launch, engine, pool.memory) if launch.exchange is not None else None
    return worker_config(launch, engine, rates), engine, tokens, transport


def _transport(launch: WorkerLaunch, engine: Engine, pool: memoryview) -> Transport:
    # A worker that exchanges nothing neither loads nor waits for what that takes.
    from diptych.live.hosts.security import client_context, server_context
    from diptych.transport.pairing import announcement_of, pairing_with
    from diptych.transport.tcp import ReaderOptions, TcpTransport

    exchange = launch.exchange
    assert exchange is not None
    kv_format = engine.kv_format
    options = ReaderOptions(
        launch.worker,
        exchange.key,
        announcement_of(kv_format),
        checksums=exchange.checksums,
        streams=exchange.streams,
        tls=client_context(Path(exchange.certs), exchange.certificate) if exchange.certs else None,
    )
    region = Region(pool, kv_format.page_bytes)
    return TcpTransport(
        region,
        options,
        pairing_with(kv_format),
        address=exchange.address,
        serve_tls=server_context(Path(exchange.certs), exchange.certificate) if exchange.certs else None,
    )


async def main(end: socket.socket, first: HostMessage | Fact, descriptors: list[int]) -> int:
    assert isinstance(first, WorkerLaunch)
    if first.core is not None:
        os.sched_setaffinity(0, {first.core})
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        config, engine, tokens, transport = _start(first, descriptors)
    except (ModelError, ValueError, OSError, ImportError) as error:
        send_packet(end, StartFailed(reason=f"{first.worker}: {error}"))
        return 1
    record_folder = Path(first.record_folder) if first.record_folder else None
    worker = WorkerProcess(config, engine, tokens, end, record_folder, transport)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
    # What was built so far stays: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    code = await worker.stopped
    worker.close()
    engine.close()
    return code


if __name__ == "__main__":
    run_child(main)
