"""Models from Hugging Face folders: `config.json` and one or several safetensors shards."""

from __future__ import annotations

import json
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from diptych.models.encoding import ENCODINGS
from diptych.models.errors import ModelError, UnsupportedArchitectureError
from diptych.models.fingerprint import fingerprint
from diptych.models.hf_config import config_from_hf
from diptych.models.tensors import check_tensors
from diptych.models.tokenizer import read_json
from diptych.models.weights import Model, ModelConfig, WeightTensor

_ENCODINGS = {"F32": "f32", "F16": "f16", "BF16": "bf16"}
_HEADER_BYTES_MAX = 100_000_000
"""The safetensors format's own limit."""

_TOP_NAMES = {
    "model.embed_tokens.weight": "embedding",
    "lm_head.weight": "head",
    "model.norm.weight": "final_norm",
}
_LAYER_NAMES = {
    "input_layernorm.weight": "attention_norm",
    "post_attention_layernorm.weight": "mlp_norm",
    "self_attn.q_proj.weight": "query",
    "self_attn.k_proj.weight": "key",
    "self_attn.v_proj.weight": "value",
    "self_attn.o_proj.weight": "output",
    "mlp.gate_proj.weight": "gate",
    "mlp.up_proj.weight": "up",
    "mlp.down_proj.weight": "down",
    "self_attn.q_proj.bias": "query_bias",
    "self_attn.k_proj.bias": "key_bias",
    "self_attn.v_proj.bias": "value_bias",
    "self_attn.q_norm.weight": "query_norm",
    "self_attn.k_norm.weight": "key_norm",
}
_DERIVED_SUFFIX = ".rotary_emb.inv_freq"
"""Saved by old versions of transformers; computed from the configuration here."""


def load_safetensors(folder: str | Path, *, name: str | None = None) -> Model:
    """The model in a Hugging Face folder; tensors are views of the memory-mapped shards.

    `name` is what clients call it (default: the folder's name). Raises `UnsupportedArchitectureError`, or
    `ModelError` naming the file and the key or tensor at fault.
    """
    folder = Path(folder)
    config = load_config(folder)
    tensors: dict[str, WeightTensor] = {}
    for shard in _shards(folder):
        for source, tensor in _read_shard(shard).items():
            target = _canonical_name(source, config)
            if target is not None:
                tensors[target] = tensor
    check_tensors(config, tensors, str(folder))
    return Model(
        name=name or folder.resolve().name,
        fingerprint=fingerprint(config, tensors),
        config=config,
        tensors=tensors,
    )


def load_config(folder: Path) -> ModelConfig:
    """The geometry in `config.json`; no tensor is read."""
    settings = read_json(folder / "config.json")
    if not settings:
        raise ModelError(f"{folder}: config.json is missing or empty")
    return config_from_hf(settings, str(folder / "config.json"))


def _shards(folder: Path) -> list[Path]:
    index = read_json(folder / "model.safetensors.index.json")
    if index:
        weight_map = index.get("weight_map")
        if not isinstance(weight_map, dict):
            raise ModelError(f"{folder}/model.safetensors.index.json: weight_map is missing")
        names = sorted({str(value) for value in weight_map.values()})
        if outside := [name for name in names if Path(name).name != name]:
            raise ModelError(
                f"{folder}/model.safetensors.index.json: shard {outside[0]} is not in the folder"
            )
        paths = [folder / name for name in names]
    else:
        paths = [folder / "model.safetensors"]
    for path in paths:
        if not path.is_file():
            raise ModelError(f"{path} is missing")
    return paths


def _read_shard(path: Path) -> dict[str, WeightTensor]:
    """Parsed here, not by the `safetensors` package: NumPy has no bfloat16, so that package would need
    torch to return these tensors, and we want the bytes as they are."""
    with path.open("rb") as file:
        size_bytes = path.stat().st_size
        if size_bytes < 8:
            raise ModelError(f"{path}: {size_bytes} bytes are too few for a safetensors file")
        data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    (header_bytes,) = struct.unpack_from("<Q", data)
    start = 8 + header_bytes
    if header_bytes > _HEADER_BYTES_MAX or start > size_bytes:
        raise ModelError(f"{path}: header of {header_bytes} bytes reaches past the end of the file")
    try:
        header = json.loads(data[8:start])
    except ValueError as error:
        raise ModelError(f"{path}: header is not valid JSON: {error}") from error
    return {
        name: _tensor(data, start, name, entry, path)
        for name, entry in header.items()
        if name != "__metadata__" and not name.endswith(_DERIVED_SUFFIX)
    }


def _tensor(data: mmap.mmap, start: int, name: str, entry: Mapping[str, Any], path: Path) -> WeightTensor:
    encoding = _ENCODINGS.get(entry["dtype"])
    if encoding is None:
        raise UnsupportedArchitectureError(
            f"{path}: tensor {name} has dtype {entry['dtype']}; supported are {', '.join(_ENCODINGS)}"
        )
    shape = tuple(int(extent) for extent in entry["shape"])
    begin, end = entry["data_offsets"]
    count, layout = int(np.prod(shape, dtype=object)), ENCODINGS[encoding]
    if not 0 <= begin <= end <= len(data) - start or end - begin != count * layout.block_bytes:
        raise ModelError(f"{path}: tensor {name} has offsets {begin}..{end}, which do not fit shape {shape}")
    array = np.frombuffer(data, layout.storage, count, start + begin)
    return WeightTensor(encoding, shape, array.reshape(shape))


def _canonical_name(source: str, config: ModelConfig) -> str | None:
    """Our name, None for a tensor that is not needed, or the source's own name, which
    `check_tensors` then refuses."""
    if source == "lm_head.weight" and config.tied_head:
        return None
    if source in _TOP_NAMES:
        return _TOP_NAMES[source]
    parts = source.split(".", 3)
    if (
        len(parts) == 4
        and parts[:2] == ["model", "layers"]
        and parts[2].isdecimal()
        and parts[3] in _LAYER_NAMES
    ):
        return f"layers.{int(parts[2])}.{_LAYER_NAMES[parts[3]]}"
    return source
