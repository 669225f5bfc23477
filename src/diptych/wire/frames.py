"""Length-prefixed frames on a byte stream, and the frames that a worker streams to a door. Pure.

A frame is a little-endian uint32 length and a body of so many bytes. What a body means is told in
`diptych.wire.messages`.
"""

from __future__ import annotations

import msgspec

from diptych.core.ids import Attempt, RequestId
from diptych.engine.interface import SampledToken
from diptych.wire.errors import FrameTooLong, TruncatedFrame

__all__ = [
    "FRAME_BYTES_MAX",
    "HEADER_BYTES",
    "FrameBuffer",
    "PauseFrame",
    "ScoresFrame",
    "StreamFrame",
    "TokensFrame",
    "frame",
]

HEADER_BYTES = 4
FRAME_BYTES_MAX = 64 * 1024 * 1024
"""A prompt of a million tokens with all its page hashes takes 5 MB; anything near this is an error."""


def frame(body: bytes) -> bytes:
    """`body` with its length before it. Raises `FrameTooLong`, so that no peer ever has to."""
    if len(body) > FRAME_BYTES_MAX:
        raise FrameTooLong(len(body), FRAME_BYTES_MAX)
    return len(body).to_bytes(HEADER_BYTES, "little") + body


class FrameBuffer:
    """Cuts received bytes into frame bodies, however the stream was cut on its way."""

    def __init__(self, bytes_max: int = FRAME_BYTES_MAX) -> None:
        self._bytes_max = bytes_max
        self._pending = bytearray()

    def receive(self, data: bytes) -> list[bytes]:
        """Bodies that `data` completes, in order. Raises `FrameTooLong` before it stores such a frame;
        bodies completed earlier in the same `data` are lost then, as the stream is of no more use."""
        pending = self._pending
        pending += data
        bodies: list[bytes] = []
        start = 0
        available = len(pending)
        while available - start >= HEADER_BYTES:
            length = int.from_bytes(pending[start : start + HEADER_BYTES], "little")
            if length > self._bytes_max:
                raise FrameTooLong(length, self._bytes_max)
            end = start + HEADER_BYTES + length
            if end > available:
                break
            bodies.append(bytes(pending[start + HEADER_BYTES : end]))
            start = end
        if start:
            del pending[:start]
        return bodies

    def finish(self) -> None:
        """The stream ended. Raises `TruncatedFrame` where it did so inside a frame."""
        if self._pending:
            raise TruncatedFrame(len(self._pending))


class TokensFrame(msgspec.Struct, frozen=True, tag="tokens", array_like=True):
    """Output tokens of one sequence, consecutive from output index `first_index` on."""

    request: RequestId
    attempt: Attempt
    sequence: int
    first_index: int
    tokens: tuple[int, ...]
    """Empty only with a finish. The token of a `stop_token` finish is the last one: counted, not shown."""
    finish: str | None = None
    """`stop_token`, `stop_string`, `length` or `context` with the sequence's last tokens."""
    detail: str = ""
    """For people: the stop string found."""
    logprobs: tuple[float | None, ...] = ()
    """One per token where the request asked for log-probabilities, else empty."""
    tops: tuple[tuple[tuple[int, float], ...], ...] = ()
    """The most likely (token, log-probability) pairs, one tuple per token, or empty."""

    def sampled(self) -> tuple[SampledToken, ...]:
        """The tokens as the engine gave them."""
        if not self.logprobs:
            return tuple(map(SampledToken, self.tokens))
        return tuple(map(SampledToken, self.tokens, self.logprobs, self.tops))


class ScoresFrame(msgspec.Struct, frozen=True, tag="scores", array_like=True):
    """Log-probabilities of the prompt's tokens `first_index`, `first_index` + 1, ... (never of token 0).

    A later attempt may score some of them again: the first score of a token counts."""

    request: RequestId
    attempt: Attempt
    first_index: int
    tokens: tuple[int, ...]
    logprobs: tuple[float | None, ...]
    tops: tuple[tuple[tuple[int, float], ...], ...]

    def sampled(self) -> tuple[SampledToken, ...]:
        return tuple(map(SampledToken, self.tokens, self.logprobs, self.tops))


class PauseFrame(msgspec.Struct, frozen=True, tag="pause", array_like=True):
    """The attempt stops here, behind all its tokens; the door states where to resume."""

    request: RequestId
    attempt: Attempt


StreamFrame = TokensFrame | ScoresFrame | PauseFrame
