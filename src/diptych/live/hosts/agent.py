"""The agent of a host that joins a fleet: dials the hub, runs the workers, and passes on what they say.

A connection that breaks is dialled again and the session goes on. Where the hub has given the session up,
every worker of this host is killed and reaped before the host joins anew: what the fleet believes of it,
that nothing of before is alive, is true by then.
"""

from __future__ import annotations

import asyncio
import hmac
import secrets
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec

from diptych.core.facts import Fact
from diptych.live.child import Child
from diptych.live.fleet_file import WorkerPlan
from diptych.live.hosts.link import HostSession, read_greeting, write_greeting
from diptych.live.hosts.relay import Channel, open_channel
from diptych.live.hosts.security import client_context, tune
from diptych.live.hosts.words import (
    NONCE_BYTES,
    VERSION,
    Challenge,
    ControlUp,
    Data,
    Fence,
    Hello,
    HostWord,
    Opened,
    Proof,
    Refused,
    Shut,
    Started,
    Stated,
    Welcome,
    WorkerUp,
    proof,
)
from diptych.live.launch import ExchangeLaunch, ProcessStarted
from diptych.live.launching import process_started, worker_spawned
from diptych.live.serve_plan import ServePlan
from diptych.live.supervisor import Supervisor
from diptych.wire.errors import WireError

__all__ = ["Agent", "AgentPlan", "JoinRefused"]

DIAL_S = 5.0
RETRY_FIRST_S = 0.1
RETRY_LAST_S = 2.0
EPOCHS_APART = 1000
"""Incarnations of one session; far more than a worker can be restarted in one."""


class JoinRefused(Exception):
    """The hub turned this host away for good; the text says why."""


class _SessionOver(Exception):
    """The hub has given this session up."""


class AgentPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What `diptych worker` was asked to do."""

    name: str
    hub_address: str
    hub_port: int
    token: bytes
    workers: tuple[WorkerPlan, ...]
    model: str | None = None
    """File or folder where this host has the fleet's model; None: by the fleet's name for it."""
    pool_bytes: int | None = None
    address: str = "127.0.0.1"
    """Where this host's workers serve pages."""
    certs: str | None = None
    checksums: bool = True
    kv_plain: bool = False
    """Pages go without TLS."""


class Agent:
    """Joins, serves, and joins again, until it is told to stop."""

    def __init__(self, plan: AgentPlan, tell: Callable[[str], None], served: Callable[[], None]) -> None:
        self._plan = plan
        self._tell = tell
        self._served = served
        self._tls = None if plan.certs is None else client_context(Path(plan.certs), plan.name)

    async def run(self) -> int:
        """The exit code. Raises `JoinRefused`. A hub that is not there (yet) is dialled until it is."""
        silent = False
        while True:
            try:
                reader, writer, welcome = await self._dial(0)
            except (OSError, TimeoutError, WireError, asyncio.IncompleteReadError) as error:
                if not silent:
                    self._tell(f"waiting for the fleet: {error or type(error).__name__}")
                silent = True
                await asyncio.sleep(RETRY_LAST_S)
                continue
            silent = False
            stay = _Stay(self._plan, welcome, self._tell, self._served, self._dial)
            code = await stay.run(reader, writer)
            if code is not None:
                return code
            self._tell("the fleet gave this host up: its workers are gone, it joins anew")

    async def _dial(self, session: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, Welcome]:
        """Raises `JoinRefused`, `_SessionOver`, and what connections raise."""
        plan = self._plan
        async with asyncio.timeout(DIAL_S):
            reader, writer = await asyncio.open_connection(
                plan.hub_address, plan.hub_port, ssl=self._tls, limit=1 << 20
            )
            tune(writer.get_extra_info("socket"))
            try:
                return reader, writer, await self._greet(reader, writer, session)
            except BaseException:
                writer.close()
                raise

    async def _greet(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, session: int
    ) -> Welcome:
        hello = Hello(VERSION, self._plan.name, secrets.token_bytes(NONCE_BYTES), session)
        write_greeting(writer, hello)
        challenge = await read_greeting(reader)
        if not isinstance(challenge, Challenge):
            raise WireError("the hub did not answer as one")
        expected = proof(self._plan.token, "hub", hello, challenge.nonce)
        if not hmac.compare_digest(challenge.proof, expected):
            raise JoinRefused("token: who listens there does not have this fleet's")
        answer = Proof(proof(self._plan.token, "agent", hello, challenge.nonce))
        write_greeting(writer, answer)
        welcome = await read_greeting(reader)
        if isinstance(welcome, Refused):
            raise _SessionOver if welcome.over else JoinRefused(welcome.reason)
        if not isinstance(welcome, Welcome):
            raise WireError("the hub did not welcome this host")
        return welcome


Dialled = tuple[asyncio.StreamReader, asyncio.StreamWriter, Welcome]
Dial = Callable[[int], Coroutine[Any, Any, Dialled]]


class _Stay:
    """One session: from a welcome until the hub, or a person, ends it."""

    def __init__(
        self,
        plan: AgentPlan,
        welcome: Welcome,
        tell: Callable[[str], None],
        served: Callable[[], None],
        dial: Dial,
    ) -> None:
        self._tell = tell
        self._welcome = welcome
        self._dial = dial
        self._session = HostSession("the hub", self._received, self._drained)
        self._channels: dict[int, Channel] = {}
        self._over = False
        self._serve = ServePlan(
            model=plan.model or welcome.model,
            workers=plan.workers,
            host=f"{plan.name}.{welcome.session}",
            pool_bytes=plan.pool_bytes,
            page_tokens=welcome.page_tokens,
            lease_ns=welcome.lease_ns,
            epochs_from=welcome.session * EPOCHS_APART,
            fingerprint=welcome.fingerprint,
            exchange=ExchangeLaunch(
                address=plan.address,
                key=welcome.kv_key,
                checksums=plan.checksums,
                certs=None if plan.kv_plain else plan.certs,
                certificate=plan.name,
            ),
        )
        self._supervisor = Supervisor(self._serve, tell, lambda address, port: served(), upstream=self)

    async def run(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> int | None:
        """The exit code, or None where the host should join anew."""
        link = asyncio.create_task(self._keep(reader, writer))
        try:
            code = await self._supervisor.run()
        finally:
            link.cancel()
            self._session.end()
            for channel in list(self._channels.values()):
                channel.close()
        return None if self._over else code

    async def _keep(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Carries the session over one connection after another."""
        while True:
            why = await self._session.carry(reader, writer)
            self._tell(f"the link to the hub: {why}; dialling again")
            pause_s = RETRY_FIRST_S
            while True:
                try:
                    reader, writer, _ = await self._dial(self._welcome.session)
                    break
                except (_SessionOver, JoinRefused):
                    self._over = True
                    self._supervisor.abandon()
                    return
                except (OSError, TimeoutError, WireError, asyncio.IncompleteReadError):
                    await asyncio.sleep(pause_s)
                    pause_s = min(RETRY_LAST_S, 2 * pause_s)

    # ---- what the supervisor tells ----------------------------------------------------------------

    def tell(self, message: Fact | ProcessStarted) -> None:
        if isinstance(message, ProcessStarted):
            started = Started(message.worker, message.pid, message.role, message.engine, message.format)
            self._session.send(started)
        else:
            self._session.send(Stated(message))

    def launched(self, child: Child) -> None:
        self.tell(worker_spawned(self._serve, child.identity))
        self.tell(process_started(self._serve, child.identity, child.pid))
        self._session.send(WorkerUp(child.identity))

    # ---- what the hub says ------------------------------------------------------------------------

    def _received(self, word: HostWord) -> None:
        match word:
            case Data(channel=number, data=data):
                channel = self._channels.get(number)
                if channel is not None:
                    channel.deliver(data)
            case Shut(channel=number):
                channel = self._channels.pop(number, None)
                if channel is not None:
                    channel.close()
            case Opened():
                self._open(word)
            case ControlUp():
                self._supervisor.state()
            case Fence(worker=worker, why=why):
                self._supervisor.fence(worker, why)
            case _:
                raise WireError(f"the hub said {type(word).__name__}")

    def _open(self, word: Opened) -> None:
        children = self._supervisor.local_children()
        child = next((child for child in children if child.identity == word.worker), None)
        if child is None:
            self._session.send(Shut(word.channel))
            return
        number = word.channel
        self._channels[number] = open_channel(
            child,
            word.peer,
            word.kind,
            word.epoch,
            number=number,
            session=self._session,
            shut=lambda: self._shut(number),
        )

    def _shut(self, number: int) -> None:
        self._channels.pop(number, None)
        self._session.send(Shut(number))

    def _drained(self) -> None:
        for channel in self._channels.values():
            channel.resume()
