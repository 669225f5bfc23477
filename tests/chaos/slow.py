"""A client that opens a stream and does not read it until it is told to."""

from __future__ import annotations

import socket
import threading
from typing import Any

from fleet_harness import Stream

RECEIVE_BYTES = 4096


class SlowStream(Stream):
    """As `Stream`; nothing is read before `read_on`, and little fits into its socket."""

    def __init__(self, port: int, body: dict[str, Any], *, request_id: str, limit_s: float) -> None:
        self._reads = threading.Event()
        super().__init__(port, body, request_id=request_id, limit_s=limit_s)

    def read_on(self) -> None:
        self._reads.set()

    def _read(self) -> None:
        if self._connection.sock is not None:
            self._connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
        self._reads.wait(self._limit_s)
        super()._read()
