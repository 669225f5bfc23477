"""Hugging Face folders written by the `safetensors` package, read by us."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from diptych.models.errors import ModelError, UnsupportedArchitectureError
from diptych.models.hf_config import config_from_hf
from diptych.models.safetensors import load_safetensors
from diptych.models.weights import RopeScaling

VOCABULARY = 40
NAMES = {
    "embedding": "model.embed_tokens.weight",
    "head": "lm_head.weight",
    "final_norm": "model.norm.weight",
    "attention_norm": "input_layernorm.weight",
    "mlp_norm": "post_attention_layernorm.weight",
    "query": "self_attn.q_proj.weight",
    "key": "self_attn.k_proj.weight",
    "value": "self_attn.v_proj.weight",
    "output": "self_attn.o_proj.weight",
    "gate": "mlp.gate_proj.weight",
    "up": "mlp.up_proj.weight",
    "down": "mlp.down_proj.weight",
}
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
    "intermediate_size": 96,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
}


def hub_name(canonical: str) -> str:
    if not canonical.startswith("layers."):
        return NAMES[canonical]
    _, layer, name = canonical.split(".")
    return f"model.layers.{layer}.{NAMES[name]}"


@pytest.fixture
def folder(tiny: Any, tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    tensors = {hub_name(name): value for name, value in tiny.weights(VOCABULARY).items()}
    save_file(tensors, tmp_path / "model.safetensors")
    return tmp_path


def test_one_shard(folder: Path, tiny: Any) -> None:
    model = load_safetensors(folder, name="n")
    expected = tiny.weights(VOCABULARY)
    assert sorted(model.tensors) == sorted(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(model.tensors[name].float32(), value, err_msg=name)
    assert (model.name, model.config.context_max, model.config.head_dim) == ("n", 256, 16)


def test_several_shards_by_index(folder: Path, tiny: Any) -> None:
    (folder / "model.safetensors").unlink()
    weight_map = {}
    for number, (name, value) in enumerate(tiny.weights(VOCABULARY).items()):
        shard = f"model-{number:05d}.safetensors"
        # An old file may carry derived frequencies; they are not weights.
        extra = {f"model.layers.{number}.self_attn.rotary_emb.inv_freq": np.ones(8, np.float32)}
        save_file({hub_name(name): value, **extra}, folder / shard)
        weight_map[hub_name(name)] = shard
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert sorted(load_safetensors(folder).tensors) == sorted(tiny.weights(VOCABULARY))
    (folder / "model-00003.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model-00003\.safetensors is missing"):
        load_safetensors(folder)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"x": "../up.safetensors"}}')
    with pytest.raises(ModelError, match="is not in the folder"):
        load_safetensors(folder)


def test_sixteen_bit_tensors(folder: Path, tiny: Any) -> None:
    weights = tiny.weights(VOCABULARY)
    tensors = {hub_name(name): value.astype(np.float16) for name, value in weights.items()}
    save_file(tensors, folder / "model.safetensors")
    model = load_safetensors(folder)
    assert model.tensors["embedding"].encoding == "f16"
    expected = weights["embedding"].astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(model.tensors["embedding"].float32(), expected)


def test_tied_head_is_not_loaded_twice(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps(CONFIG | {"tie_word_embeddings": True}))
    assert "head" not in load_safetensors(folder).tensors


def test_missing_and_unknown_tensors_are_named(folder: Path, tiny: Any) -> None:
    tensors = {hub_name(name): value for name, value in tiny.weights(VOCABULARY).items()}
    without = {name: value for name, value in tensors.items() if "layers.1.mlp.up" not in name}
    save_file(without, folder / "model.safetensors")
    with pytest.raises(ModelError, match=r"tensor layers\.1\.up is missing"):
        load_safetensors(folder)
    save_file(
        tensors | {"model.layers.0.self_attn.sinks": np.ones(4, np.float32)}, folder / "model.safetensors"
    )
    with pytest.raises(ModelError, match=r"self_attn\.sinks is not part of this llama model"):
        load_safetensors(folder)
    save_file(tensors | {hub_name("layers.0.gate"): np.ones((8, 8), np.int8)}, folder / "model.safetensors")
    with pytest.raises(ModelError, match="has dtype I8; supported are F32, F16, BF16"):
        load_safetensors(folder)


def test_damaged_shards_are_refused(folder: Path) -> None:
    path = folder / "model.safetensors"
    data = path.read_bytes()
    for damaged, message in (
        (data[:4], "too few"),
        (struct.pack("<Q", 1 << 40) + data[8:], "reaches past the end"),
        (data[:8] + b"{{" + data[10:], "not valid JSON"),
        (data[:-64], "has offsets"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(ModelError, match=message):
            load_safetensors(folder)


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


@pytest.mark.parametrize(
    "keys",
    [
        {"rope_theta": 500000.0, "rope_scaling": LLAMA3},
        {"rope_theta": None, "rope_parameters": LLAMA3 | {"rope_theta": 500000.0}},
    ],
)
def test_rotary_keys_old_and_new(keys: dict[str, Any]) -> None:
    config = config_from_hf(CONFIG | keys, "x")
    assert config.rope_theta == 500000.0
    assert config.rope_scaling == RopeScaling(
        factor=8.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_context=8192
    )


def test_a_sliding_window_shortens_the_context_where_it_is_used() -> None:
    mistral = CONFIG | {"model_type": "mistral", "sliding_window": 64}
    assert config_from_hf(mistral, "x").context_max == 64
    assert config_from_hf(mistral, "x").architecture == "llama"
    assert config_from_hf(mistral | {"sliding_window": None}, "x").context_max == 256
    qwen = CONFIG | {"model_type": "qwen2", "sliding_window": 64, "use_sliding_window": False}
    assert config_from_hf(qwen, "x").context_max == 256
    assert config_from_hf(qwen | {"use_sliding_window": True}, "x").context_max == 64


def test_families_differ_in_biases_and_norms() -> None:
    assert config_from_hf(CONFIG | {"model_type": "qwen2"}, "x").qkv_bias
    qwen3 = config_from_hf(CONFIG | {"model_type": "qwen3"}, "x")
    assert (qwen3.qk_norm, qwen3.qkv_bias, qwen3.head_dim) == (True, False, 128)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gemma3"}, "'gemma3' is not supported; supported are llama, mistral, qwen2, qwen3"),
        ({"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ({"attention_bias": True}, "attention_bias is true"),
        ({"mlp_bias": True}, "mlp_bias is true"),
        ({"rope_scaling": {"rope_type": "yarn"}}, "rope_type 'yarn'"),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "rope_type 'linear'"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantization_config 'awq'"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5"),
    ],
)
def test_what_no_engine_computes_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedArchitectureError, match=message):
        config_from_hf(CONFIG | changes, "x")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": None}, "hidden_size is missing"),
        ({"hidden_size": "64"}, "hidden_size is '64', expected a positive integer"),
        ({"num_hidden_layers": True}, "num_hidden_layers is True"),
        ({"rope_scaling": {"rope_type": "llama3"}}, "lacks factor"),
        ({"rope_scaling": [1]}, "not an object"),
    ],
)
def test_senseless_keys_are_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        config_from_hf(CONFIG | changes, "x")
