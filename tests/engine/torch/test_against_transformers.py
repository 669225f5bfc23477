"""Every supported architecture: a tiny random model saved by transformers, loaded by us, same logits.

K and V are rounded to bfloat16 in our pages, so the reference's cache rounds them too: what remains is
the order of float32 sums, and the tolerance can be tight enough to see a wrong epsilon.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from diptych.engine.interface import Span
from diptych.models.safetensors import load_safetensors
from diptych.models.weights import Model

torch = pytest.importorskip("torch", reason="torch is not installed")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")

from diptych.engine.torch import TorchEngine  # noqa: E402

# transformers 5 renames `past_key_values` to `cache` in its later versions and accepts both until then.
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:.past_key_values. is deprecated")]

TOKENS = 150
SHAPE: dict[str, Any] = {
    "vocab_size": 120,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"tie_word_embeddings": True}),
    "llama_untied": ("Llama", {"tie_word_embeddings": False, "rope_parameters": {"rope_theta": 1e5}}),
    "llama3_scaling": ("Llama", {"rope_parameters": LLAMA3}),
    "mistral": ("Mistral", {"head_dim": 32, "sliding_window": None}),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"head_dim": 32}),
}


def reference(case: str, folder: Path) -> Any:
    """A model with weights large enough that attention picks and every part matters; saved to `folder`."""
    family, options = CASES[case]
    parameters = dict(options.get("rope_parameters") or {})
    if parameters:
        options = options | {"rope_parameters": {"rope_type": "default"} | parameters}
    config = getattr(transformers, f"{family}Config")(**SHAPE | options)
    torch.manual_seed(3)
    model = getattr(transformers, f"{family}ForCausalLM")(config).eval().float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(1 + 0.2 * torch.randn_like(parameter))
            elif name.endswith("bias"):
                parameter.copy_(0.5 * torch.randn_like(parameter))
            else:
                parameter.copy_(1.5 * torch.randn_like(parameter) / parameter.shape[-1] ** 0.5)
    model.save_pretrained(folder)
    return model


class RoundedCache(transformers.DynamicCache):
    """Keeps K and V as our pages do."""

    def update(self, key_states: Any, value_states: Any, *arguments: Any, **options: Any) -> Any:
        rounded = [states.bfloat16().float() for states in (key_states, value_states)]
        return super().update(*rounded, *arguments, **options)


def logits_of(model: Model, tokens: np.ndarray) -> np.ndarray:
    engine = TorchEngine(model)
    pages = -(-len(tokens) // 16)
    engine.attach_pool(memoryview(bytearray(pages * engine.kv_format.page_bytes)), pages)
    span = Span(
        first_position=0,
        tokens=tokens,
        pages=np.arange(pages, dtype=np.int32)[::-1].copy(),
        numerics=engine.capabilities.numerics[0],
        logits_from=0,
    )
    return engine.logits(engine.step([span]))


def distance(found: np.ndarray, expected: np.ndarray) -> float:
    """Relative rms difference over the later half, where positions and context matter most."""
    later = slice(len(expected) // 2, None)
    return float(np.sqrt(np.mean((found - expected)[later] ** 2) / np.mean(expected[later] ** 2)))


@pytest.mark.parametrize("case", CASES)
def test_logits_equal(case: str, tmp_path: Path) -> None:
    expected_model = reference(case, tmp_path)
    tokens = np.random.default_rng(0).integers(0, SHAPE["vocab_size"], TOKENS).astype(np.int32)
    with torch.inference_mode():
        ids = torch.from_numpy(tokens.astype(np.int64))[None]
        expected = expected_model(ids, past_key_values=RoundedCache()).logits[0].float().numpy()
    model = load_safetensors(tmp_path)
    # A flip of one bfloat16 rounding is about 1e-3 of an element; sums in another order are 1e-6.
    assert distance(logits_of(model, tokens), expected) < 2e-3
    for name, broken in mutants(model).items():
        assert distance(logits_of(broken, tokens), expected) > 1e-2, f"{name} makes no difference"


def mutants(model: Model) -> dict[str, Model]:
    """What a loader could get wrong, each visible in the logits."""

    def changed(**fields: Any) -> Model:
        return msgspec.structs.replace(model, config=msgspec.structs.replace(model.config, **fields))

    found = {"rope_theta": changed(rope_theta=model.config.rope_theta * 2)}
    if model.config.rope_scaling is not None:
        found["rope_scaling"] = changed(rope_scaling=None)
    if model.config.qk_norm:
        found["qk_norm"] = changed(qk_norm=False)
    if model.config.qkv_bias:
        tensors = {name: tensor for name, tensor in model.tensors.items() if not name.endswith("_bias")}
        found["qkv_bias"] = msgspec.structs.replace(model, tensors=tensors)
    return found


def test_bfloat16_folder_is_read_exactly(tmp_path: Path) -> None:
    model = reference("llama", tmp_path).bfloat16()
    model.save_pretrained(tmp_path)
    loaded = load_safetensors(tmp_path)
    assert loaded.tensors["layers.0.up"].encoding == "bf16"
    for name, parameter in (("layers.2.down", model.model.layers[2].mlp.down_proj.weight),):
        np.testing.assert_array_equal(loaded.tensors[name].float32(), parameter.detach().float().numpy())


def test_sharded_folder_gives_the_same_model(tmp_path: Path) -> None:
    model = reference("qwen3", tmp_path / "one")
    model.save_pretrained(tmp_path / "many", max_shard_size="50KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) > 2
    one, many = load_safetensors(tmp_path / "one"), load_safetensors(tmp_path / "many")
    assert one.fingerprint == many.fingerprint
    assert one.config == many.config
