"""From GGUF names and row order to ours."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from diptych.models.errors import ModelError, UnsupportedArchitectureError
from diptych.models.gguf import load_gguf
from diptych.models.rope import scaling_factors
from diptych.models.weights import RopeScaling


def test_every_tensor_arrives_under_its_canonical_name(tiny: Any, tiny_gguf: Path) -> None:
    model = load_gguf(tiny_gguf)
    expected = tiny.weights(len(tiny.tokens))
    assert sorted(model.tensors) == sorted(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(model.tensors[name].float32(), value, err_msg=name)
    assert model.name == "tiny"
    assert model.config.rope_theta == 10000.0
    assert model.config.norm_epsilon == 1e-5
    assert (model.config.heads, model.config.kv_heads, model.config.head_dim) == (4, 2, 16)
    assert not model.config.tied_head


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_1", "BF16", "F16"])
def test_rotary_rows_are_reordered_in_every_encoding(tiny: Any, tmp_path: Path, kind: str) -> None:
    encoding = gguf.GGMLQuantizationType[kind]
    path = tiny.write_gguf(
        tmp_path / "t.gguf", quantise={"blk.1.attn_q.weight": encoding, "blk.1.attn_k.weight": encoding}
    )
    model, weights = load_gguf(path), tiny.weights(len(tiny.tokens))
    for name in ("layers.1.query", "layers.1.key"):
        assert model.tensors[name].encoding == kind.lower()
        blocks = gguf.quants.quantize(weights[name], encoding)
        expected = gguf.quants.dequantize(blocks, encoding)
        np.testing.assert_array_equal(model.tensors[name].float32(), expected)


def qwen_tensors(tiny: Any, extra: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(5)
    weights = {name: value for name, value in tiny.weights(len(tiny.tokens)).items() if name != "head"}
    for layer in range(tiny.layers):
        for name, shape in extra.items():
            weights[f"layers.{layer}.{name}"] = generator.standard_normal(shape).astype(np.float32)
    return weights


def test_qwen2_keeps_its_row_order_and_has_biases(tiny: Any, tmp_path: Path) -> None:
    weights = qwen_tensors(tiny, {"query_bias": (64,), "key_bias": (32,), "value_bias": (32,)})
    tensors = {tiny.gguf_name(name): value for name, value in weights.items()}
    model = load_gguf(tiny.write_gguf(tmp_path / "q.gguf", architecture="qwen2", tensors=tensors))
    assert model.config.qkv_bias
    assert model.config.tied_head
    for name, value in weights.items():
        np.testing.assert_array_equal(model.tensors[name].float32(), value, err_msg=name)


def test_qwen3_has_head_norms(tiny: Any, tmp_path: Path) -> None:
    weights = qwen_tensors(tiny, {"query_norm": (16,), "key_norm": (16,)})
    tensors = {tiny.gguf_name(name): value for name, value in weights.items()}
    model = load_gguf(tiny.write_gguf(tmp_path / "q.gguf", architecture="qwen3", tensors=tensors))
    assert model.config.qk_norm
    np.testing.assert_array_equal(model.tensors["layers.1.key_norm"].float32(), weights["layers.1.key_norm"])


def test_other_architecture_is_named_and_the_supported_ones_listed(tiny: Any, tmp_path: Path) -> None:
    path = tiny.write_gguf(tmp_path / "m.gguf", architecture="mamba")
    with pytest.raises(UnsupportedArchitectureError, match=r"'mamba' is not supported.*llama, qwen2, qwen3"):
        load_gguf(path)


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"llama.expert_count": 8}, "mixture of experts"),
        ({"llama.rope.scaling.type": "yarn"}, "yarn"),
        ({"llama.rope.dimension_count": 8}, "rotary dimensions 8 of 16"),
        ({"llama.attention.head_count": 3, "llama.attention.key_length": 16}, "not a multiple of 2 kv heads"),
        ({"llama.block_count": 3}, r"layers\.2\..* is missing"),
        ({"llama.block_count": 1}, r"layers\.1\..* is not part"),
        ({"llama.feed_forward_length": 64}, r"layers\.0\.gate has shape \(96, 64\), expected \(64, 64\)"),
        ({"llama.context_length": 0}, r"llama\.context_length is 0"),
    ],
)
def test_what_cannot_be_computed_is_refused(
    tiny: Any, tmp_path: Path, metadata: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        load_gguf(tiny.write_gguf(tmp_path / "x.gguf", metadata=metadata))


def test_unknown_tensor_is_refused(tiny: Any, tmp_path: Path) -> None:
    tensors = {tiny.gguf_name(name): value for name, value in tiny.weights(len(tiny.tokens)).items()}
    tensors["blk.0.attn_output.bias"] = np.zeros(64, np.float32)
    with pytest.raises(ModelError, match=r"blk\.0\.attn_output\.bias is not part of a llama model"):
        load_gguf(tiny.write_gguf(tmp_path / "x.gguf", tensors=tensors))


def test_llama3_rotary_scaling_comes_back_from_its_factors(tiny: Any, tmp_path: Path) -> None:
    scaling = RopeScaling(
        factor=32.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_context=64
    )
    frequencies = 10000.0 ** (-np.arange(0, 16, 2) / 16)
    tensors = {tiny.gguf_name(name): value for name, value in tiny.weights(len(tiny.tokens)).items()}
    tensors["rope_freqs.weight"] = scaling_factors(scaling, frequencies).astype(np.float32)
    model = load_gguf(tiny.write_gguf(tmp_path / "r.gguf", tensors=tensors))
    assert model.config.rope_scaling == scaling


def test_fingerprint_sees_weights_and_configuration(tiny: Any, tmp_path: Path, tiny_gguf: Path) -> None:
    base = load_gguf(tiny_gguf).fingerprint
    assert load_gguf(tiny.write_gguf(tmp_path / "again.gguf")).fingerprint == base
    longer = tiny.write_gguf(tmp_path / "c.gguf", metadata={"llama.context_length": 512})
    assert load_gguf(longer).fingerprint != base
    tensors = {tiny.gguf_name(name): value for name, value in tiny.weights(len(tiny.tokens)).items()}
    tensors["blk.1.ffn_up.weight"][-1, -1] += 1.0
    assert load_gguf(tiny.write_gguf(tmp_path / "w.gguf", tensors=tensors)).fingerprint != base


@pytest.mark.model
def test_embedded_model_loads() -> None:
    from diptych.models.embedded import fetch_embedded

    model = load_gguf(os.fspath(fetch_embedded()))
    assert model.config.tied_head
    assert model.tensors["embedding"].encoding == "q8_0"
    assert model.tensors["layers.29.down"].encoding == "q4_1"
    assert model.tensors["layers.29.down"].data.shape == (576, 960)
