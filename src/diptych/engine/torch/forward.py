"""The forward pass of a dense decoder, as the papers write it.

Llama (arXiv 2302.13971): RMS norm before each block (arXiv 1910.07467), rotary positions
(arXiv 2104.09864), SwiGLU (arXiv 2002.05202), grouped-query attention (arXiv 2305.13245). Qwen2 adds
biases to Q, K and V; Qwen3 normalises each head of Q and K before rotation.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import torch
import torch.nn.functional as functional

from diptych.engine.torch.kv_pages import KvPages
from diptych.models.rope import inverse_frequencies
from diptych.models.weights import Model, ModelConfig


class Rows(msgspec.Struct, frozen=True):
    """The rows of one sequence within a step: rows [begin, end) are positions from `first` on."""

    begin: int
    end: int
    first: int
    table: torch.Tensor
    """int64 on the CPU: the sequence's pages."""


class Weights:
    """A model's tensors, dequantised to `dtype` on `device`."""

    def __init__(self, model: Model, device: torch.device, dtype: torch.dtype) -> None:
        self.config = model.config
        self._tensors = {
            name: torch.from_numpy(tensor.float32()).to(device, dtype)
            for name, tensor in model.tensors.items()
        }
        frequencies = torch.from_numpy(inverse_frequencies(model.config))
        angles = torch.arange(model.config.context_max, dtype=torch.float64)[:, None] * frequencies
        self.cosine = angles.cos().float().to(device)
        self.sine = angles.sin().float().to(device)

    def top(self, name: str) -> torch.Tensor:
        """A tensor outside the layers; a tied `head` is the embedding."""
        if name == "head" and self.config.tied_head:
            name = "embedding"
        return self._tensors[name]

    def layer(self, index: int, name: str) -> torch.Tensor:
        return self._tensors[f"layers.{index}.{name}"]

    def bias(self, index: int, name: str) -> torch.Tensor | None:
        """The bias of a projection, None for models without."""
        return self._tensors.get(f"layers.{index}.{name}_bias")


def forward(
    weights: Weights,
    pages: KvPages,
    tokens: torch.Tensor,
    positions: torch.Tensor,
    sequences: Sequence[Rows],
    kept: torch.Tensor,
) -> torch.Tensor:
    """Computes rows `tokens` (int64 [n]) at `positions` (int64 [n]), writes their K and V, and returns
    float32 logits [len(kept), vocabulary] of the rows `kept` (int64)."""
    config = weights.config
    hidden = functional.embedding(tokens, weights.top("embedding"))
    rotation = (weights.cosine[positions, None], weights.sine[positions, None])
    for layer in range(config.layers):
        normed = _rms_norm(hidden, weights.layer(layer, "attention_norm"), config.norm_epsilon)
        hidden = hidden + _attention(weights, pages, layer, normed, rotation, sequences)
        normed = _rms_norm(hidden, weights.layer(layer, "mlp_norm"), config.norm_epsilon)
        gate = functional.silu(functional.linear(normed, weights.layer(layer, "gate")))
        up = functional.linear(normed, weights.layer(layer, "up"))
        hidden = hidden + functional.linear(gate * up, weights.layer(layer, "down"))
    if not len(kept):
        return torch.empty(0, config.vocabulary)
    last = _rms_norm(hidden[kept], weights.top("final_norm"), config.norm_epsilon)
    return functional.linear(last, weights.top("head")).float()


def _attention(
    weights: Weights,
    pages: KvPages,
    layer: int,
    hidden: torch.Tensor,
    rotation: tuple[torch.Tensor, torch.Tensor],
    sequences: Sequence[Rows],
) -> torch.Tensor:
    """Projections, rotation, and attention of each sequence over its own pages; [n, hidden]."""
    config = weights.config
    query = _heads(weights, layer, "query", hidden)
    key = _heads(weights, layer, "key", hidden)
    value = _heads(weights, layer, "value", hidden)
    if config.qk_norm:
        query = _rms_norm(query, weights.layer(layer, "query_norm"), config.norm_epsilon)
        key = _rms_norm(key, weights.layer(layer, "key_norm"), config.norm_epsilon)
    query, key = _rotate(query, *rotation), _rotate(key, *rotation)
    mixed = torch.empty_like(query)
    for rows in sequences:
        mine = slice(rows.begin, rows.end)
        pages.write(layer, rows.table, rows.first, key[mine], value[mine])
        # Read back what was written, the new rows too: every position is then seen in bfloat16, by the
        # step that computes it as by all later ones.
        keys, values = pages.read(layer, rows.table, rows.first + rows.end - rows.begin, query)
        mixed[mine] = _attend(query[mine], keys, values, rows.first, config)
    return functional.linear(mixed.flatten(1), weights.layer(layer, "output"))


def _attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, first: int, config: ModelConfig
) -> torch.Tensor:
    """Causal attention of rows at positions from `first` on; `query` [n, heads, dim], result the same.

    The heads that share a key/value head become more rows of it: one product per key/value head, which
    at decode is several times faster than repeating K and V.
    """
    count, heads, dim = query.shape
    group = heads // config.kv_heads
    folded = (
        query.view(count, config.kv_heads, group, dim).permute(1, 2, 0, 3).reshape(config.kv_heads, -1, dim)
    )
    scores = (folded @ keys.transpose(1, 2)).float() * dim**-0.5
    if count > 1:
        position = torch.arange(count, device=query.device) + first
        future = torch.arange(keys.shape[1], device=query.device) > position[:, None]
        scores = scores.masked_fill(future.repeat(group, 1), float("-inf"))
    mixed: torch.Tensor = scores.softmax(-1).to(values) @ values
    return mixed.view(config.kv_heads, group, count, dim).permute(2, 0, 1, 3).reshape(count, heads, dim)


def _heads(weights: Weights, layer: int, name: str, hidden: torch.Tensor) -> torch.Tensor:
    """A projection split into heads, [n, heads, dim]."""
    projected = functional.linear(hidden, weights.layer(layer, name), weights.bias(layer, name))
    return projected.view(len(hidden), -1, weights.config.head_dim)


def _rotate(heads: torch.Tensor, cosine: torch.Tensor, sine: torch.Tensor) -> torch.Tensor:
    """Half-split rotation: pairs (j, j + dim / 2) turn by the position's angle."""
    low, high = heads.float().chunk(2, dim=-1)
    turned = torch.cat([low * cosine - high * sine, high * cosine + low * sine], dim=-1)
    return turned.to(heads)


def _rms_norm(values: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    wide = values.float()
    scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + epsilon)
    return (wide * scale).to(values) * weight
