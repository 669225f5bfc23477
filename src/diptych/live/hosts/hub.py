"""The host that has control and the doors: it lets other hosts join, and passes on what processes say.

It opens a channel for every worker of another host and every process that it may talk to: control, the
doors, and the workers of all hosts. A host that is away for longer than a lease is given up: its channels
are shut, so control hears that its workers are gone, and what was asked of them holds as soon as they are
heard of again, because the agent reaps every worker before it joins anew.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
import ssl
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from diptych.core.config import SECOND_NS
from diptych.core.facts import Fact, WorkerLost
from diptych.core.ids import CONTROL
from diptych.live.child import Child
from diptych.live.hosts.link import HostSession, read_greeting, write_greeting
from diptych.live.hosts.relay import Channel, open_channel
from diptych.live.hosts.security import server_context, tune
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
from diptych.live.launch import Packed, ProcessStarted
from diptych.live.serve_plan import ListenPlan, ServePlan
from diptych.wire.errors import WireError

__all__ = ["Hub", "RemoteHost", "open_hub"]

log = logging.getLogger(__name__)

GREETING_S = 10.0
HOSTS_MAX = 256


class Household(Protocol):
    """What the hub's supervisor has and does."""

    def local_children(self) -> Iterable[Child]: ...

    def tell_control(self, message: Fact | ProcessStarted) -> None: ...

    @property
    def control_epoch(self) -> int: ...


class RemoteHost:
    """One session with one other host."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.number = number
        self.session: HostSession
        self.workers: dict[str, None] = {}
        """Those that are up."""
        self.channels: dict[int, Channel | tuple[RemoteHost, int]] = {}
        """By number: a local process, or a channel of another host."""
        self.expiry: asyncio.TimerHandle | None = None
        self._channels = 0

    def next_channel(self) -> int:
        self._channels += 1
        return self._channels


class Hub:
    """Listens for agents. All methods belong to the event loop's thread."""

    def __init__(
        self,
        plan: ListenPlan,
        welcome: Callable[[int], Welcome],
        household: Household,
        tell: Callable[[str], None],
        lease_ns: int,
        tls: ssl.SSLContext | None,
    ) -> None:
        self.hosts: dict[int, RemoteHost] = {}
        self._plan = plan
        self._welcome = welcome
        self._household = household
        self._tell = tell
        self._lease_s = lease_ns / SECOND_NS
        self._tls = tls
        self._numbers = 0
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self.starting: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()

    async def listen(self) -> int:
        """The port. Raises `OSError` where the address cannot be had."""
        self._server = await asyncio.start_server(
            self._accepted, self._plan.address, self._plan.port, ssl=self._tls, limit=1 << 20
        )
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for host in list(self.hosts.values()):
            self._lose(host, "this fleet ends")
        for task in self._tasks:
            task.cancel()

    # ---- what the supervisor tells ----------------------------------------------------------------

    def launched(self, child: Child) -> None:
        """A local process takes connections from now on."""
        if child.identity == CONTROL:
            for host in self.hosts.values():
                host.session.send(ControlUp(self._household.control_epoch))
        for host in self.hosts.values():
            for worker in host.workers:
                self._open(host, worker, child)

    def knows(self, worker: str) -> bool:
        return any(worker in host.workers for host in self.hosts.values())

    def fence(self, worker: str, why: str) -> bool:
        """Has a worker of another host killed and reaped; False where no host has it (any more)."""
        for host in self.hosts.values():
            if worker in host.workers:
                if host.session.connected:
                    host.session.send(Fence(worker, why))
                else:
                    # It cannot be reached, and so can nobody there: all of it is given up at once.
                    self._lose(host, f"{worker} had to be fenced and could not be reached")
                return True
        return False

    # ---- hosts come -------------------------------------------------------------------------------

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        peer = writer.get_extra_info("peername")
        try:
            tune(writer.get_extra_info("socket"))
            async with asyncio.timeout(GREETING_S):
                host = await self._greet(reader, writer)
        except (WireError, TimeoutError, asyncio.IncompleteReadError, OSError) as error:
            log.warning("host at %s refused: %s", peer, error or type(error).__name__)
            writer.close()
        else:
            self._away(host, await host.session.carry(reader, writer))
        finally:
            self._tasks.discard(task)

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> RemoteHost:
        hello = await read_greeting(reader)
        if not isinstance(hello, Hello) or hello.version != VERSION or len(hello.nonce) != NONCE_BYTES:
            raise WireError("not an agent of this version")
        nonce = secrets.token_bytes(NONCE_BYTES)
        write_greeting(writer, Challenge(nonce, proof(self._plan.token, "hub", hello, nonce)))
        answer = await read_greeting(reader)
        expected = proof(self._plan.token, "agent", hello, nonce)
        if not isinstance(answer, Proof) or not hmac.compare_digest(answer.proof, expected):
            write_greeting(writer, Refused("token: this is not the fleet's"))
            raise WireError(f"{hello.host} does not have the fleet's token")
        if hello.session:
            return self._back(hello, writer)
        return self._join(hello, writer)

    def _back(self, hello: Hello, writer: asyncio.StreamWriter) -> RemoteHost:
        host = self.hosts.get(hello.session)
        if host is None or host.name != hello.host:
            write_greeting(writer, Refused("the session is over", over=True))
            raise WireError(f"session {hello.session} of {hello.host} is over")
        if host.expiry is not None:
            host.expiry.cancel()
            host.expiry = None
        write_greeting(writer, self._welcome(host.number))
        self._tell(f"{host.name}: back")
        return host

    def _join(self, hello: Hello, writer: asyncio.StreamWriter) -> RemoteHost:
        if len(self.hosts) >= HOSTS_MAX:
            write_greeting(writer, Refused(f"{HOSTS_MAX} hosts have joined, no more are taken"))
            raise WireError("too many hosts")
        for former in [host for host in self.hosts.values() if host.name == hello.host]:
            if former.session.connected:
                write_greeting(writer, Refused(f"name: a host {hello.host!r} is here already"))
                raise WireError(f"a second host {hello.host}")
            self._lose(former, "it joins anew")
        self._numbers += 1
        host = RemoteHost(hello.host, self._numbers)
        host.session = HostSession(
            host.name, lambda word: self._received(host, word), lambda: self._drained(host)
        )
        self.hosts[host.number] = host
        write_greeting(writer, self._welcome(host.number))
        host.session.send(ControlUp(self._household.control_epoch))
        self._tell(f"{host.name}: joined")
        return host

    def _away(self, host: RemoteHost, why: str) -> None:
        if host.number in self.hosts and not host.session.connected and host.expiry is None:
            self._tell(f"{host.name}: {why}; it has {self._lease_s:g} s to come back")
            host.expiry = self._loop.call_later(self._lease_s, self._lose, host, "it did not come back")

    def _lose(self, host: RemoteHost, why: str) -> None:
        """Nothing of this session counts any more."""
        if self.hosts.pop(host.number, None) is None:
            return
        self._tell(f"{host.name}: given up ({why})")
        if host.expiry is not None:
            host.expiry.cancel()
        host.session.end()
        for number in list(host.channels):
            self._shut_here(host, number)
        for worker in host.workers:
            self._household.tell_control(WorkerLost(worker=worker))

    # ---- what agents say --------------------------------------------------------------------------

    def _received(self, host: RemoteHost, word: HostWord) -> None:
        match word:
            case Data(channel=number, data=data):
                self._data(host, number, data)
            case Shut(channel=number):
                self._shut_here(host, number)
            case WorkerUp(worker=worker):
                self._worker_up(host, worker)
            case Stated(fact=fact):
                if isinstance(fact, WorkerLost):
                    host.workers.pop(fact.worker, None)
                self._household.tell_control(fact)
            case Started():
                started = ProcessStarted(
                    worker=word.worker, pid=word.pid, role=word.role, engine=word.engine, format=word.format
                )
                self._household.tell_control(started)
            case _:
                raise WireError(f"an agent said {type(word).__name__}")

    def _worker_up(self, host: RemoteHost, worker: str) -> None:
        if worker in host.workers:
            return
        host.workers[worker] = None
        # Control last: once it knows of the worker, any other may be named to it.
        children = sorted(self._household.local_children(), key=lambda child: child.identity == CONTROL)
        for other in self.hosts.values():
            if other is not host:
                for peer in other.workers:
                    self._join_channels(host, worker, other, peer)
        for child in children:
            self._open(host, worker, child)

    def _open(self, host: RemoteHost, worker: str, child: Child) -> None:
        """A channel between a worker of another host and a local process."""
        number = host.next_channel()
        epoch = self._household.control_epoch if child.identity == CONTROL else 0
        host.session.send(Opened(number, worker, child.identity, child.module.rpartition(".")[2], epoch))
        host.channels[number] = open_channel(
            child,
            worker,
            "worker",
            0,
            number=number,
            session=host.session,
            shut=lambda: self._shut_there(host, number),
        )

    def _join_channels(self, host: RemoteHost, worker: str, other: RemoteHost, peer: str) -> None:
        """A channel between workers of two other hosts, through here."""
        one, two = host.next_channel(), other.next_channel()
        host.channels[one] = (other, two)
        other.channels[two] = (host, one)
        other.session.send(Opened(two, peer, worker, "worker", 0))
        host.session.send(Opened(one, worker, peer, "worker", 0))

    def _data(self, host: RemoteHost, number: int, data: bytes) -> None:
        end = host.channels.get(number)
        if isinstance(end, Channel):
            end.deliver(data)
        elif end is not None:
            end[0].session.send(Data(end[1], data))

    def _shut_here(self, host: RemoteHost, number: int) -> None:
        """The other host's end is closed (or the host is gone)."""
        end = host.channels.pop(number, None)
        if isinstance(end, Channel):
            end.close()
        elif end is not None:
            other, its_number = end
            other.channels.pop(its_number, None)
            other.session.send(Shut(its_number))

    def _shut_there(self, host: RemoteHost, number: int) -> None:
        """The local end is closed."""
        host.channels.pop(number, None)
        host.session.send(Shut(number))

    def _drained(self, host: RemoteHost) -> None:
        for end in host.channels.values():
            if isinstance(end, Channel):
                end.resume()


def open_hub(
    plan: ServePlan,
    packed: Packed,
    household: Household,
    tell: Callable[[str], None],
    fail: Callable[[str], None],
) -> Hub:
    """A hub that begins to listen. Raises `HostsError` where its certificates are of no use."""
    listen, exchange = plan.listen, plan.exchange
    assert listen is not None
    assert exchange is not None
    kv_key = exchange.key

    def welcome(session: int) -> Welcome:
        model = packed.model
        return Welcome(session, plan.model, model.fingerprint, plan.page_tokens, plan.lease_ns, kv_key)

    tls = None if listen.certs is None else server_context(Path(listen.certs), plan.host)
    hub = Hub(listen, welcome, household, tell, plan.lease_ns, tls)

    async def start() -> None:
        try:
            port = await hub.listen()
        except OSError as error:
            fail(f"listen: {listen.address}:{listen.port}: {error}")
            return
        tell(f"other hosts join at {listen.address}:{port}")

    hub.starting = asyncio.get_running_loop().create_task(start())
    return hub
