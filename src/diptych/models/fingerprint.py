"""The identity of a model: whose KV pages may be mixed with whose."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec
import numpy as np

from diptych.models.weights import ModelConfig, WeightTensor

PIECES = 8
PIECE_BYTES = 16 * 1024


def fingerprint(config: ModelConfig, tensors: Mapping[str, WeightTensor]) -> str:
    """SHA-256 (32 hex digits of it) over the configuration and every tensor's name, shape, encoding and
    bytes.

    Of a tensor larger than 128 KiB, eight evenly spaced pieces of 16 KiB are read, the first and the
    last included: training and merged adapters change whole matrices, and hashing tens of gigabytes at
    every start would cost more than loading them.
    """
    digest = hashlib.sha256(msgspec.json.encode(config))
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"\n{name} {tensor.encoding} {tensor.shape}\n".encode())
        data = np.ascontiguousarray(tensor.data).reshape(-1).view(np.uint8)
        if data.size <= PIECES * PIECE_BYTES:
            digest.update(data.tobytes())
            continue
        for piece in range(PIECES):
            start = (data.size - PIECE_BYTES) * piece // (PIECES - 1)
            digest.update(data[start : start + PIECE_BYTES].tobytes())
    return digest.hexdigest()[:32]
