"""The control process: drives the `ControlPlane` over the sockets of its workers and doors.

The machine knows no token ids; what a door attaches to a request (its prompt payload) is kept here, the
newest of each open request, and handed on with what the workers are asked to do for it.
"""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import msgspec

from diptych.core.actions import Action, FenceWorker, Send
from diptych.core.control import ControlPlane
from diptych.core.facts import (
    ConnectionLost,
    DoorJoined,
    DoorLost,
    Fact,
    HostStated,
    OwnershipStated,
    PrefillRequested,
    RequestArrived,
    RequestEnded,
    RequestRejected,
    StreamDrained,
    TargetRequested,
    WorkerJoined,
    WorkerLost,
    WorkerSpawned,
)
from diptych.core.ids import CONTROL, incarnation
from diptych.live.driver import Driver
from diptych.live.fleet_state import FleetState, encode_fleet
from diptych.live.host_link import HostLink
from diptych.live.launch import (
    Connected,
    ControlLaunch,
    FenceAsked,
    HostMessage,
    ProcessStarted,
    StopAsked,
)
from diptych.live.log_file import Origin, Recorder
from diptych.live.peers import Peers
from diptych.live.process import run_child
from diptych.live.status import fleet_state, status_document
from diptych.wire.messages import Answered, Asked, Message, Told

_OF_FLEET = (ConnectionLost, HostStated, OwnershipStated, WorkerJoined, WorkerLost, WorkerSpawned)
"""Facts that can change who serves."""
_PAYLOADS = msgspec.msgpack.Decoder(tuple[bytes, ...])


class Control:
    """One control process."""

    def __init__(self, launch: ControlLaunch, end: socket.socket) -> None:
        self.stopped: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._machine = ControlPlane(launch.config)
        recorder = None
        if launch.record_folder is not None:
            name = incarnation(CONTROL, launch.config.epoch)
            recorder = Recorder(Path(launch.record_folder), "control", name, launch.config)
        self._driver = Driver(self._machine, self._perform, recorder=recorder)
        self._payloads: dict[str, bytes] = {}
        self._processes: dict[str, ProcessStarted] = {}
        self._planned: dict[str, tuple[str, ...]] = {}
        """Workers that each host should run; one that joined anew is the same host."""
        self._kinds: dict[str, str] = {}
        self._fleet = FleetState()
        self._peers = Peers(self._from_peer, self._peer_closed)
        self._link = HostLink(end, self._from_host, lambda: os._exit(1))
        self._driver.start()

    def close(self) -> None:
        """Ends the log in order."""
        self._driver.close()

    # ---- what comes in ------------------------------------------------------------------------

    def _from_host(self, message: HostMessage | Fact, descriptors: list[int]) -> None:
        match message:
            case Connected(peer=peer, kind=kind):
                self._kinds[peer] = kind
                self._peers.adopt(peer, descriptors[0])
            case ProcessStarted(worker=worker):
                self._processes[worker] = message
            case HostStated() | WorkerSpawned() | WorkerLost() | ConnectionLost():
                if isinstance(message, HostStated):
                    host = message.host.partition(".")[0]
                    self._planned[host] = tuple(name for name, _ in message.shares)
                elif isinstance(message, WorkerLost):
                    self._processes.pop(message.worker, None)
                self._feed(message)
            case StopAsked():
                if not self.stopped.done():
                    self.stopped.set_result(0)
            case _:
                raise ValueError(f"the supervisor sent control {message}")

    def _from_peer(self, peer: str, message: Message) -> None:
        match message:
            case Told(fact=fact, attachment=attachment, number=number):
                self._keep(fact, attachment)
                self._feed(fact, Origin(peer, number))
                if isinstance(fact, DoorJoined):
                    self._peers.send(peer, Answered(0, encode_fleet(self._fleet)))
            case Asked(serial=serial, subject=subject, argument=argument):
                self._peers.send(peer, Answered(serial, self._answer(subject, argument)))
            case _:
                raise ValueError(f"{peer} sent control {message}")

    def _peer_closed(self, peer: str, why: str) -> None:
        if self._kinds.pop(peer) == "door":
            self._feed(DoorLost(door=peer))
        else:
            self._feed(ConnectionLost(peer=peer))

    def _keep(self, fact: Fact, attachment: bytes) -> None:
        match fact:
            case RequestArrived(request=request):
                self._payloads[request] = attachment
            case StreamDrained(request=request) if request in self._payloads:
                self._payloads[request] = attachment
            case DoorJoined(open=opened):
                payloads = _PAYLOADS.decode(attachment)
                for entry, payload in zip(opened, payloads, strict=True):
                    self._payloads[entry.arrived.request] = payload

    def _answer(self, subject: str, argument: str) -> bytes:
        match subject:
            case "status":
                return msgspec.json.encode(status_document(self._machine.status(), self._processes))
            case "trace":
                return msgspec.json.encode(self._machine.record(argument))
            case _:
                return b"null"

    # ---- what goes out ------------------------------------------------------------------------

    def _feed(self, fact: Fact, origin: Origin | None = None) -> None:
        self._driver.feed(fact, origin)
        if isinstance(fact, _OF_FLEET):
            self._tell_doors()

    def _tell_doors(self) -> None:
        """Of the fleet, where that has changed; who is fenced by a deadline is lost a moment later."""
        planned = tuple(name for names in self._planned.values() for name in names)
        fleet = fleet_state(self._machine.status(), planned)
        if fleet != self._fleet:
            self._fleet = fleet
            for peer, kind in self._kinds.items():
                if kind == "door":
                    self._peers.send(peer, Answered(0, encode_fleet(fleet)))

    def _perform(self, action: Action) -> None:
        match action:
            case Send(to=to, fact=fact):
                self._peers.tell(to, fact, self._attachment(fact))
            case FenceWorker(worker=worker, why=why):
                self._link.send(FenceAsked(worker=worker, why=why))
            case _:
                raise ValueError(f"control asked for {action}")

    def _attachment(self, fact: Fact) -> bytes:
        match fact:
            case TargetRequested(request=request) | PrefillRequested(request=request):
                return self._payloads[request]
            case RequestEnded(request=request) | RequestRejected(request=request):
                self._payloads.pop(request, None)
        return b""


async def main(end: socket.socket, first: HostMessage | Fact, descriptors: list[int]) -> int:
    assert isinstance(first, ControlLaunch)
    control = Control(first, end)
    code = await control.stopped
    control.close()
    return code


if __name__ == "__main__":
    run_child(main)
