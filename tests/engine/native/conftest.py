"""Tiny random models, a host of one engine over a poisoned pool, and a float64 model of the network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from diptych.engine.interface import Span
from diptych.engine.native import packing
from diptych.engine.native.engine import NativeEngine
from diptych.models.weights import Model, ModelConfig, WeightTensor

TINY: dict[str, Any] = {
    "architecture": "llama",
    "layers": 2,
    "hidden": 64,
    "heads": 4,
    "kv_heads": 2,
    "head_dim": 32,
    "ffn": 96,
    "vocabulary": 100,
    "context_max": 256,
    "norm_epsilon": 1e-5,
    "rope_theta": 10000.0,
    "tied_head": True,
}


def aligned(size: int) -> np.ndarray:
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size]


def encode_q8_0(values: np.ndarray) -> np.ndarray:
    groups = values.reshape(values.shape[0], -1, 32)
    scale = (np.abs(groups).max(-1, keepdims=True) / 127).astype(np.float16)
    codes = np.rint(groups / np.maximum(scale.astype(np.float32), 1e-9)).clip(-127, 127).astype(np.int8)
    return np.concatenate([scale.view(np.uint8), codes.view(np.uint8)], -1).reshape(values.shape[0], -1)


def encode_q4_1(values: np.ndarray) -> np.ndarray:
    groups = values.reshape(values.shape[0], -1, 32)
    low = groups.min(-1, keepdims=True).astype(np.float16)
    scale = ((groups.max(-1, keepdims=True) - low.astype(np.float32)) / 15).astype(np.float16)
    codes = np.rint((groups - low.astype(np.float32)) / scale.astype(np.float32)).clip(0, 15).astype(np.uint8)
    nibbles = codes[..., :16] | (codes[..., 16:] << 4)
    blocks = np.concatenate([scale.view(np.uint8), low.view(np.uint8), nibbles], -1)
    return blocks.reshape(values.shape[0], -1)


def encode(values: np.ndarray, encoding: str) -> WeightTensor:
    if encoding == "bf16":
        data: np.ndarray = (values.view(np.uint32) >> 16).astype(np.uint16)
    elif encoding == "f16":
        data = values.astype(np.float16).view(np.uint16)
    else:
        data = {"f32": lambda x: x, "q8_0": encode_q8_0, "q4_1": encode_q4_1}[encoding](values)
    return WeightTensor(encoding=encoding, shape=values.shape, data=data)


def make_model(seed: int = 0, encoding: str = "q4_1", **changes: Any) -> Model:
    config = ModelConfig(**{**TINY, **changes})
    rng = np.random.default_rng(seed)
    width, kv_width = config.heads * config.head_dim, config.kv_heads * config.head_dim

    def matrix(rows: int, inputs: int, kind: str = encoding) -> WeightTensor:
        return encode(rng.normal(0, inputs**-0.5, (rows, inputs)).astype(np.float32), kind)

    def vector(count: int, around: float) -> WeightTensor:
        return encode((around + rng.normal(0, 0.2, count)).astype(np.float32), "f32")

    head_kind = "q8_0" if encoding == "q4_1" else encoding
    tensors = {"embedding": matrix(config.vocabulary, config.hidden, head_kind)}
    tensors["final_norm"] = vector(config.hidden, 1)
    if not config.tied_head:
        tensors["head"] = matrix(config.vocabulary, config.hidden, head_kind)
    for layer in range(config.layers):
        of = f"layers.{layer}."
        tensors[of + "attention_norm"] = vector(config.hidden, 1)
        tensors[of + "mlp_norm"] = vector(config.hidden, 1)
        tensors[of + "query"] = matrix(width, config.hidden)
        tensors[of + "key"] = matrix(kv_width, config.hidden)
        tensors[of + "value"] = matrix(kv_width, config.hidden)
        tensors[of + "output"] = matrix(config.hidden, width)
        tensors[of + "gate"] = matrix(config.ffn, config.hidden)
        tensors[of + "up"] = matrix(config.ffn, config.hidden)
        tensors[of + "down"] = matrix(config.hidden, config.ffn)
        if config.qkv_bias:
            tensors[of + "query_bias"] = vector(width, 0)
            tensors[of + "key_bias"] = vector(kv_width, 0)
            tensors[of + "value_bias"] = vector(kv_width, 0)
        if config.qk_norm:
            tensors[of + "query_norm"] = vector(config.head_dim, 1)
            tensors[of + "key_norm"] = vector(config.head_dim, 1)
    return Model(name="tiny", fingerprint=f"tiny-{seed}", config=config, tensors=tensors)


def pack(model: Model, format: str) -> memoryview:
    out = aligned(packing.packed_bytes(model.config, format))
    packing.pack(model, format, out.data)
    return out.data


class Host:
    """An engine over a pool of its own, filled as `poison` says: 0, "nan", "huge" or random bytes."""

    def __init__(
        self,
        model: Model,
        formats: Sequence[str] = ("bf16",),
        *,
        pages: int = 64,
        poison: str = "nan",
        threads: int = 1,
        isa: str | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        weights = {name: pack(model, name) for name in formats}
        self.engine = NativeEngine(
            model.config, weights, model.fingerprint, formats[0], threads, isa=isa, **options
        )
        self.numerics = dict(
            zip(self.engine.capabilities.formats, self.engine.capabilities.numerics, strict=True)
        )
        self.pool = aligned(self.engine.kv_format.page_bytes * pages)
        halves = self.pool.view(np.uint16)
        if poison == "random":
            halves[:] = np.random.default_rng(seed).integers(0, 65536, halves.size)
        else:
            halves[:] = {"zero": 0, "nan": 0x7FC0, "huge": 0x7149}[poison]
        self.engine.attach_pool(self.pool.data, pages)

    def span(
        self,
        tokens: np.ndarray,
        first: int,
        end: int,
        pages: Sequence[int],
        format: str,
        logits_from: int | None = 0,
    ) -> Span:
        """Tokens [first, end) of a sequence whose page table begins with `pages`."""
        return Span(
            first_position=first,
            tokens=tokens[first:end],
            pages=np.array(pages[: -(-end // 16)], np.int32),
            numerics=self.numerics[format],
            logits_from=logits_from,
        )

    def run(self, spans: Sequence[Span]) -> np.ndarray:
        return self.engine.logits(self.engine.step(spans))

    def whole(self, tokens: np.ndarray, format: str) -> np.ndarray:
        """Logits of every position of one sequence, computed alone in one step."""
        return self.run([self.span(tokens, 0, len(tokens), range(len(tokens) // 16 + 1), format)])


def reference(model: Model, tokens: np.ndarray) -> np.ndarray:
    """float64 logits [tokens, vocabulary] of the network as its papers write it."""
    config = model.config
    weights = {name: tensor.float32().astype(np.float64) for name, tensor in model.tensors.items()}
    angles = np.arange(len(tokens))[:, None] * frequencies(config)
    cosine, sine = np.cos(angles), np.sin(angles)
    hidden = weights["embedding"][tokens]
    for layer in range(config.layers):
        w = {name.split(".")[2]: x for name, x in weights.items() if name.startswith(f"layers.{layer}.")}
        hidden = hidden + attention(config, w, norm(hidden, w["attention_norm"], config), cosine, sine)
        x = norm(hidden, w["mlp_norm"], config)
        gate = x @ w["gate"].T
        hidden = hidden + (gate / (1 + np.exp(-gate)) * (x @ w["up"].T)) @ w["down"].T
    head = weights["embedding" if config.tied_head else "head"]
    return norm(hidden, weights["final_norm"], config) @ head.T


def norm(x: np.ndarray, weight: np.ndarray, config: ModelConfig) -> np.ndarray:
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + config.norm_epsilon) * weight


def frequencies(config: ModelConfig) -> np.ndarray:
    base = config.rope_theta ** (-np.arange(0, config.head_dim, 2) / config.head_dim)
    scaling = config.rope_scaling
    if scaling is None:
        return base
    turns = scaling.original_context * base / (2 * np.pi)  # in the original context
    smooth = (turns - scaling.low_frequency_factor) / (
        scaling.high_frequency_factor - scaling.low_frequency_factor
    )
    smooth = smooth.clip(0, 1)
    return base * smooth + base / scaling.factor * (1 - smooth)


def attention(
    config: ModelConfig, w: dict[str, np.ndarray], x: np.ndarray, cosine: np.ndarray, sine: np.ndarray
) -> np.ndarray:
    count, dim = len(x), config.head_dim

    def heads(name: str, number: int) -> np.ndarray:
        y = x @ w[name].T + w.get(name + "_bias", 0)
        y = y.reshape(count, number, dim).transpose(1, 0, 2)
        if name + "_norm" in w:
            y = norm(y, w[name + "_norm"], config)
        if name == "value":
            return y
        a, b = y[..., : dim // 2], y[..., dim // 2 :]
        return np.concatenate([a * cosine - b * sine, b * cosine + a * sine], -1)

    group = config.heads // config.kv_heads
    query = heads("query", config.heads)
    key = heads("key", config.kv_heads).repeat(group, 0)
    value = heads("value", config.kv_heads).repeat(group, 0)
    scores = query @ key.transpose(0, 2, 1) / np.sqrt(dim)
    scores = np.where(np.tril(np.ones((count, count), bool)), scores, -np.inf)
    share = np.exp(scores - scores.max(-1, keepdims=True))
    share /= share.sum(-1, keepdims=True)
    return (share @ value).transpose(1, 0, 2).reshape(count, -1) @ w["output"].T


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Model]:
    return make_model


@pytest.fixture(scope="session")
def host() -> type[Host]:
    return Host


@pytest.fixture(scope="session")
def network() -> Callable[[Model, np.ndarray], np.ndarray]:
    return reference
