"""The owner's side: serves the pages of open claims to readers that have the fleet's key."""

from __future__ import annotations

import hmac
import logging
import secrets
import socket
import ssl
import threading
from collections.abc import Callable

from diptych.transport.checksums import page_checksums
from diptych.transport.claims import ClaimRefused, ClaimTable
from diptych.transport.interface import Region
from diptych.transport.tcp import protocol
from diptych.transport.tcp.protocol import Greeting, ProtocolError, Reply, Request
from diptych.transport.tcp.stream import Stream, merged

__all__ = ["Server"]

log = logging.getLogger(__name__)
GREETING_S = 10.0
"""A peer that has not proved itself by then is cut."""
STALL_S = 30.0
"""A reader that takes nothing for so long is cut; an idle one may be silent for ever."""
CONNECTIONS_MAX = 256


class Server:
    """A listening socket, a thread that accepts, and a thread for each connection."""

    def __init__(
        self,
        worker: str,
        region: Region,
        claims: ClaimTable,
        announcement: bytes,
        key: bytes,
        *,
        address: str,
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.worker = worker
        self.region = region
        self.claims = claims
        self.announcement = announcement
        self.refused = 0
        """Requests and peers that were turned away."""
        self._key = key
        self._tls = tls
        self._streams: set[Stream] = set()
        self._lock = threading.Lock()
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listener = socket.create_server((address, port), family=family, backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, name="kv server", daemon=True)
        self._thread.start()

    def close(self) -> None:
        Stream(self._listener).close()
        with self._lock:
            streams, self._streams = self._streams, set()
        for stream in streams:
            stream.close()
        self._thread.join()

    def _accept(self) -> None:
        while True:
            try:
                end, peer = self._listener.accept()
            except OSError:
                return  # Closed.
            with self._lock:
                crowded = len(self._streams) >= CONNECTIONS_MAX
            if crowded:
                log.warning("KV peer %s refused: %d connections are open", peer[0], CONNECTIONS_MAX)
                end.close()
                continue
            threading.Thread(target=self._serve, args=(end, peer[0]), name="kv reader", daemon=True).start()

    def _serve(self, end: socket.socket, address: str) -> None:
        stream = Stream(end)
        try:
            end.settimeout(GREETING_S)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls is not None:
                end = self._tls.wrap_socket(end, server_side=True)
                stream = Stream(end)
            with self._lock:
                self._streams.add(stream)
            reader = self._greet(stream)
            self._answer_all(stream, reader)
        except (ProtocolError, ssl.SSLError, TimeoutError) as error:
            self.refused += 1
            log.warning("KV peer %s cut: %s", address, error)
        except OSError as error:
            log.info("KV peer %s is gone: %s", address, error)
        finally:
            with self._lock:
                self._streams.discard(stream)
            stream.close()

    def _greet(self, stream: Stream) -> str:
        greeting = read_greeting(stream)
        if greeting.peer != self.worker:
            raise ProtocolError(f"peer: {greeting.peer} is meant, this is {self.worker}")
        nonce = secrets.token_bytes(protocol.NONCE_BYTES)
        mine = protocol.proof(self._key, b"owner", greeting, self.worker, nonce)
        answer = Greeting(protocol.VERSION, self.worker, "", nonce, self.announcement, mine)
        stream.write(protocol.encode_greeting(answer))
        theirs = stream.read(protocol.PROOF_BYTES)
        expected = protocol.proof(self._key, b"reader", greeting, self.worker, nonce)
        if not hmac.compare_digest(theirs, expected):
            raise ProtocolError(f"proof: {greeting.worker} does not have this fleet's key")
        return greeting.worker

    def _answer_all(self, stream: Stream, reader: str) -> None:
        while True:
            stream.socket.settimeout(None)
            head = stream.read(protocol.REQUEST.size)
            stream.socket.settimeout(STALL_S)
            request, count = protocol.decode_request(head)
            if request.probe_bytes:
                stream.write(protocol.encode_reply(Reply(request.serial, 0, False, 0)))
                stream.write(bytes(request.probe_bytes))
                continue
            pages = protocol.decode_pages(stream.read(count * 4))
            self._answer(stream, reader, request, pages)

    def _answer(self, stream: Stream, reader: str, request: Request, pages: tuple[int, ...]) -> None:
        try:
            self.claims.check(request.capability, reader, pages)
        except ClaimRefused as refusal:
            self.refused += 1
            log.info("KV reader %s refused: %s", reader, refusal)
            reason = str(refusal).encode()
            stream.write(protocol.encode_reply(Reply(request.serial, 0, False, len(reason))) + reason)
            return
        memory, page_bytes = self.region.memory, self.region.page_bytes
        head = protocol.encode_reply(Reply(request.serial, len(pages), request.checksums, 0))
        if request.checksums:
            head += page_checksums(memory, page_bytes, pages)
        stream.write_from([memoryview(head), *merged(memory, page_bytes, pages)])


def read_greeting(stream: Stream, read: Callable[[bytes], Greeting] = protocol.decode_greeting) -> Greeting:
    return read(stream.read(protocol.greeting_bytes(stream.read(8))))
