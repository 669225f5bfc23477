"""Pages over TCP: scattered reads straight into the pool, always there, nothing to install."""

from __future__ import annotations

import contextlib
import os
import ssl
import threading
from collections import deque
from collections.abc import Sequence

from diptych.transport.claims import ClaimTable
from diptych.transport.interface import Endpoint, PairReport, PullDone, PullOrder, Region
from diptych.transport.tcp.reader import Pair, Reader, ReaderOptions
from diptych.transport.tcp.server import Server

__all__ = ["TcpTransport"]


class TcpTransport:
    """One worker's end: serves its own claims and pulls under those of others."""

    name = "tcp"

    def __init__(
        self,
        region: Region,
        options: ReaderOptions,
        pair: Pair,
        *,
        address: str = "127.0.0.1",
        port: int = 0,
        serve_tls: ssl.SSLContext | None = None,
    ) -> None:
        """`options.key` is the fleet's: who does not have it is served nothing. Raises `OSError` where the
        address cannot be listened on."""
        self.region = region
        self.options = options
        self.claims = ClaimTable()
        self._pair = pair
        self._readers: dict[str, Reader] = {}
        self._done: deque[PullDone] = deque()
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._lock = threading.Lock()
        self._server = Server(
            options.worker,
            region,
            self.claims,
            options.announcement,
            options.key,
            address=address,
            port=port,
            tls=serve_tls,
        )
        self._address = address

    def endpoint(self) -> Endpoint:
        return Endpoint(self.name, self._address, self._server.port, self.options.worker)

    @property
    def refused(self) -> int:
        """Requests and peers that were turned away."""
        return self._server.refused

    def open_claim(self, claim: int, reader: str, pages: Sequence[int]) -> bytes:
        return self.claims.open(claim, reader, pages)

    def close_claim(self, claim: int) -> None:
        self.claims.close(claim)

    def pull(self, order: PullOrder) -> None:
        reader = self._readers.get(order.source.worker)
        if reader is None:
            reader = Reader(order.source, self.region, self.options, self._pair, self._over)
            self._readers[order.source.worker] = reader
        reader.queue.add(order)

    def cancel(self, worker: str, claim: int) -> None:
        reader = self._readers.get(worker)
        if reader is not None:
            reader.queue.cancel(claim)

    def forget(self, worker: str) -> None:
        reader = self._readers.pop(worker, None)
        if reader is not None:
            # Not waited for: the caller has others to serve, and a dead source may still be dialled.
            reader.queue.fail_all("the source is gone")
            reader.stop()

    def fileno(self) -> int:
        return self._event

    def completed(self) -> list[PullDone]:
        with contextlib.suppress(BlockingIOError):  # Asked without being told to.
            os.eventfd_read(self._event)
        with self._lock:
            done = list(self._done)
            self._done.clear()
        return done

    def reports(self) -> list[PairReport]:
        return [reader.report for reader in self._readers.values() if reader.report is not None]

    def close(self) -> None:
        for reader in self._readers.values():
            reader.close()
        self._readers.clear()
        self._server.close()
        os.close(self._event)

    def _over(self, done: PullDone) -> None:
        with self._lock:
            self._done.append(done)
        os.eventfd_write(self._event, 1)
