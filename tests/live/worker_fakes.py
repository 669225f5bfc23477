"""The rest of a host, as worker processes see it: supervisor, control and door in the test's process."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec

from diptych.core.facts import Fact
from diptych.core.ids import CONTROL
from diptych.engine.scripted import ScriptedEngine
from diptych.live.host_link import receive_packet, send_packet, socket_pair
from diptych.live.launch import Connected, HostMessage, ModelSource, WorkerLaunch
from diptych.live.pool import create_pool
from diptych.live.token_table import create_token_table
from diptych.models.scripted import scripted_text
from diptych.wire.frames import FrameBuffer, PauseFrame, StreamFrame, TokensFrame
from diptych.wire.kv import encode_format
from diptych.wire.messages import Message, Streamed, Told, decode, encode

PAGE_TOKENS = 16
POOL_PAGES = 256
WAIT_S = 30
FORMATS = ("wide", "narrow")


class Line:
    """The test's end of a connection; reading waits."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._buffer = FrameBuffer()
        self._arrived: list[Message] = []
        self._told = 0
        end.settimeout(WAIT_S)

    def send(self, fact: Fact, attachment: bytes = b"") -> None:
        self._told += 1
        self._end.sendall(encode(Told(fact, attachment, self._told)))

    def next(self) -> Message | None:
        """The next message; None at the end of the connection."""
        while not self._arrived:
            try:
                data = self._end.recv(1 << 16)
            except ConnectionResetError:
                data = b""
            if not data:
                return None
            self._arrived += map(decode, self._buffer.receive(data))
        return self._arrived.pop(0)

    def until(self, kind: type[Fact]) -> Any:
        """The next fact of that kind; those before it are passed over."""
        while True:
            message = self.next()
            assert isinstance(message, Told), f"the line ended before {kind.__name__}"
            if type(message.fact) is kind:
                return message.fact

    def frames(self) -> list[StreamFrame]:
        """Frames up to the one that ends or pauses a stream, or to the end of the line."""
        frames: list[StreamFrame] = []
        while True:
            message = self.next()
            if message is None:
                return frames
            assert isinstance(message, Streamed)
            frames += message.frames
            last = frames[-1]
            if isinstance(last, PauseFrame) or (isinstance(last, TokensFrame) and last.finish):
                return frames

    def close(self) -> None:
        self._end.close()


class FakeWorker:
    """One worker process and the other ends of its sockets."""

    def __init__(self, host: FakeHost, name: str, **launch: Any) -> None:
        ours, theirs = socket_pair()
        self.identity = name
        self.link = ours
        ours.settimeout(WAIT_S)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "diptych.live.worker", "--host-fd", str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            process_group=0,
            stderr=subprocess.PIPE,
        )
        theirs.close()
        first = host.launch(name, **launch)
        send_packet(ours, first, [host.pool, host.table])
        ours.settimeout(WAIT_S)

    def told_host(self) -> HostMessage | Fact:
        return receive_packet(self.link)[0]

    def connect(self, peer: str, kind: str, epoch: int = 0) -> Line:
        ours, theirs = socket.socketpair()
        self.adopt(peer, kind, theirs, epoch)
        return Line(ours)

    def adopt(self, peer: str, kind: str, end: socket.socket, epoch: int = 0) -> None:
        send_packet(self.link, Connected(peer=peer, kind=kind, epoch=epoch), [end.fileno()])
        self.link.settimeout(WAIT_S)
        end.close()

    def control(self, epoch: int = 1) -> Line:
        return self.connect(CONTROL, "control", epoch)

    def wait(self) -> tuple[int, str]:
        """Exit code and what it said."""
        _, errors = self.process.communicate(timeout=WAIT_S)
        return self.process.returncode, errors.decode()


class FakeHost:
    def __init__(self, record_folder: Path | None = None) -> None:
        self.engine = ScriptedEngine(model="scripted", numerics=FORMATS, page_tokens=PAGE_TOKENS)
        self.text = scripted_text("scripted")
        self.pool = create_pool(POOL_PAGES * self.engine.kv_format.page_bytes)
        self.table = create_token_table(self.text.tokenizer.bytes_table)
        self.record_folder = record_folder
        self.workers: list[FakeWorker] = []

    def launch(self, name: str, **changes: Any) -> WorkerLaunch:
        model = ModelSource(
            name="scripted",
            path="",
            fingerprint=self.engine.kv_format.model,
            context_max=8192,
            page_bytes=self.engine.kv_format.page_bytes,
            kv_format=encode_format(self.engine.kv_format),
            config=msgspec.msgpack.encode(self.text.config),
        )
        launch = WorkerLaunch(
            worker=name,
            host="host-0",
            role="both",
            engine="scripted",
            format=FORMATS[0],
            formats=FORMATS,
            options={},
            model=model,
            weights=(),
            pool_pages=POOL_PAGES,
            page_tokens=PAGE_TOKENS,
            lease_ns=3_000_000_000,
            core=None,
            record_folder=str(self.record_folder) if self.record_folder else None,
        )
        return msgspec.structs.replace(launch, **changes)

    def start(self, name: str, **launch: Any) -> FakeWorker:
        worker = FakeWorker(self, name, **launch)
        self.workers.append(worker)
        return worker

    def close(self) -> None:
        for worker in self.workers:
            if worker.process.poll() is None:
                os.kill(worker.process.pid, signal.SIGKILL)
            worker.process.communicate()
            worker.link.close()
        os.close(self.pool)
        os.close(self.table)
