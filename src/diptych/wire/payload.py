"""The part of a request that only its door and its step loops read: tokens and how to sample. Pure.

The core has no token ids. A payload rides beside a fact as its attachment: the door makes it, control
keeps the newest one of each request as opaque bytes, the worker's port hands it to its step loop.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from diptych.core.ids import PageHash
from diptych.engine.interface import SamplingParameters
from diptych.wire.errors import UNDECODABLE, MalformedMessage

__all__ = ["PromptPayload", "decode_payload", "encode_payload", "pack_tokens", "unpack_tokens"]

TOKEN_BYTES = 4


def pack_tokens(tokens: Sequence[int] | npt.NDArray[np.int32]) -> bytes:
    """Token ids as little-endian int32. Raises `OverflowError` on an id that is none."""
    return np.asarray(tokens, dtype="<i4").tobytes()


def unpack_tokens(data: bytes) -> npt.NDArray[np.int32]:
    """int32 [count], read-only, over `data`. Raises `MalformedMessage` where it is cut."""
    if len(data) % TOKEN_BYTES:
        raise MalformedMessage(f"{len(data)} bytes are no whole number of int32 tokens")
    return np.frombuffer(data, dtype="<i4")


class PromptPayload(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """One request as the step loop needs it; tokens packed by `pack_tokens`."""

    prompt: bytes
    chain_root: PageHash
    """`hashing.chain_root` of the request: what the hash of its first page starts from."""
    sampling: SamplingParameters = SamplingParameters()
    stop: tuple[bytes, ...] = ()
    """A sequence ends when its output's bytes contain one of these; none is empty."""
    stop_tokens: tuple[int, ...] = ()
    score_prompt: bool = False
    sequences: int = 1
    emitted: tuple[bytes, ...] = ()
    """Output tokens that the client has, one entry per sequence (finished ones too), or empty."""

    def emitted_tokens(self, sequence: int) -> npt.NDArray[np.int32]:
        """int32 [emitted]: what `sequence` has given so far."""
        return unpack_tokens(self.emitted[sequence] if self.emitted else b"")


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(PromptPayload)


def encode_payload(payload: PromptPayload) -> bytes:
    return _encoder.encode(payload)


def decode_payload(data: bytes) -> PromptPayload:
    """Raises `MalformedMessage` naming the field that is wrong."""
    try:
        payload = _decoder.decode(data)
    except UNDECODABLE as error:
        raise MalformedMessage(f"prompt payload: {error}") from error
    if not payload.prompt:
        raise MalformedMessage("prompt payload: `prompt` is empty, at least one token is needed")
    if payload.emitted and len(payload.emitted) != payload.sequences:
        raise MalformedMessage(
            f"prompt payload: `emitted` has {len(payload.emitted)} entries for {payload.sequences} sequences"
        )
    if b"" in payload.stop:
        raise MalformedMessage("prompt payload: `stop` holds an empty string")
    for name, data_of_field in (("prompt", payload.prompt), *(("emitted", part) for part in payload.emitted)):
        if len(data_of_field) % TOKEN_BYTES:
            raise MalformedMessage(f"prompt payload: `{name}` is no whole number of int32 tokens")
    return payload
