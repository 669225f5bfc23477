"""The few ASGI types this room uses, a request read whole, and the answer to it."""

from __future__ import annotations

import asyncio
import re
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import unquote

import msgspec

from diptych.api.errors import ApiError, ErrorKind

__all__ = [
    "Answer",
    "HttpRequest",
    "Receive",
    "Scope",
    "Send",
    "StreamAnswer",
    "encode_headers",
    "json_answer",
    "read_body",
    "read_head",
]

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = list[tuple[str, str]]

_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
# A body over the limit is read this much further and thrown away, so that a client that writes all before
# it reads gets the answer and not a broken pipe.
_DRAIN_FACTOR = 4


class HttpRequest(msgspec.Struct, frozen=True, kw_only=True):
    method: str
    raw_path: str
    """As the client sent it, percent-encoded, without the query."""
    headers: dict[str, str]
    """Lower-case names; the last value of a repeated header."""
    request_id: str
    body: bytes = b""

    @property
    def segments(self) -> tuple[str, ...]:
        """The decoded path segments; a slash inside a segment came as %2F."""
        return tuple(unquote(segment) for segment in self.raw_path.strip("/").split("/"))


class Answer(msgspec.Struct, frozen=True):
    status: int
    headers: Headers
    body: bytes


class StreamAnswer(msgspec.Struct, frozen=True):
    """A streamed answer: frames, and how to say an error between them."""

    headers: Headers
    frames: AsyncGenerator[bytes, None]
    source: AsyncGenerator[Any, None]
    """What the frames are made of; closed after them, since they do not close it."""
    error_frame: Callable[[ApiError], bytes]


def json_answer(document: Any, status: int = 200, headers: Headers | None = None) -> Answer:
    body = msgspec.json.encode(document)
    return Answer(status, [("content-type", "application/json"), *(headers or [])], body)


def encode_headers(headers: Headers) -> list[tuple[bytes, bytes]]:
    return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]


def read_head(scope: Scope, taken: Callable[[str], bool]) -> HttpRequest:
    """Method, path and headers. `taken` says which request ids are in use: a client's own id is kept
    where it is sane and not taken."""
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    request_id = headers.get("x-request-id", "")
    if not _SANE_ID.fullmatch(request_id) or taken(request_id):
        request_id = f"req-{secrets.token_hex(12)}"
    raw_path = scope.get("raw_path") or scope["path"].encode()
    return HttpRequest(
        method=scope["method"],
        raw_path=raw_path.split(b"?", 1)[0].decode("latin-1"),
        headers=headers,
        request_id=request_id,
    )


async def read_body(request: HttpRequest, receive: Receive, bytes_max: int, timeout_s: float) -> bytes:
    """The whole body. Raises `ApiError` (TOO_LARGE, SLOW_BODY), `ConnectionResetError` if the client
    leaves before it has sent all."""
    declared = request.headers.get("content-length", "")
    too_large = ApiError(ErrorKind.TOO_LARGE, f"The request body is larger than {bytes_max} bytes.")
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > bytes_max * _DRAIN_FACTOR:
        raise too_large
    chunks: list[bytes] = []
    received = 0
    try:
        async with asyncio.timeout(timeout_s):
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ConnectionResetError("The client left before its request was complete.")
                chunk = message.get("body", b"")
                received += len(chunk)
                if received > bytes_max * _DRAIN_FACTOR:
                    raise too_large
                if received > bytes_max:
                    chunks.clear()
                elif chunk:
                    chunks.append(chunk)
                more = message.get("more_body", False)
    except TimeoutError:
        raise ApiError(
            ErrorKind.SLOW_BODY, f"The request body did not arrive within {timeout_s:g} s."
        ) from None
    if received > bytes_max:
        raise too_large
    return b"".join(chunks)
