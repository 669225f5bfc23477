"""What control lets its doors know of the fleet without being asked: `Answered` with serial 0."""

from __future__ import annotations

import msgspec


class FleetState(msgspec.Struct, frozen=True, kw_only=True):
    ready: bool = False
    """At least one worker serves."""
    complete: bool = False
    """All workers that the host should run serve."""


_DECODER = msgspec.json.Decoder(FleetState)


def encode_fleet(state: FleetState) -> bytes:
    return msgspec.json.encode(state)


def decode_fleet(document: bytes) -> FleetState:
    """Raises `msgspec.ValidationError` on anything else."""
    return _DECODER.decode(document)
