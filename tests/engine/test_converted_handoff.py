"""Prefill by one engine, decode by another whose pages are laid out otherwise: the handoff is converted.

The yardstick is the same decode engine reading the prefill engine's own pages.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from diptych.conversion import Conversion
from diptych.engine.interface import Span
from diptych.engine.native import packing
from diptych.engine.native.engine import NativeEngine
from diptych.models.weights import Model
from diptych.wire.kv import Copy, KvFormat, hnd, nhd, plan

torch = pytest.importorskip("torch", reason="torch is not installed")

from diptych.engine.torch import TorchEngine  # noqa: E402

pytestmark = pytest.mark.torch

PROMPT = np.random.default_rng(5).integers(0, 112, 150).astype(np.int32)
SPLIT = 128
"""A border of every page size here; the decode engine computes the rest."""
NATIVE_PAGES = np.array([9, 2, 11, 0, 5, 7, 3, 10, 1, 4], np.int32)
"""For all of the prompt."""


@pytest.fixture(scope="module")
def geometry(tiny_model: Model) -> dict[str, object]:
    config = tiny_model.config
    return {
        "model": tiny_model.fingerprint,
        "layers": config.layers,
        "kv_heads": config.kv_heads,
        "head_dim": config.head_dim,
    }


@pytest.fixture
def prefilled(tiny_model: Model, make_pool: Callable[[int], memoryview]) -> tuple[KvFormat, memoryview]:
    """The native engine's pool with the prompt up to the split."""
    weights = make_pool(packing.packed_bytes(tiny_model.config, "int8"))
    packing.pack(tiny_model, "int8", weights)
    engine = NativeEngine(tiny_model.config, {"int8": weights}, tiny_model.fingerprint, "int8")
    pool = make_pool(12 * engine.kv_format.page_bytes)
    engine.attach_pool(pool, 12)
    numerics = engine.capabilities.numerics[0]
    span = Span(first_position=0, tokens=PROMPT[:SPLIT], pages=NATIVE_PAGES[:8], numerics=numerics)
    engine.step([span])
    kv_format = engine.kv_format
    engine.close()
    return kv_format, pool


def decoded(model: Model, kv_format: KvFormat, pool: memoryview, pages: np.ndarray) -> np.ndarray:
    """Logits of the rest of the prompt, computed on what lies in the pool."""
    engine = TorchEngine(model, kv_format=kv_format)
    engine.attach_pool(pool, len(pool) // kv_format.page_bytes)
    rest = Span(
        first_position=SPLIT,
        tokens=PROMPT[SPLIT:],
        pages=pages,
        numerics=engine.capabilities.numerics[0],
        logits_from=0,
    )
    logits = engine.logits(engine.step([rest]))
    engine.close()
    return logits


def convert(
    source: KvFormat, source_pool: memoryview, pages: np.ndarray, target: KvFormat, target_pool: memoryview
) -> np.ndarray:
    """Hands the prompt's pages over; returns the target's page table with one page more for the rest."""
    copy = plan(source, target)
    assert isinstance(copy, Copy)
    assert SPLIT % copy.border_tokens == 0
    count = SPLIT // target.page_tokens
    table = np.random.default_rng(6).permutation(count + 3).astype(np.int32)[: count + 1]
    Conversion(copy).run(source_pool, pages, target_pool, table[:count])
    return table


def test_pages_of_another_layout_and_size_decode_to_the_same_bits(
    tiny_model: Model,
    geometry: dict[str, object],
    prefilled: tuple[KvFormat, memoryview],
    make_pool: Callable[[int], memoryview],
) -> None:
    source, pool = prefilled
    target = hnd(**geometry, page_tokens=64)  # type: ignore[arg-type]
    other = make_pool(5 * target.page_bytes)
    table = convert(source, pool, NATIVE_PAGES[:8], target, other)
    expected = decoded(tiny_model, source, pool, NATIVE_PAGES)
    assert np.array_equal(decoded(tiny_model, target, other, table), expected)
    misread = nhd(**geometry, page_tokens=64)  # type: ignore[arg-type]
    assert np.abs(decoded(tiny_model, misread, other, table) - expected).max() > 1, "the layout matters"


@pytest.mark.parametrize(("dtype", "bound"), [("float32", 0.02), ("float16", 0.02), ("int8", 0.2)])
def test_pages_of_another_type_decode_to_nearly_the_same(
    tiny_model: Model,
    geometry: dict[str, object],
    prefilled: tuple[KvFormat, memoryview],
    make_pool: Callable[[int], memoryview],
    dtype: str,
    bound: float,
) -> None:
    """float32 and float16 decode in pages of that type; int8 only travels in it, and is widened again."""
    source, pool = prefilled
    target = nhd(**geometry, page_tokens=32, dtype=dtype)  # type: ignore[arg-type]
    other = make_pool(7 * target.page_bytes)
    table = convert(source, pool, NATIVE_PAGES[:8], target, other)
    if dtype == "int8":
        codes, code_format, code_pages = other, target, table[:4]
        target = hnd(**geometry, page_tokens=32)  # type: ignore[arg-type]
        other = make_pool(7 * target.page_bytes)
        table = convert(code_format, codes, code_pages, target, other)
    expected = decoded(tiny_model, source, pool, NATIVE_PAGES)
    found = decoded(tiny_model, target, other, table)
    assert np.abs(found - expected).max() < bound * np.abs(expected).max()


def test_a_format_of_another_model_is_refused_by_field(
    tiny_model: Model, geometry: dict[str, object]
) -> None:
    wrong = hnd(**geometry | {"layers": 3})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"kv_format\.group\.layers: 3, the model has 2"):
        TorchEngine(tiny_model, kv_format=wrong)
