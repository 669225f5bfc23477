"""The reader's side: streams to one source, each with a thread that asks, receives and converts."""

from __future__ import annotations

import hmac
import logging
import secrets
import socket
import ssl
import threading
import time
from collections.abc import Callable

import msgspec

from diptych.transport.checksums import CHECKSUM_BYTES, page_checksums
from diptych.transport.interface import Endpoint, Pairing, PairReport, PullDone, Region
from diptych.transport.tcp import protocol
from diptych.transport.tcp.protocol import Greeting, ProtocolError, Request
from diptych.transport.tcp.pulls import Batch, PullQueue
from diptych.transport.tcp.server import read_greeting
from diptych.transport.tcp.stream import Stream, merged

__all__ = ["Reader", "ReaderOptions"]

log = logging.getLogger(__name__)
BATCH_BYTES = 1 << 20
"""Of one request: long enough to fill a link, short enough that copies take turns."""
PROBE_BYTES = 4 << 20
CONNECT_S = 5.0
STALL_S = 5.0
"""A source that sends nothing for so long has failed."""

Pair = Callable[[bytes], Pairing]
"""From the source's announcement of its KV format to what is to be done with its pages."""


class ReaderOptions(msgspec.Struct, frozen=True):
    worker: str
    key: bytes
    announcement: bytes
    checksums: bool = True
    streams: int = 2
    tls: ssl.SSLContext | None = None


class Reader:
    """All copies from one source to one region."""

    def __init__(
        self,
        source: Endpoint,
        region: Region,
        options: ReaderOptions,
        pair: Pair,
        done: Callable[[PullDone], None],
    ) -> None:
        self.source = source
        self.region = region
        self.options = options
        self.report: PairReport | None = None
        self.checksum_failures = 0
        self.queue = PullQueue(done)
        self._pair = pair
        self._pairing: Pairing | None = None
        self._first = threading.Lock()
        self._streams: set[Stream] = set()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._run, name=f"kv from {source.worker}", daemon=True)
            for _ in range(max(1, options.streams))
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Its threads end soon; what they have in hand fails."""
        self._closed = True
        self.queue.close()
        for stream in list(self._streams):
            stream.close()

    def close(self) -> None:
        self.stop()
        for thread in self._threads:
            thread.join()

    # ---- one stream -------------------------------------------------------------------------------

    def _run(self) -> None:
        stream: Stream | None = None
        ring = memoryview(bytearray())
        while not self._closed:
            batch = self.queue.take()
            if batch is None:
                break
            try:
                if stream is None:
                    stream = self._connect()
                pairing = self._pairing
                assert pairing is not None
                if pairing.refusal:
                    self.queue.back(batch, 0, pairing.refusal)
                    continue
                if pairing.converter is not None and len(ring) < len(batch.pages) * pairing.source_page_bytes:
                    ring = memoryview(bytearray(len(batch.pages) * pairing.source_page_bytes))
                self.queue.back(batch, *self._fetch(stream, batch, pairing, ring))
            except (OSError, ProtocolError) as error:
                if stream is not None:
                    self._streams.discard(stream)
                    stream.close()
                    stream = None
                reason = "the source fell silent" if isinstance(error, TimeoutError) else str(error)
                self.queue.back(batch, 0, f"link: {reason}")
            except Exception as error:
                # An order must be answered whatever breaks, and this thread has others to serve.
                log.exception("a copy from %s failed", self.source.worker)
                self.queue.back(batch, 0, f"copy: {error}")
        if stream is not None:
            stream.close()

    def _fetch(self, stream: Stream, batch: Batch, pairing: Pairing, ring: memoryview) -> tuple[int, str]:
        """Bytes that arrived, and what is wrong with them."""
        checksums = self.options.checksums
        stream.write(protocol.encode_request(Request(0, batch.capability, batch.pages, checksums)))
        reply = protocol.decode_reply(stream.read(protocol.REPLY.size))
        if reply.reason_bytes:
            return 0, stream.read(reply.reason_bytes).decode(errors="replace")
        if reply.pages != len(batch.pages) or reply.checksums != checksums:
            raise ProtocolError(f"pages: {reply.pages} came, {len(batch.pages)} were asked for")
        expected = stream.read(CHECKSUM_BYTES * reply.pages) if checksums else b""
        if pairing.converter is None:
            memory, page_bytes, landed = self.region.memory, self.region.page_bytes, list(batch.into)
        else:
            memory, page_bytes, landed = ring, pairing.source_page_bytes, list(range(reply.pages))
        stream.read_into(merged(memory, page_bytes, landed))
        moved = reply.pages * page_bytes
        if checksums and page_checksums(memory, page_bytes, landed) != expected:
            self.checksum_failures += 1
            return moved, "a checksum differs"
        if pairing.converter is not None:
            pairing.converter.run(ring, landed, self.region.memory, batch.into)
        return moved, ""

    # ---- meeting the source -----------------------------------------------------------------------

    def _connect(self) -> Stream:
        end: socket.socket = socket.create_connection((self.source.address, self.source.port), CONNECT_S)
        end.settimeout(STALL_S)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.options.tls is not None:
            end = self.options.tls.wrap_socket(end, server_hostname=self.source.address)
        stream = Stream(end)
        self._streams.add(stream)
        try:
            announcement = self._greet(stream)
            with self._first:
                if self._pairing is None:
                    self._meet(stream, announcement)
        except (OSError, ProtocolError):
            self._streams.discard(stream)
            stream.close()
            raise
        return stream

    def _greet(self, stream: Stream) -> bytes:
        options = self.options
        nonce = secrets.token_bytes(protocol.NONCE_BYTES)
        mine = Greeting(protocol.VERSION, options.worker, self.source.worker, nonce, options.announcement)
        stream.write(protocol.encode_greeting(mine))
        theirs = read_greeting(stream)
        if theirs.worker != self.source.worker:
            raise ProtocolError(f"worker: {theirs.worker} answered for {self.source.worker}")
        expected = protocol.proof(options.key, b"owner", mine, theirs.worker, theirs.nonce)
        if not hmac.compare_digest(theirs.proof, expected):
            raise ProtocolError(f"proof: {theirs.worker} does not have this fleet's key")
        stream.write(protocol.proof(options.key, b"reader", mine, theirs.worker, theirs.nonce))
        return theirs.announcement

    def _meet(self, stream: Stream, announcement: bytes) -> None:
        """The first stream decides what becomes of the source's pages, and measures the link."""
        pairing = self._pair(announcement)
        bytes_per_s = self._probe(stream)
        self.queue.source_batch, self.queue.target_batch = pairing.source_batch, pairing.target_batch
        batch_bytes = max(1, (pairing.source_page_bytes or self.region.page_bytes) * pairing.source_batch)
        self.queue.batches = max(1, BATCH_BYTES // batch_bytes)
        self.report = PairReport(
            worker=self.source.worker,
            provider="tcp+tls" if stream.secure else "tcp",
            device=self.region.device,
            bytes_per_s=bytes_per_s,
            conversion=pairing.refusal or pairing.conversion,
            checksum="xxh3-64" if self.options.checksums else "off",
        )
        self._pairing = pairing

    def _probe(self, stream: Stream) -> float:
        request = Request(0, bytes(16), (), False, PROBE_BYTES)
        buffer = memoryview(bytearray(PROBE_BYTES))
        begun = time.perf_counter()
        stream.write(protocol.encode_request(request))
        protocol.decode_reply(stream.read(protocol.REPLY.size))
        stream.read_into([buffer])
        return PROBE_BYTES / max(1e-9, time.perf_counter() - begun)
