"""Dequantisation against the `gguf` package's reference, bit for bit."""

from __future__ import annotations

import gguf
import numpy as np
import pytest

from diptych.models.encoding import dequantise, row_bytes
from diptych.models.errors import ModelError

KINDS = {"q8_0": gguf.GGMLQuantizationType.Q8_0, "q4_1": gguf.GGMLQuantizationType.Q4_1}


def random_blocks(encoding: str, rows: int, elements: int) -> np.ndarray:
    """Random bytes as blocks, with finite scales of every magnitude, subnormal ones included."""
    generator = np.random.default_rng(3)
    data = generator.integers(0, 256, (rows, row_bytes(encoding, elements)), dtype=np.uint8)
    blocks = data.reshape(-1, row_bytes(encoding, 32))
    scales = blocks[:, : 2 if encoding == "q8_0" else 4].copy().view(np.uint16)
    scales &= 0xBFFF  # keeps the exponent below that of infinity and NaN
    blocks[:, : 2 * scales.shape[1]] = scales.view(np.uint8)
    return data


@pytest.mark.parametrize("encoding", sorted(KINDS))
def test_blocks_equal_the_reference(encoding: str) -> None:
    data = random_blocks(encoding, 40, 96)
    ours = dequantise(encoding, (40, 96), data)
    reference = gguf.quants.dequantize(data, KINDS[encoding])
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours.view(np.uint32), reference.view(np.uint32))


def test_sixteen_bit_floats_are_exact() -> None:
    bits = np.arange(65536, dtype=np.uint16)
    half = dequantise("f16", (256, 256), bits.reshape(256, 256))
    np.testing.assert_array_equal(half.reshape(-1), bits.view(np.float16).astype(np.float32))
    brain = dequantise("bf16", (256, 256), bits.reshape(256, 256))
    np.testing.assert_array_equal(brain.view(np.uint32).reshape(-1) >> 16, bits)
    assert dequantise("bf16", (1,), np.array([0x3F80], np.uint16))[0] == 1.0


def test_float32_is_a_copy() -> None:
    data = np.ones(4, np.float32)
    copied = dequantise("f32", (2, 2), data)
    copied[0, 0] = 5.0
    assert data[0] == 1.0


def test_errors_name_what_is_wrong() -> None:
    with pytest.raises(ModelError, match="q2_k"):
        dequantise("q2_k", (1, 32), np.zeros(32, np.uint8))
    with pytest.raises(ModelError, match=r"33 bytes for shape \(1, 32\), expected 34"):
        dequantise("q8_0", (1, 32), np.zeros(33, np.uint8))
    with pytest.raises(ModelError, match="multiple of 32"):
        row_bytes("q4_1", 40)
