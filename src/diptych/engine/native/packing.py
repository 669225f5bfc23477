"""Weights for the native kernels: packed once, read by every worker of the host.

A packed model is one flat buffer (a memfd, for instance) that holds no pointers: a header that names
model geometry and format, then each matrix as panels of 48 outputs. Formats:

* `bf16`: every matrix in bfloat16;
* `int8`: groups of 32 along the input axis with a float16 scale (Q8_0 blocks of a GGUF are kept as they
  are);
* `int4`: groups of 32 with float16 scale and minimum (Q4_1 blocks are kept as they are); embedding and
  head stay int8.

With int8 and int4 the inputs of a product are quantised to int8 by row and group of 32.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from diptych.engine.native import _kernels
from diptych.models.weights import Model, ModelConfig, WeightTensor

FORMATS = ("int8", "int4", "bf16")

ARCHITECTURES = ("llama", "qwen2", "qwen3")

_FIELDS = (
    "layers",
    "hidden",
    "heads",
    "kv_heads",
    "head_dim",
    "ffn",
    "vocabulary",
    "context_max",
    "norm_epsilon",
    "rope_theta",
    "tied_head",
    "qkv_bias",
    "qk_norm",
)


def geometry(config: ModelConfig) -> _kernels.Geometry:
    """The kernels' view of a configuration. Raises `ValueError` naming the field they cannot run."""
    if config.architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ValueError(f"architecture {config.architecture!r}: the native engine runs {known}")
    fields: dict[str, Any] = {name: getattr(config, name) for name in _FIELDS}
    if config.rope_scaling is not None:
        fields["rope_factor"] = config.rope_scaling.factor
        fields["rope_low"] = config.rope_scaling.low_frequency_factor
        fields["rope_high"] = config.rope_scaling.high_frequency_factor
        fields["rope_original_context"] = config.rope_scaling.original_context
    return _kernels.Geometry(fields)


def packed_bytes(config: ModelConfig, format: str) -> int:
    """Size of the packed model in bytes. Raises `ValueError` naming what the kernels cannot run."""
    return _kernels.Packer(geometry(config), format).bytes


def pack(model: Model, format: str, out: memoryview) -> None:
    """Packs `model` into `out`, at least `packed_bytes(model.config, format)` writable bytes.

    Raises `ValueError` naming the tensor that is missing or does not fit.
    """
    packer = _kernels.Packer(geometry(model.config), format)
    buffer = np.frombuffer(out, dtype=np.uint8)
    packer.write_header(buffer)
    for name, slot, layer in _slots(model.config):
        if name not in model.tensors:
            raise ValueError(f"tensor {name}: missing from model {model.name}")
        _pack_tensor(packer, buffer, name, slot, layer, model.tensors[name])


def _slots(config: ModelConfig) -> Iterator[tuple[str, str, int]]:
    yield "embedding", "embedding", -1
    yield "final_norm", "final_norm", -1
    if not config.tied_head:
        yield "head", "head", -1
    slots = ["attention_norm", "query", "key", "value", "output", "mlp_norm", "gate", "up", "down"]
    if config.qkv_bias:
        slots += ["query_bias", "key_bias", "value_bias"]
    if config.qk_norm:
        slots += ["query_norm", "key_norm"]
    for layer in range(config.layers):
        for slot in slots:
            yield f"layers.{layer}.{slot}", slot, layer


def _pack_tensor(
    packer: _kernels.Packer,
    buffer: np.ndarray[Any, np.dtype[np.uint8]],
    name: str,
    slot: str,
    layer: int,
    tensor: WeightTensor,
) -> None:
    if len(tensor.shape) not in (1, 2):
        raise ValueError(f"tensor {name}: shape {tensor.shape} is neither a vector nor a matrix")
    rows = tensor.shape[0] if len(tensor.shape) == 2 else 1
    data = np.ascontiguousarray(tensor.data).reshape(-1).view(np.uint8)
    try:
        packer.pack(buffer, slot, layer, tensor.encoding, rows, tensor.shape[-1], data)
    except ValueError as error:
        raise ValueError(f"tensor {name}: {error}") from None
