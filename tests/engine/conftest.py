"""A tiny model and a small pool for tests of engines."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from diptych.models.fingerprint import fingerprint
from diptych.models.tensors import expected_shapes
from diptych.models.weights import Model, ModelConfig, WeightTensor

CONFIG = ModelConfig(
    architecture="llama",
    layers=2,
    hidden=96,
    heads=4,
    kv_heads=2,
    head_dim=32,
    ffn=160,
    vocabulary=112,
    context_max=512,
    norm_epsilon=1e-5,
    rope_theta=10000.0,
    tied_head=True,
)


def random_model(config: ModelConfig = CONFIG, seed: int = 1) -> Model:
    """Weights of a size that makes attention pick, not average."""
    generator = np.random.default_rng(seed)
    tensors = {}
    for name, shape in expected_shapes(config).items():
        values = generator.standard_normal(shape).astype(np.float32)
        values = 1 + 0.1 * values if name.endswith("_norm") else values * np.float32(1.5 / np.sqrt(shape[-1]))
        tensors[name] = WeightTensor("f32", shape, values)
    return Model(name="tiny", fingerprint=fingerprint(config, tensors), config=config, tensors=tensors)


@pytest.fixture(scope="session")
def tiny_model() -> Model:
    return random_model()


@pytest.fixture
def make_pool() -> Callable[[int], memoryview]:
    """Zeroed bytes at a multiple of 4096, as a shared mapping would be."""

    def make(size_bytes: int) -> memoryview:
        memory = np.zeros(size_bytes + 4096, np.uint8)
        start = -memory.ctypes.data % 4096
        return memory[start : start + size_bytes].data

    return make
