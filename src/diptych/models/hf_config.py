"""`config.json` of a Hugging Face folder as a `ModelConfig`; old and new key names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from diptych.models.errors import ModelError, UnsupportedArchitectureError
from diptych.models.weights import ModelConfig, RopeScaling

# Mistral's dense models compute what Llama's do.
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}

_ROPE_THETA_DEFAULT = 10_000.0


def config_from_hf(settings: Mapping[str, Any], source: str) -> ModelConfig:
    """The geometry that `settings` describes; `source` names the file in errors.

    Raises `UnsupportedArchitectureError` for another `model_type` or an option that no engine here
    computes, `ModelError` for a missing or senseless key.
    """
    model_type = settings.get("model_type")
    if model_type not in ARCHITECTURES:
        raise UnsupportedArchitectureError(
            f"{source}: architecture {model_type!r} is not supported; supported are "
            f"{', '.join(ARCHITECTURES)}"
        )
    _refuse_options(settings, source)
    hidden = _integer(settings, "hidden_size", source)
    heads = _integer(settings, "num_attention_heads", source)
    theta, scaling = _rope(settings, source)
    return ModelConfig(
        architecture=ARCHITECTURES[model_type],
        layers=_integer(settings, "num_hidden_layers", source),
        hidden=hidden,
        heads=heads,
        kv_heads=_integer(settings, "num_key_value_heads", source, heads),
        head_dim=_integer(settings, "head_dim", source, 128 if model_type == "qwen3" else hidden // heads),
        ffn=_integer(settings, "intermediate_size", source),
        vocabulary=_integer(settings, "vocab_size", source),
        context_max=_context_max(settings, model_type, source),
        norm_epsilon=float(settings.get("rms_norm_eps", 1e-6)),
        rope_theta=theta,
        rope_scaling=scaling,
        tied_head=bool(settings.get("tie_word_embeddings", False)),
        qkv_bias=model_type == "qwen2",
        qk_norm=model_type == "qwen3",
    )


def _refuse_options(settings: Mapping[str, Any], source: str) -> None:
    activation = settings.get("hidden_act", "silu")
    if activation != "silu":
        raise UnsupportedArchitectureError(f"{source}: hidden_act {activation!r}; supported is 'silu'")
    for key in ("attention_bias", "mlp_bias"):
        if settings.get(key):
            raise UnsupportedArchitectureError(f"{source}: {key} is true; these biases are not supported")
    if settings.get("quantization_config"):
        method = settings["quantization_config"].get("quant_method")
        raise UnsupportedArchitectureError(
            f"{source}: quantization_config {method!r}; supported are unquantised bf16, f16 and f32 weights"
        )
    partial = settings.get("partial_rotary_factor", 1.0)
    if partial != 1.0:
        raise UnsupportedArchitectureError(f"{source}: partial_rotary_factor {partial}; supported is 1")


def _context_max(settings: Mapping[str, Any], model_type: str, source: str) -> int:
    """Positions for which full attention is what the model computes.

    Within its window, sliding-window attention equals full attention, so a window only shortens the
    context. Qwen declares windows that are switched off unless `use_sliding_window`.
    """
    positions = _integer(settings, "max_position_embeddings", source)
    window = settings.get("sliding_window")
    used = window is not None and (model_type == "mistral" or bool(settings.get("use_sliding_window")))
    return min(positions, _integer(settings, "sliding_window", source)) if used else positions


def _rope(settings: Mapping[str, Any], source: str) -> tuple[float, RopeScaling | None]:
    """Theta and scaling, from `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling`."""
    newer = settings.get("rope_parameters") or {}
    scaling = newer or settings.get("rope_scaling") or {}
    if not isinstance(scaling, dict):
        raise ModelError(f"{source}: rope_parameters or rope_scaling is not an object")
    theta = float(newer.get("rope_theta", settings.get("rope_theta", _ROPE_THETA_DEFAULT)))
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise UnsupportedArchitectureError(f"{source}: rope_type {kind!r}; supported are default and llama3")
    names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    missing = [name for name in names if name not in scaling]
    if missing:
        raise ModelError(f"{source}: llama3 rotary scaling lacks {missing[0]}")
    factor, low, high, original = (scaling[name] for name in names)
    return theta, RopeScaling(
        factor=float(factor),
        low_frequency_factor=float(low),
        high_frequency_factor=float(high),
        original_context=int(original),
    )


def _integer(settings: Mapping[str, Any], key: str, source: str, default: int | None = None) -> int:
    value = settings.get(key)
    if value is None:
        value = default
    if value is None:
        raise ModelError(f"{source}: {key} is missing")
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise ModelError(f"{source}: {key} is {value!r}, expected a positive integer")
    return value
