"""Errors of the wire: what a peer sent cannot be what this version of Diptych sends."""

from __future__ import annotations

import msgspec

from diptych.core.errors import DiptychError

__all__ = [
    "UNDECODABLE",
    "FrameTooLong",
    "MalformedMessage",
    "SessionOverflow",
    "TruncatedFrame",
    "WireError",
]

UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises on bytes that are not what they should be; on bad UTF-8 no error of its own."""


class WireError(DiptychError):
    """Base of all errors about received bytes; the connection they came from is of no more use."""


class FrameTooLong(WireError):
    def __init__(self, length: int, limit: int) -> None:
        super().__init__(f"a frame of {length} bytes was announced, the limit is {limit}")
        self.length = length
        self.limit = limit


class TruncatedFrame(WireError):
    def __init__(self, pending: int) -> None:
        super().__init__(f"the stream ended inside a frame ({pending} bytes of it had come)")
        self.pending = pending


class MalformedMessage(WireError):
    def __init__(self, why: str) -> None:
        super().__init__(f"malformed message: {why}")


class SessionOverflow(WireError):
    """A peer lets more messages wait than a session keeps for it."""

    def __init__(self, messages: int, limit: int) -> None:
        super().__init__(f"{messages} messages are not acknowledged by the peer, the limit is {limit}")
