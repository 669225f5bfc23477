"""A simulator's workload sent to a live fleet: the same requests at the same times, over HTTP streams.

The client does as little as it can while streams run, because it shares the machine with the fleet: what
comes in is kept with its time and read afterwards. One connection serves one request after the other.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from diptych.sim.workloads.ask import Ask, Workload

_END = b"\r\n0\r\n\r\n"
"""Of a chunked body. Events are JSON, which has no bare line ends, so nothing else looks like it."""
ANSWER_LIMIT_S = 120.0
TOKEN_BYTES = 4


class Trip(msgspec.Struct, frozen=True, kw_only=True):
    """One request as its client saw it; times in ns from the start of the workload."""

    request: str
    prompt_tokens: int
    output_tokens: int
    planned_ns: int
    """When the workload has it arrive."""
    sent_ns: int
    pieces_ns: tuple[int, ...]
    """When each token's text came."""
    end_ns: int
    id: str
    """The server's."""

    @property
    def first_ns(self) -> int:
        return self.pieces_ns[0]


class Wording(msgspec.Struct, frozen=True):
    """How texts that the simulator knows by identity become tokens."""

    model: str
    vocabulary: range
    salt: str
    """Another salt, other texts: a fleet that served one workload has nothing cached of the next."""

    def prompt(self, ask: Ask) -> list[int]:
        """Token ids that stand for the ask's text: the same piece of text is the same tokens."""
        tokens: list[int] = []
        for identity, count in ask.text.pieces():
            drawn = random.Random(self.salt.encode() + identity).randbytes(TOKEN_BYTES * count)
            for at in range(0, len(drawn), TOKEN_BYTES):
                number = int.from_bytes(drawn[at : at + TOKEN_BYTES], "big")
                tokens.append(self.vocabulary[number % len(self.vocabulary)])
        return tokens


def request_of(ask: Ask, wording: Wording) -> bytes:
    """The HTTP request. Raises `ValueError` where the ask is more than one stream to its last token."""
    if len(ask.outputs) != 1 or ask.outputs[0] < ask.tokens_max:
        raise ValueError(f"{ask.request}: one sequence of exactly {ask.tokens_max} tokens can be sent")
    body = json.dumps(
        {
            "model": wording.model,
            "prompt": wording.prompt(ask),
            "max_tokens": ask.tokens_max,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
    ).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n"
    return f"{head}content-type: application/json\r\n\r\n".encode() + body


class Line(asyncio.Protocol):
    """One connection; `ended` hears of every complete answer, `lost` once of its end."""

    def __init__(self, ended: Callable[[Line], None], lost: Callable[[Line], None]) -> None:
        self.ask: Ask | None = None
        self.data = b""
        """The request that is being answered."""
        self.sent_ns = 0
        self.received: list[tuple[int, bytes]] = []
        self._tail = b""
        self._ended = ended
        self._lost = lost
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def send(self, ask: Ask, data: bytes) -> None:
        assert self._transport is not None
        self.ask, self.data, self.received, self._tail = ask, data, [], b""
        self.sent_ns = time.monotonic_ns()
        self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        self.received.append((time.monotonic_ns(), data))
        self._tail = (self._tail + data)[-len(_END) :]
        if self._tail == _END:
            self._ended(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._lost(self)

    def close(self) -> None:
        self.ask = None
        if self._transport is not None:
            self._transport.close()


class Traffic:
    """One workload on its way; `run` returns all trips in order of their end."""

    def __init__(
        self,
        port: int,
        workload: Workload,
        wording: Wording,
        progress: Callable[[int], None] = lambda ended: None,
    ) -> None:
        self._port = port
        self._workload = workload
        self._wording = wording
        self._progress = progress
        self._free: list[Line] = []
        self._raw: list[tuple[Ask, int, int, list[tuple[int, bytes]]]] = []
        self._waiting = 0
        self._watched = -1
        self._base_ns = 0
        self._over: asyncio.Future[None] | None = None

    async def run(self) -> list[Trip]:
        """Raises `RuntimeError` where a request is not answered in full."""
        asks = list(self._workload.asks())
        bodies = [request_of(ask, self._wording) for ask in asks]
        loop = asyncio.get_running_loop()
        self._over = loop.create_future()
        # What is built so far takes its time before the first request leaves, not after.
        self._base_ns = time.monotonic_ns() + 50_000_000
        start_s = loop.time() + (self._base_ns - time.monotonic_ns()) / 1e9
        self._waiting = len(asks)
        for ask, body in zip(asks, bodies, strict=True):
            loop.call_at(start_s + ask.at_ns / 1e9, self._start, ask, body)
        self._watch()
        try:
            await self._over
        finally:
            for line in list(self._free):
                line.close()
        return [self._trip(*raw) for raw in self._raw]

    def _start(self, ask: Ask, body: bytes) -> None:
        if self._free:
            self._free.pop().send(ask, body)
        else:
            task = asyncio.ensure_future(self._connect(ask, body))
            task.add_done_callback(self._connected)

    async def _connect(self, ask: Ask, body: bytes) -> None:
        loop = asyncio.get_running_loop()
        _, line = await loop.create_connection(lambda: Line(self._ended, self._lost), "127.0.0.1", self._port)
        line.send(ask, body)

    def _connected(self, task: asyncio.Task[None]) -> None:
        error = task.exception()
        if error is not None:
            self._fail(RuntimeError(f"no connection: {error}"))

    def _ended(self, line: Line) -> None:
        ask, now_ns = line.ask, line.received[-1][0]
        assert ask is not None
        line.ask = None
        self._free.append(line)
        self._raw.append((ask, line.sent_ns, now_ns, line.received))
        self._waiting -= 1
        after = self._workload.ended(ask, now_ns - self._base_ns, served=True)
        if after is not None:
            self._waiting += 1
            wait_s = max(0.0, (after.at_ns + self._base_ns - time.monotonic_ns()) / 1e9)
            body = request_of(after, self._wording)
            asyncio.get_running_loop().call_later(wait_s, self._start, after, body)
        self._progress(len(self._raw))
        if not self._waiting and self._over is not None and not self._over.done():
            self._over.set_result(None)

    def _lost(self, line: Line) -> None:
        """A server ends connections that nobody uses, perhaps at the very moment when one is used again."""
        if line in self._free:
            self._free.remove(line)
        if line.ask is None:
            return
        if line.received:
            self._fail(RuntimeError(f"{line.ask.request}: the connection was lost"))
        else:
            self._start(line.ask, line.data)

    def _watch(self) -> None:
        """Ends a run in which nothing ends any more."""
        if self._over is None or self._over.done():
            return
        if len(self._raw) == self._watched:
            waited = f"no answer has ended for {ANSWER_LIMIT_S:g} s, {self._waiting} are missing"
            self._fail(RuntimeError(waited))
        self._watched = len(self._raw)
        asyncio.get_running_loop().call_later(ANSWER_LIMIT_S, self._watch)

    def _fail(self, error: RuntimeError) -> None:
        if self._over is not None and not self._over.done():
            self._over.set_exception(error)

    def _trip(self, ask: Ask, sent_ns: int, end_ns: int, received: list[tuple[int, bytes]]) -> Trip:
        answer = read_answer(received)
        if answer.output_tokens != ask.tokens_max:
            raise RuntimeError(f"{ask.request}: {answer.output_tokens} of {ask.tokens_max} tokens came")
        return Trip(
            request=ask.request,
            prompt_tokens=answer.prompt_tokens,
            output_tokens=answer.output_tokens,
            planned_ns=ask.at_ns,
            sent_ns=sent_ns - self._base_ns,
            pieces_ns=tuple(at - self._base_ns for at in answer.pieces_ns),
            end_ns=end_ns - self._base_ns,
            id=answer.id,
        )


class Streamed(msgspec.Struct, frozen=True):
    """What an answer said, and when each of its events with text came."""

    id: str
    pieces_ns: tuple[int, ...]
    prompt_tokens: int
    output_tokens: int


def read_answer(received: list[tuple[int, bytes]]) -> Streamed:
    """Reads a whole HTTP answer from what came when. Raises `RuntimeError` naming what the server said."""
    ends, data = [], bytearray()
    for _, part in received:
        data += part
        ends.append(len(data))
    head, _, _ = bytes(data).partition(b"\r\n\r\n")
    status = int(head.split(b" ", 2)[1])
    if status != 200:
        raise RuntimeError(f"{status} {bytes(data[len(head) :]).strip()[:300].decode(errors='replace')}")
    headers = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
    pieces: list[int] = []
    usage: dict[str, int] = {}
    for at, event in _events(bytes(data)):
        if "error" in event:
            raise RuntimeError(f"{event['error']}")
        usage = event.get("usage") or usage
        if any(choice["text"] for choice in event["choices"]):
            pieces.append(received[bisect_left(ends, at)][0])
    if not pieces or not usage:
        raise RuntimeError("the stream has no text or no usage")
    return Streamed(
        headers.get(b"x-request-id", b"").decode(),
        tuple(pieces),
        usage["prompt_tokens"],
        usage["completion_tokens"],
    )


def _events(data: bytes) -> Iterator[tuple[int, dict[str, Any]]]:
    """(where it ends in `data`, event) of each; chunk borders lie between lines, as the server writes
    whole events."""
    at = 0
    while (start := data.find(b"data: {", at)) >= 0:
        at = data.index(b"\n", start)
        yield at, json.loads(data[start + 6 : at])
