"""What a step writes to the pool: its own slots, in the layout that the KV format declares."""

from __future__ import annotations

from typing import Any

import numpy as np

from diptych.wire.kv import Factor, KvFormat


def offsets(block: tuple[Factor, ...], tokens: int, dims: int) -> np.ndarray:
    """Element offset of (token, dim) in a block, read from its factors, slowest first."""
    out = np.zeros((tokens, dims), int)
    size = 1
    places = {"token": np.arange(tokens)[:, None], "dim": np.arange(dims)[None, :]}
    for factor in reversed(block):
        out = out + places[factor.axis] // factor.stride % factor.extent * size
        size *= factor.extent
    return out


def page(pool: np.ndarray, form: KvFormat, index: int) -> np.ndarray:
    """float32 [layer, K or V, head, token, dim] of one page."""
    raw = pool[index * form.page_bytes : (index + 1) * form.page_bytes].view(np.uint16)
    group = form.group
    blocks = raw.reshape(group.layers, 2, group.kv_heads, group.page_tokens * group.head_dim)
    out = np.empty((group.layers, 2, group.kv_heads, group.page_tokens, group.head_dim), np.uint32)
    for side, factors in enumerate((group.layout.key, group.layout.value)):
        out[:, side] = blocks[:, side][..., offsets(factors[3:], group.page_tokens, group.head_dim)]
    return (out << 16).view(np.float32)


def test_factors_cover_a_block_once(tiny: Any, host: Any) -> None:
    group = host(tiny()).engine.kv_format.group
    for factors in (group.layout.key, group.layout.value):
        assert [factor.axis for factor in factors[:3]] == ["layer", "kv", "head"]
        assert sorted(offsets(factors[3:], 16, group.head_dim).ravel()) == list(range(16 * group.head_dim))


def test_pages_hold_keys_and_values_of_the_network(tiny: Any, host: Any) -> None:
    """Layer 0, whose inputs are the embedding's rows: K = rotated norm(x) W, V = norm(x) W."""
    model = tiny(7, "f32")
    config = model.config
    tokens = np.arange(5, 45, dtype=np.int32)
    box = host(model, ["bf16"])
    table = [11, 3, 40]
    box.run([box.span(tokens, 0, 40, table, "bf16")])
    w = {name.removeprefix("layers.0."): t.float32().astype(np.float64) for name, t in model.tensors.items()}
    x = w["embedding"][tokens]
    x = x / np.sqrt((x * x).mean(-1, keepdims=True) + config.norm_epsilon) * w["attention_norm"]
    value = (x @ w["value"].T).reshape(40, config.kv_heads, config.head_dim)
    key = (x @ w["key"].T).reshape(40, config.kv_heads, config.head_dim)
    half = config.head_dim // 2
    angle = np.arange(40)[:, None] * config.rope_theta ** (-np.arange(half) / half)
    cosine, sine = np.cos(angle)[:, None], np.sin(angle)[:, None]
    a, b = key[..., :half], key[..., half:]
    key = np.concatenate([a * cosine - b * sine, b * cosine + a * sine], -1)
    for position in range(40):
        stored = page(box.pool, box.engine.kv_format, table[position // 16])[0, :, :, position % 16]
        np.testing.assert_allclose(stored[0], key[position], atol=0.03)
        np.testing.assert_allclose(stored[1], value[position], atol=0.03)


def test_a_step_writes_only_the_slots_of_its_tokens(tiny: Any, host: Any) -> None:
    box = host(tiny(), ["int8"], poison="random")
    tokens = np.arange(60, dtype=np.int32)
    box.run([box.span(tokens, 0, 21, [5, 9], "int8")])
    before = box.pool.copy()
    box.run([box.span(tokens, 21, 35, [5, 9, 2], "int8")])
    form = box.engine.kv_format
    changed = {
        (index, int(slot))
        for index in range(64)
        for slot in np.nonzero(
            (page(before, form, index).view(np.uint32) != page(box.pool, form, index).view(np.uint32)).any(
                axis=(0, 1, 2, 4)
            )
        )[0]
    }
    assert changed == {(9, slot) for slot in range(5, 16)} | {(2, slot) for slot in range(3)}
