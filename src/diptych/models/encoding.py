"""Tensor encodings: what the bytes of a weight tensor mean, as float32.

The block formats are those of the GGUF specification. Each block holds 32 consecutive elements along
the input axis:

    q8_0   34 bytes: float16 scale d, int8 q[32]                       value = d * q
    q4_1   20 bytes: float16 scale d, float16 minimum m, nibbles[16]   value = d * q + m
           element i < 16 is the low nibble of byte i, element 16 + i the high nibble
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from diptych.models.errors import ModelError

BLOCK_ELEMENTS = 32


class Encoding(msgspec.Struct, frozen=True):
    """Size of an encoding: `block_bytes` bytes hold `block_elements` consecutive elements of a row."""

    name: str
    block_elements: int
    block_bytes: int
    storage: type[np.generic]
    """NumPy type of `WeightTensor.data`; `uint8` rows of blocks for the quantised ones."""

    @property
    def quantised(self) -> bool:
        return self.block_elements > 1


ENCODINGS = {
    encoding.name: encoding
    for encoding in (
        Encoding("f32", 1, 4, np.float32),
        Encoding("f16", 1, 2, np.uint16),
        Encoding("bf16", 1, 2, np.uint16),
        Encoding("q8_0", BLOCK_ELEMENTS, 34, np.uint8),
        Encoding("q4_1", BLOCK_ELEMENTS, 20, np.uint8),
    )
}


def row_bytes(encoding: str, elements: int) -> int:
    """Bytes of one row of `elements` elements. Raises `ModelError` where blocks do not fit the row."""
    layout = _layout(encoding)
    if elements % layout.block_elements:
        raise ModelError(
            f"encoding {encoding}: a row of {elements} elements is not a multiple of {layout.block_elements}"
        )
    return elements // layout.block_elements * layout.block_bytes


def dequantise(encoding: str, shape: tuple[int, ...], data: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """The tensor as float32 [*shape].

    `data` is as `WeightTensor.data` describes it. Exact: every product and sum is computed in float32
    in the order of the GGUF definitions, so the result equals the reference implementation bit for bit.
    Raises `ModelError` for an unknown encoding or a size that does not fit `shape`.
    """
    expected = int(np.prod(shape[:-1], dtype=np.int64)) * row_bytes(encoding, shape[-1])
    if data.nbytes != expected:
        raise ModelError(f"encoding {encoding}: {data.nbytes} bytes for shape {shape}, expected {expected}")
    flat = np.ascontiguousarray(data).reshape(-1)
    if encoding == "f32":
        return flat.view(np.float32).reshape(shape).copy()
    if encoding == "f16":
        return flat.view(np.float16).astype(np.float32).reshape(shape)
    if encoding == "bf16":
        return (flat.view(np.uint16).astype(np.uint32) << 16).view(np.float32).reshape(shape)
    blocks = flat.view(np.uint8).reshape(-1, ENCODINGS[encoding].block_bytes)
    values = _q8_0(blocks) if encoding == "q8_0" else _q4_1(blocks)
    return values.reshape(shape)


def _layout(encoding: str) -> Encoding:
    try:
        return ENCODINGS[encoding]
    except KeyError:
        raise ModelError(f"encoding {encoding!r} is none of {', '.join(sorted(ENCODINGS))}") from None


def _q8_0(blocks: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    scale = blocks[:, :2].copy().view(np.float16).astype(np.float32)
    return np.multiply(blocks[:, 2:].view(np.int8), scale, dtype=np.float32)


def _q4_1(blocks: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    scale = blocks[:, 0:2].copy().view(np.float16).astype(np.float32)
    minimum = blocks[:, 2:4].copy().view(np.float16).astype(np.float32)
    nibbles = blocks[:, 4:]
    values = np.empty((len(blocks), BLOCK_ELEMENTS), np.float32)
    values[:, :16] = nibbles & 15
    values[:, 16:] = nibbles >> 4
    values *= scale
    values += minimum
    return values
