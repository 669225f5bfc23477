"""Sending a stream to a client that may leave, or read slower than the fleet writes.

The fleet is never held up: frames go into a buffer of bounded size. A client that lets the buffer run
over, or reads nothing for `stall_s`, is cut: its generation ends at once, what is buffered and one error
frame are still offered for `stall_s`, then the stream ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import aclosing
from typing import Any

import msgspec

from diptych.api.errors import ApiError, ErrorKind
from diptych.api.http.asgi import Headers, Send, StreamAnswer, encode_headers

__all__ = ["DeliveryLimits", "Interruption", "Outcome", "deliver"]

_LOG = logging.getLogger("diptych.api")
# The server keeps a few messages per stream of its own; small ones keep that memory small.
_SEND_BYTES = 16384
_NOT_READ = "The stream was not read fast enough and is cut."


class DeliveryLimits(msgspec.Struct, frozen=True, kw_only=True):
    buffer_bytes: int = 1 << 20
    """Most frame bytes that wait for one slow reader."""
    stall_s: float = 60.0
    """Longest time in which a client reads nothing of what waits for it."""


class Interruption:
    """Why a request must end early: its client left (None) or the server says so (an error).

    Set once; later reasons are ignored.
    """

    def __init__(self) -> None:
        self.happened: asyncio.Future[ApiError | None] = asyncio.get_running_loop().create_future()

    def set(self, reason: ApiError | None) -> None:
        if not self.happened.done():
            self.happened.set_result(reason)


class Outcome(msgspec.Struct, frozen=True):
    """How a delivery ended: complete, cut by an error, or left by the client."""

    error: ApiError | None = None
    client_gone: bool = False


class _Buffer:
    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._frames: deque[bytes] = deque()
        self._bytes = 0
        self._ended = False
        self._changed = asyncio.Event()

    def push(self, frame: bytes) -> bool:
        """False where there is no room."""
        if self._bytes + len(frame) > self._bytes_max:
            return False
        self._append(frame)
        return True

    def end(self, frame: bytes = b"") -> None:
        """Nothing follows but this frame, which always has room."""
        if frame:
            self._append(frame)
        self._ended = True
        self._changed.set()

    def _append(self, frame: bytes) -> None:
        self._frames.append(frame)
        self._bytes += len(frame)
        self._changed.set()

    async def take(self) -> bytes:
        """The next bytes to send, b"" at the end."""
        while not self._frames and not self._ended:
            self._changed.clear()
            await self._changed.wait()
        taken: list[bytes] = []
        size = 0
        while self._frames and (not taken or size + len(self._frames[0]) <= _SEND_BYTES):
            frame = self._frames.popleft()
            size += len(frame)
            taken.append(frame)
        self._bytes -= size
        return b"".join(taken)


async def _pump(answer: StreamAnswer, buffer: _Buffer) -> ApiError | None:
    """Frames into the buffer, until they end or the buffer is full."""
    try:
        # Closing the frames does not close what they read: the fleet's work ends with the source.
        async with aclosing(answer.source), aclosing(answer.frames) as frames:
            async for frame in frames:
                if not buffer.push(frame):
                    return ApiError(ErrorKind.SLOW_READER, _NOT_READ)
    except ApiError as error:
        return error
    except Exception:
        _LOG.exception("A stream failed")
        return ApiError(ErrorKind.FAILED, "Internal server error.")
    return None


class _Sender:
    """The buffer's bytes to the client."""

    def __init__(self, buffer: _Buffer, send: Send, interruption: Interruption) -> None:
        self._buffer = buffer
        self._send = send
        self._interruption = interruption
        self._waiting_since: float | None = None
        self.complete = False

    async def run(self) -> None:
        clock = asyncio.get_running_loop().time
        body = b"first"
        while body:
            body = await self._buffer.take()
            self._waiting_since = clock()
            try:
                await self._send({"type": "http.response.body", "body": body, "more_body": bool(body)})
            except OSError:
                self._interruption.set(None)
                return
            self._waiting_since = None
        self.complete = True

    async def wait(self, futures: set[asyncio.Future[Any]], stall_s: float) -> bool:
        """Waits for one of the futures; False when the client reads nothing for `stall_s` (noticed
        after at most twice that time)."""
        clock = asyncio.get_running_loop().time
        while True:
            done, _ = await asyncio.wait(futures, timeout=stall_s, return_when=asyncio.FIRST_COMPLETED)
            if done:
                return True
            if self._waiting_since is not None and clock() - self._waiting_since >= stall_s:
                return False


async def deliver(
    answer: StreamAnswer,
    headers: Headers,
    send: Send,
    interruption: Interruption,
    limits: DeliveryLimits,
) -> Outcome:
    """Sends the whole answer, status 200. The frames are closed in every case before this returns."""
    buffer = _Buffer(limits.buffer_bytes)
    sender = _Sender(buffer, send, interruption)
    pump = asyncio.create_task(_pump(answer, buffer))
    sending: asyncio.Task[None] | None = None
    gone = interruption.happened
    try:
        await send({"type": "http.response.start", "status": 200, "headers": encode_headers(headers)})
        sending = asyncio.create_task(sender.run())
        reading = await sender.wait({pump, sending, gone}, limits.stall_s)
        error = await _stop_pump(pump, interruption)
        if not reading:
            error = ApiError(ErrorKind.SLOW_READER, _NOT_READ)
        buffer.end(answer.error_frame(error) if error is not None else b"")
        while not sending.done() and not _client_gone(interruption):
            # A server that stops (`gone` holds an error) still offers the rest for a while.
            futures: set[asyncio.Future[Any]] = {sending}
            if not gone.done():
                futures.add(gone)
            if not await sender.wait(futures, limits.stall_s):
                error = error or ApiError(ErrorKind.SLOW_READER, _NOT_READ)
                break
        # A server may report the client as gone once all is sent: then all is well.
        return Outcome(error, client_gone=_client_gone(interruption) and not sender.complete)
    finally:
        await _reap(pump, sending)
        # For a pump that was cancelled before its first step.
        await answer.frames.aclose()
        await answer.source.aclose()


def _client_gone(interruption: Interruption) -> bool:
    return interruption.happened.done() and interruption.happened.result() is None


async def _stop_pump(pump: asyncio.Task[ApiError | None], interruption: Interruption) -> ApiError | None:
    """Ends the generation if it has not ended; the error to tell the client, if any."""
    if pump.done():
        return pump.result()
    pump.cancel()
    await asyncio.wait({pump})
    return interruption.happened.result() if interruption.happened.done() else None


async def _reap(*tasks: asyncio.Task[ApiError | None] | asyncio.Task[None] | None) -> None:
    for task in tasks:
        if task is not None and not task.done():
            task.cancel()
            await asyncio.wait({task})
