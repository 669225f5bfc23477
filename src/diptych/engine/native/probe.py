"""Numerics ids: a digest of what the kernels of this build compute on this CPU.

A tiny model with fixed weights runs a fixed prompt through the same kernels, by chunks and by single
tokens; the digest is of the bits of its logits. Two builds or instruction sets whose arithmetic differs
anywhere on that path get unlike ids. The instruction set is named in the id as well: on the CPUs tried,
`avx512`, `avx2` and `plain` agree bit for bit (the tests compare them), but an id promises only what its
probe has seen.
"""

from __future__ import annotations

import hashlib
from functools import cache

import numpy as np
import numpy.typing as npt

from diptych.engine.native import _kernels, packing
from diptych.models.weights import Model, ModelConfig, WeightTensor

_CONFIG = ModelConfig(
    architecture="llama",
    layers=2,
    hidden=96,
    heads=4,
    kv_heads=2,
    head_dim=32,
    ffn=160,
    vocabulary=112,
    context_max=64,
    norm_epsilon=1e-5,
    rope_theta=10000.0,
    tied_head=True,
)


@cache
def numerics_id(format: str, isa: str | None = None) -> str:
    """`native/<format>/<instruction set>/<digest>`, for the chosen instruction set or for `isa`.

    Raises `ValueError` on an unknown format or an instruction set that this CPU does not have.
    """
    name = isa or _kernels.default_variant()
    return f"native/{format}/{name}/{_digest(format, name)}"


def _digest(format: str, isa: str) -> str:
    packed = _aligned(packing.packed_bytes(_CONFIG, format))
    packing.pack(_model(), format, packed.data)
    core = _kernels.Core(packing.geometry(_CONFIG), 1, [], 64, isa)
    core.add_weights(format, packed)
    page_bytes = 2 * _CONFIG.layers * _CONFIG.kv_heads * 16 * _CONFIG.head_dim * 2
    core.attach_pool(_aligned(4 * page_bytes), 4)
    tokens = ((np.arange(45, dtype=np.int64) * 37 + 11) % _CONFIG.vocabulary).astype(np.int32)
    pages = np.array([2, 0, 3], dtype=np.int32)
    digest = hashlib.sha256()
    for first, end in ((0, 33), (33, 44), (44, 45)):
        rows = core.step([(0, first, tokens[first:end], pages, 0)])
        digest.update(np.ascontiguousarray(core.logits(rows)).tobytes())
    return digest.hexdigest()[:16]


def _aligned(size: int) -> npt.NDArray[np.uint8]:
    """Zeroed bytes that start at a multiple of 64."""
    raw = np.zeros(size + 64, dtype=np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size]


def _model() -> Model:
    config = _CONFIG
    width = config.heads * config.head_dim
    kv_width = config.kv_heads * config.head_dim
    shapes: dict[str, tuple[int, ...]] = {
        "embedding": (config.vocabulary, config.hidden),
        "final_norm": (config.hidden,),
    }
    for layer in range(config.layers):
        prefix = f"layers.{layer}."
        shapes[prefix + "attention_norm"] = shapes[prefix + "mlp_norm"] = (config.hidden,)
        shapes[prefix + "query"] = (width, config.hidden)
        shapes[prefix + "key"] = shapes[prefix + "value"] = (kv_width, config.hidden)
        shapes[prefix + "output"] = (config.hidden, width)
        shapes[prefix + "gate"] = shapes[prefix + "up"] = (config.ffn, config.hidden)
        shapes[prefix + "down"] = (config.hidden, config.ffn)
    tensors = {name: _tensor(number, shape) for number, (name, shape) in enumerate(shapes.items())}
    return Model(name="probe", fingerprint="probe", config=config, tensors=tensors)


def _tensor(number: int, shape: tuple[int, ...]) -> WeightTensor:
    """Values in about [-0.25, 0.25) (norms around 1) from a multiplicative hash: the same everywhere."""
    index = np.arange(int(np.prod(shape)), dtype=np.uint32) + np.uint32(number * 1_000_003)
    mixed = index * np.uint32(2654435761)
    mixed = (mixed ^ (mixed >> np.uint32(15))) * np.uint32(2246822519)
    values = (mixed >> np.uint32(8)).astype(np.float32) / np.float32(2**25) - np.float32(0.25)
    if len(shape) == 1:
        values += np.float32(1)
    return WeightTensor(encoding="f32", shape=shape, data=values.reshape(shape))
