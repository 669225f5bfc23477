"""Each named layout against the words and the NumPy that its engine's users would write."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from diptych.conversion import Conversion, instruction_sets
from diptych.wire.kv import Copy, KvFormat, hnd, llama_cpp, nhd, panels, plan, vllm_cpu

LAYERS, HEADS, DIMS, TOKENS = 3, 2, 16, 32
GEOMETRY = {"model": "m", "layers": LAYERS, "kv_heads": HEADS, "head_dim": DIMS}
CANONICAL = nhd(**GEOMETRY, page_tokens=TOKENS, dtype="float32")
# Whole numbers that every type of 16 bits holds apart from each other: [layer, K or V, token, head, dim].
VALUES = (np.arange(LAYERS * 2 * TOKENS * HEADS * DIMS) % 251).astype(np.float32)
VALUES = VALUES.reshape(LAYERS, 2, TOKENS, HEADS, DIMS)

Expected = Callable[[np.ndarray], list[np.ndarray]]


def bf16(values: np.ndarray) -> np.ndarray:
    return (np.ascontiguousarray(values).view(np.uint32) >> 16).astype(np.uint16)


def interleaved(keys: np.ndarray) -> np.ndarray:
    """Rotary halves to pairs: (d, d + D/2) side by side."""
    halves = keys.reshape(*keys.shape[:-1], 2, DIMS // 2)
    return halves.swapaxes(-1, -2).reshape(keys.shape)


def of_panels(values: np.ndarray) -> list[np.ndarray]:
    """K [dim / 2][token][2], V [token / 2][dim][2] in pages of 16."""
    pages = []
    for first in range(0, TOKENS, 16):
        page = np.empty((LAYERS, 2, HEADS, 16 * DIMS), np.float32)
        for t in range(16):
            for d in range(DIMS):
                page[:, 0, :, (d // 2) * 32 + 2 * t + d % 2] = values[:, 0, first + t, :, d]
                page[:, 1, :, (t // 2) * 2 * DIMS + 2 * d + t % 2] = values[:, 1, first + t, :, d]
        pages.append(bf16(page))
    return [np.stack(pages)]


def of_hnd_regions(values: np.ndarray) -> list[np.ndarray]:
    """A tensor [page, head, token, dim] for each layer's K and each layer's V."""
    pages = values.reshape(LAYERS, 2, 2, TOKENS // 2, HEADS, DIMS).swapaxes(3, 4)
    return [pages[layer, kv].astype(np.float16) for layer in range(LAYERS) for kv in (0, 1)]


def of_vllm(values: np.ndarray) -> list[np.ndarray]:
    """Per layer [block, head, K transposed then V]."""
    out = []
    for layer in range(LAYERS):
        keys = values[layer, 0].transpose(1, 2, 0).reshape(HEADS, -1)
        entries = values[layer, 1].transpose(1, 0, 2).reshape(HEADS, -1)
        out.append(np.concatenate([keys, entries], axis=1)[None])
    return out


def of_llama(values: np.ndarray) -> list[np.ndarray]:
    """Rows [cell][head x dim] of K by layer, then of V by layer."""
    keys, entries = interleaved(values[:, 0]), values[:, 1]
    return [rows.reshape(TOKENS, -1).astype(np.float16) for rows in (*keys, *entries)]


def of_llama_transposed(values: np.ndarray) -> list[np.ndarray]:
    keys, entries = interleaved(values[:, 0]), values[:, 1]
    return [rows.astype(np.float16) for rows in (*keys, *(layer.transpose(1, 2, 0) for layer in entries))]


CASES: dict[str, tuple[KvFormat, Expected]] = {
    "panels": (panels(**GEOMETRY), of_panels),
    "hnd": (hnd(**GEOMETRY, page_tokens=16, dtype="float16", regions="layer kv"), of_hnd_regions),
    "vllm": (vllm_cpu(**GEOMETRY, page_tokens=TOKENS), of_vllm),
    "llama.cpp": (llama_cpp(**GEOMETRY, page_tokens=8), of_llama),
    "llama.cpp without flash attention": (
        llama_cpp(**GEOMETRY, page_tokens=TOKENS, transposed_values=True),
        of_llama_transposed,
    ),
    "interleaved": (
        nhd(**GEOMETRY, page_tokens=TOKENS, interleaved_keys=True),
        lambda values: [bf16(np.stack([interleaved(values[:, 0]), values[:, 1]], 1))],
    ),
}


@pytest.mark.parametrize("executor", [*instruction_sets(), "numpy"])
@pytest.mark.parametrize("case", CASES)
def test_a_named_layout_is_what_its_engine_has(case: str, executor: str) -> None:
    target, expected = CASES[case]
    copy = plan(CANONICAL, target)
    assert isinstance(copy, Copy)
    count = TOKENS // target.page_tokens
    made = [np.zeros(count * target.group.region_page_bytes, np.uint8) for _ in range(target.group.regions)]
    options = {"executor": "numpy"} if executor == "numpy" else {"isa": executor}
    source = np.ascontiguousarray(VALUES).view(np.uint8).reshape(-1)
    Conversion(copy, **options).run(source, [0], made, list(range(count)))
    for region, wanted in zip(made, expected(VALUES), strict=True):
        assert region.tobytes() == np.ascontiguousarray(wanted).tobytes()
