"""Which tensors a configuration calls for, and of what shape."""

from __future__ import annotations

from collections.abc import Mapping

from diptych.models.errors import ModelError
from diptych.models.weights import ModelConfig, WeightTensor


def expected_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Canonical name to logical shape of every tensor of the model."""
    hidden, head_dim = config.hidden, config.head_dim
    query_rows, key_rows = config.heads * head_dim, config.kv_heads * head_dim
    layer: dict[str, tuple[int, ...]] = {
        "attention_norm": (hidden,),
        "mlp_norm": (hidden,),
        "query": (query_rows, hidden),
        "key": (key_rows, hidden),
        "value": (key_rows, hidden),
        "output": (hidden, query_rows),
        "gate": (config.ffn, hidden),
        "up": (config.ffn, hidden),
        "down": (hidden, config.ffn),
    }
    if config.qkv_bias:
        layer |= {"query_bias": (query_rows,), "key_bias": (key_rows,), "value_bias": (key_rows,)}
    if config.qk_norm:
        layer |= {"query_norm": (head_dim,), "key_norm": (head_dim,)}
    shapes: dict[str, tuple[int, ...]] = {
        "embedding": (config.vocabulary, hidden),
        "final_norm": (hidden,),
    }
    if not config.tied_head:
        shapes["head"] = (config.vocabulary, hidden)
    for index in range(config.layers):
        shapes |= {f"layers.{index}.{name}": shape for name, shape in layer.items()}
    return shapes


def check_tensors(config: ModelConfig, tensors: Mapping[str, WeightTensor], source: str) -> None:
    """Raises `ModelError` naming the first tensor that is missing, superfluous or of another shape, and
    on a geometry that cannot be (heads not a multiple of key/value heads, odd head size)."""
    if config.heads % config.kv_heads:
        raise ModelError(f"{source}: {config.heads} heads are not a multiple of {config.kv_heads} kv heads")
    if config.head_dim % 2:
        raise ModelError(f"{source}: head size {config.head_dim} is odd; rotary pairs need an even one")
    shapes = expected_shapes(config)
    for name, shape in shapes.items():
        if name not in tensors:
            raise ModelError(f"{source}: tensor {name} is missing")
        if tensors[name].shape != shape:
            raise ModelError(f"{source}: tensor {name} has shape {tensors[name].shape}, expected {shape}")
    for name in tensors:
        if name not in shapes:
            raise ModelError(f"{source}: tensor {name} is not part of this {config.architecture} model")
