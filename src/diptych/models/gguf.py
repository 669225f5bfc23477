"""Models from GGUF files: llama.cpp's names and row order turned into ours.

Quantised blocks stay as they are in the file. llama.cpp stores the query and key rows of `llama`
models so that rotary pairs are neighbours; we undo that by moving whole rows, which block encodings
allow because blocks never cross a row.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.models.errors import ModelError, UnsupportedArchitectureError
from diptych.models.fingerprint import fingerprint
from diptych.models.gguf_file import GgufFile
from diptych.models.rope import scaling_from_factors
from diptych.models.tensors import check_tensors
from diptych.models.weights import Model, ModelConfig, RopeScaling, WeightTensor

ARCHITECTURES = ("llama", "qwen2", "qwen3")

_ROPE_FACTORS = "rope_freqs.weight"

_TOP_NAMES = {
    "token_embd.weight": "embedding",
    "output.weight": "head",
    "output_norm.weight": "final_norm",
}
_LAYER_NAMES = {
    "attn_norm.weight": "attention_norm",
    "ffn_norm.weight": "mlp_norm",
    "attn_q.weight": "query",
    "attn_k.weight": "key",
    "attn_v.weight": "value",
    "attn_output.weight": "output",
    "ffn_gate.weight": "gate",
    "ffn_up.weight": "up",
    "ffn_down.weight": "down",
    "attn_q.bias": "query_bias",
    "attn_k.bias": "key_bias",
    "attn_v.bias": "value_bias",
    "attn_q_norm.weight": "query_norm",
    "attn_k_norm.weight": "key_norm",
}


def load_gguf(path: str | Path, *, name: str | None = None) -> Model:
    """The model in a GGUF file; tensors are views of the memory-mapped file.

    `name` is what clients call it (default: the file's stem). Raises `UnsupportedArchitectureError`, or
    `ModelError` naming the file and the metadata key or tensor at fault.
    """
    file = GgufFile(Path(path))
    return model_from_gguf(file, name=name)


def model_from_gguf(file: GgufFile, *, name: str | None = None) -> Model:
    """As `load_gguf`, for a file that is already open (its vocabulary is then read only once)."""
    config = config_from_gguf(file)
    tensors = {}
    for source in file.tensors:
        if source == _ROPE_FACTORS:
            continue
        target = _canonical_name(source)
        if target is None:
            raise ModelError(f"{file.path}: tensor {source} is not part of a {config.architecture} model")
        tensors[target] = _tensor(file, source, target, config)
    check_tensors(config, tensors, str(file.path))
    return Model(
        name=name or file.path.stem, fingerprint=fingerprint(config, tensors), config=config, tensors=tensors
    )


def config_from_gguf(file: GgufFile) -> ModelConfig:
    """The geometry that the metadata describes; no tensor is read but the rotary factors."""
    architecture = file.metadata.get("general.architecture")
    if architecture not in ARCHITECTURES:
        raise UnsupportedArchitectureError(
            f"{file.path}: architecture {architecture!r} is not supported; supported are "
            f"{', '.join(ARCHITECTURES)}"
        )
    read = _Metadata(file, architecture)
    hidden = read.integer("embedding_length")
    heads = read.integer("attention.head_count")
    kv_heads = read.integer("attention.head_count_kv", heads)
    head_dim = read.integer("attention.key_length", hidden // heads)
    _refuse_options(read, head_dim)
    return ModelConfig(
        architecture=architecture,
        layers=read.integer("block_count"),
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        ffn=read.integer("feed_forward_length"),
        vocabulary=_shape(file, "token_embd.weight")[0],
        context_max=read.integer("context_length"),
        norm_epsilon=read.epsilon(),
        rope_theta=float(read.value("rope.freq_base", 10_000.0)),
        rope_scaling=_rope_scaling(file, read, head_dim),
        tied_head="output.weight" not in file.tensors,
        qkv_bias="blk.0.attn_q.bias" in file.tensors,
        qk_norm="blk.0.attn_q_norm.weight" in file.tensors,
    )


class _Metadata:
    """Metadata under the architecture's own prefix, with errors that name the key."""

    def __init__(self, file: GgufFile, architecture: str) -> None:
        self.file = file
        self._prefix = architecture

    def value(self, key: str, default: Any = None) -> Any:
        value = self.file.metadata.get(f"{self._prefix}.{key}", default)
        if value is None:
            raise ModelError(f"{self.file.path}: metadata {self._prefix}.{key} is missing")
        return value

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.value(key, default)
        if not isinstance(value, int) or value <= 0:
            raise ModelError(
                f"{self.file.path}: metadata {self._prefix}.{key} is {value!r}, expected a positive integer"
            )
        return value

    def epsilon(self) -> float:
        # The file holds the nearest float32 of a decimal such as 1e-5; the decimal is what was meant.
        return float(str(np.float32(self.value("attention.layer_norm_rms_epsilon"))))


def _refuse_options(read: _Metadata, head_dim: int) -> None:
    """Options that would change results and that no engine here computes."""
    path = read.file.path
    rotary = read.integer("rope.dimension_count", head_dim)
    if rotary != head_dim:
        raise UnsupportedArchitectureError(
            f"{path}: rotary dimensions {rotary} of {head_dim} per head; all are needed"
        )
    value_dim = read.integer("attention.value_length", head_dim)
    if value_dim != head_dim:
        raise UnsupportedArchitectureError(
            f"{path}: head size {head_dim} for keys but {value_dim} for values"
        )
    if read.value("expert_count", 0):
        raise UnsupportedArchitectureError(
            f"{path}: mixture of experts ({read.value('expert_count')} experts)"
        )
    scaling = read.value("rope.scaling.type", "none")
    if scaling != "none":
        raise UnsupportedArchitectureError(
            f"{path}: rotary scaling {scaling!r}; supported are none and llama3"
        )


def _rope_scaling(file: GgufFile, read: _Metadata, head_dim: int) -> RopeScaling | None:
    if _ROPE_FACTORS not in file.tensors:
        return None
    tensor = file.tensors[_ROPE_FACTORS]
    factors = WeightTensor(tensor.encoding, tensor.shape, file.array(_ROPE_FACTORS)).float32()
    theta = float(read.value("rope.freq_base", 10_000.0))
    return scaling_from_factors(factors, theta, head_dim, str(file.path))


def _shape(file: GgufFile, name: str) -> tuple[int, ...]:
    if name not in file.tensors:
        raise ModelError(f"{file.path}: tensor {name} is missing")
    return file.tensors[name].shape


def _canonical_name(source: str) -> str | None:
    if source in _TOP_NAMES:
        return _TOP_NAMES[source]
    parts = source.split(".", 2)
    if len(parts) != 3 or parts[0] != "blk" or not parts[1].isdecimal():
        return None
    target = _LAYER_NAMES.get(parts[2])
    return target and f"layers.{int(parts[1])}.{target}"


def _tensor(file: GgufFile, source: str, target: str, config: ModelConfig) -> WeightTensor:
    entry, data = file.tensors[source], file.array(source)
    if config.architecture == "llama" and target.endswith((".query", ".key", ".query_bias", ".key_bias")):
        data = _half_split(data, config.head_dim)
    return WeightTensor(entry.encoding, entry.shape, data)


def _half_split(data: npt.NDArray[Any], head_dim: int) -> npt.NDArray[Any]:
    """Rows from pairs (2j, 2j + 1) back to pairs (j, j + head_dim / 2), head by head."""
    if data.shape[0] % head_dim:
        raise ModelError(f"{data.shape[0]} query or key rows are not a multiple of the head size {head_dim}")
    rows = data.reshape(-1, head_dim // 2, 2, *data.shape[1:])
    return np.ascontiguousarray(rows.swapaxes(1, 2)).reshape(data.shape)
