"""A model as the engines see it: its configuration and its named tensors, whatever file they came from.

Canonical tensor names (each `[out, in]` row-major, one row per output feature):

    embedding                              [vocabulary, hidden]
    head                                   [vocabulary, hidden]   (absent where tied)
    final_norm                             [hidden]
    layers.{i}.attention_norm, layers.{i}.mlp_norm                [hidden]
    layers.{i}.query, .key, .value         [heads or kv_heads * head_dim, hidden]
    layers.{i}.output                      [hidden, heads * head_dim]
    layers.{i}.gate, .up                   [ffn, hidden]
    layers.{i}.down                        [hidden, ffn]
    layers.{i}.query_bias, .key_bias, .value_bias                 (Qwen2)
    layers.{i}.query_norm, .key_norm       [head_dim]             (Qwen3)

Query and key rows are in half-split rotary order (pairs (j, j + head_dim / 2)), as in the Hugging Face
checkpoints; the GGUF reader undoes llama.cpp's interleaving.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt


class RopeScaling(msgspec.Struct, frozen=True, kw_only=True):
    """Llama 3's rotary scaling (`rope_type: llama3` in a Hugging Face config)."""

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_context: int


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Geometry of a dense decoder-only transformer with RMS norms, SwiGLU and grouped-query attention."""

    architecture: str
    """`llama`, `qwen2` or `qwen3`."""
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocabulary: int
    context_max: int
    norm_epsilon: float
    rope_theta: float
    rope_scaling: RopeScaling | None = None
    tied_head: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False


class WeightTensor(msgspec.Struct, frozen=True):
    """One tensor, still in the encoding of its file.

    `encoding` is `f32`, `f16`, `bf16` (data: uint16 bits), `q8_0` or `q4_1` (data: uint8
    [rows, row bytes], GGUF blocks of 32 along the input axis); `shape` is the logical shape.
    """

    encoding: str
    shape: tuple[int, ...]
    data: npt.NDArray[Any]

    def float32(self) -> npt.NDArray[np.float32]:
        """The tensor dequantised, [*shape]; the yardstick for every engine's accuracy."""
        from diptych.models.encoding import dequantise

        return dequantise(self.encoding, self.shape, self.data)


class Model(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    """What clients call it."""
    fingerprint: str
    """Hex digest of the configuration and the weights' bytes (or the file's identity)."""
    config: ModelConfig
    tensors: Mapping[str, WeightTensor]
