"""Packed weights: sizes, what is refused, and sharing one read-only mapping."""

from __future__ import annotations

import mmap
import os
from typing import Any

import msgspec
import numpy as np
import pytest

from diptych.engine.interface import Span
from diptych.engine.native import packing
from diptych.engine.native.engine import NativeEngine
from diptych.models.weights import Model, WeightTensor


def without(model: Model, name: str, tensor: WeightTensor | None = None) -> Model:
    tensors = {key: value for key, value in model.tensors.items() if key != name}
    return msgspec.structs.replace(model, tensors=tensors if tensor is None else {**tensors, name: tensor})


def pack(model: Model, format: str = "int8") -> np.ndarray:
    raw = np.zeros(packing.packed_bytes(model.config, format) + 64, np.uint8)
    start = -raw.ctypes.data % 64
    out = raw[start : len(raw) - 64 + start]
    packing.pack(model, format, out.data)
    return out


def test_bytes_per_weight(tiny: Any) -> None:
    """bf16 2, int8 1 + 1/12 (scale and padding), int4 5/8; the head of int4 is int8."""
    config = tiny(hidden=96, heads=3, kv_heads=3, head_dim=32, ffn=192, vocabulary=480, layers=3).config
    layer = 4 * 96 * 96 + 3 * 96 * 192
    head = 480 * 96
    vectors = (2 * 3 + 1) * 96 * 4 + 256
    for format, bits, head_bits in (
        ("bf16", 16, 16),
        ("int8", 8 * 13 / 12, 8 * 13 / 12),
        ("int4", 5, 8 * 13 / 12),
    ):
        want = (3 * layer * bits + head * head_bits) / 8 + vectors
        assert packing.packed_bytes(config, format) == pytest.approx(want, abs=1024)


def test_unknown_format(tiny: Any) -> None:
    with pytest.raises(ValueError, match=r"format 'fp8': must be bf16, int8 or int4"):
        packing.packed_bytes(tiny().config, "fp8")


def test_a_buffer_too_small(tiny: Any) -> None:
    with pytest.raises(ValueError, match=r"out: too small"):
        packing.pack(tiny(), "int8", memoryview(bytearray(1000)))


@pytest.mark.parametrize("name", ["embedding", "final_norm", "layers.1.down", "layers.0.mlp_norm"])
def test_a_missing_tensor_is_named(name: str, tiny: Any) -> None:
    with pytest.raises(ValueError, match=rf"tensor {name}: missing from model tiny"):
        pack(without(tiny(), name))


@pytest.mark.parametrize(
    ("shape", "message"),
    [((96, 32), r"shape \[96, 32\]: must be \[64, 96\]"), ((64, 96, 1), r".*neither a vector nor a matrix")],
)
def test_a_tensor_of_another_shape(shape: tuple[int, ...], message: str, tiny: Any) -> None:
    tensor = WeightTensor(encoding="f32", shape=shape, data=np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match=rf"tensor layers.0.down: {message}"):
        pack(without(tiny(), "layers.0.down", tensor))


def test_a_tensor_of_another_encoding_or_with_bytes_missing(tiny: Any) -> None:
    data = np.zeros((64, 60), np.uint8)
    with pytest.raises(ValueError, match=r"encoding 'q6_k': must be f32, f16, bf16, q8_0 or q4_1"):
        pack(without(tiny(), "layers.0.down", WeightTensor(encoding="q6_k", shape=(64, 96), data=data)))
    with pytest.raises(ValueError, match=r"tensor layers.0.down: .*bytes of q4_1"):
        pack(without(tiny(), "layers.0.down", WeightTensor(encoding="q4_1", shape=(64, 96), data=data[:-1])))


@pytest.mark.parametrize("format", ["bf16", "int8", "int4"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite(value: float, format: str, tiny: Any) -> None:
    for name, shape in (("layers.1.down", (64, 96)), ("layers.0.mlp_norm", (64,))):
        data = np.zeros(shape, np.float32)
        data[-1] = value
        tensor = WeightTensor(encoding="f32", shape=shape, data=data)
        with pytest.raises(ValueError, match=rf"tensor {name}: .*not finite"):
            pack(without(tiny(), name, tensor), format)


def test_equal_models_pack_into_equal_bytes(tiny: Any) -> None:
    for format in packing.FORMATS:
        np.testing.assert_array_equal(pack(tiny(), format), pack(tiny(), format))


def test_two_engines_share_one_sealed_read_only_mapping(tiny: Any) -> None:
    model = tiny()
    size = packing.packed_bytes(model.config, "int4")
    descriptor = os.memfd_create("weights", os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, size)
        with mmap.mmap(descriptor, size) as writable:
            view = memoryview(writable)
            packing.pack(model, "int4", view)
            view.release()
        mappings = [mmap.mmap(descriptor, size, prot=mmap.PROT_READ) for _ in range(2)]
    finally:
        os.close(descriptor)
    rows = []
    for mapping in mappings:
        engine = NativeEngine(model.config, {"int4": memoryview(mapping)}, model.fingerprint, "int4")
        pool = mmap.mmap(-1, 4 * engine.kv_format.page_bytes)
        engine.attach_pool(memoryview(pool), 4)
        step = Span(
            first_position=0,
            tokens=np.arange(10, dtype=np.int32),
            pages=np.array([3], np.int32),
            numerics=engine.capabilities.numerics[0],
            logits_from=0,
        )
        rows.append(engine.logits(engine.step([step])))
        engine.close()
    np.testing.assert_array_equal(rows[0], rows[1])
    assert np.isfinite(rows[0]).all()
