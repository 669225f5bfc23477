"""The door process: HTTP on one side, control and the workers on the other.

It holds no control state: killed, its clients get an end of file, control frees what they had, and the
next door listens on the same port.
"""

from __future__ import annotations

import asyncio
import os
import socket

from diptych.api.http.app import App
from diptych.api.http.server import ServerSettings, serve
from diptych.api.text.loaded import LoadedText
from diptych.api.text.machinery import TextModels
from diptych.core.config import SECOND_NS
from diptych.core.facts import Fact
from diptych.core.ids import CONTROL
from diptych.live.door.backend import FleetBackend
from diptych.live.door.records import Records
from diptych.live.host_link import HostLink, send_packet
from diptych.live.launch import (
    Connected,
    ConnectionCut,
    DoorLaunch,
    HostMessage,
    Served,
    StartFailed,
    StopAsked,
)
from diptych.live.peers import REPLACED, Peers
from diptych.live.process import run_child
from diptych.models.errors import ModelError
from diptych.models.resolve import TextModel, load_text
from diptych.models.scripted import scripted_text
from diptych.wire.messages import Message


class Door:
    """One door process. `run` returns its exit code when its last request has ended."""

    def __init__(self, launch: DoorLaunch, end: socket.socket, text: TextModel, records: Records) -> None:
        self._launch = launch
        self._records = records
        self._stop = asyncio.Event()
        self._port: int | None = None
        self._announced = False
        self._peers = Peers(self._from_peer, self._peer_closed)
        self._backend = FleetBackend(launch, self._peers, records)
        texts: TextModels = {launch.model.name: LoadedText(text.tokenizer, text.chat_template)}
        self._backend.on_fleet_changed = self._announce
        self._app = App(self._backend, texts)
        self._link = HostLink(end, self._from_host, lambda: os._exit(1))

    async def run(self) -> int:
        settings = ServerSettings(
            host=self._launch.address,
            port=self._launch.port,
            drain_s=self._launch.grace_ns / SECOND_NS,
        )
        try:
            await serve(self._app, settings, self._stop, self._listening)
        except OSError as error:
            self._link.send(
                StartFailed(reason=f"cannot listen on {settings.host}:{settings.port}: {error.strerror}")
            )
            return 1
        finally:
            self._records.close()
        return 0

    def _listening(self, port: int) -> None:
        self._port = port
        self._announce()

    def _announce(self) -> None:
        """Tells the supervisor, once, that clients are served."""
        if self._port is not None and self._backend.fleet.complete and not self._announced:
            self._announced = True
            self._link.send(Served(address=self._launch.address, port=self._port))

    def _from_host(self, message: HostMessage | Fact, descriptors: list[int]) -> None:
        match message:
            case Connected(peer=peer):
                self._peers.adopt(peer, descriptors[0])
                if peer == CONTROL:
                    self._backend.control_joined()
            case StopAsked():
                self._stop.set()
            case _:
                raise ValueError(f"the supervisor sent a door {message}")

    def _from_peer(self, peer: str, message: Message) -> None:
        self._backend.received(peer, message)

    def _peer_closed(self, peer: str, why: str) -> None:
        if peer == CONTROL:
            self._backend.control_lost()
        if why != REPLACED:
            self._link.send(ConnectionCut(peer=peer))


async def main(end: socket.socket, first: HostMessage | Fact, descriptors: list[int]) -> int:
    assert isinstance(first, DoorLaunch)
    try:
        name, context_max = first.model.name, first.model.context_max
        text = scripted_text(name, context_max=context_max) if first.scripted else load_text(first.model.path)
        records = Records(first.records_path)
    except (ModelError, OSError) as error:
        send_packet(end, StartFailed(reason=str(error)))
        return 1
    return await Door(first, end, text, records).run()


if __name__ == "__main__":
    run_child(main)
