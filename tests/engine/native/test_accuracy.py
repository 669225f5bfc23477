"""The embedded model in each format against its own weights in float32, on text written for this test."""

from __future__ import annotations

import mmap
from typing import Any

import numpy as np
import pytest

from diptych.engine.interface import Span
from diptych.engine.native import packing
from diptych.engine.native.engine import NativeEngine
from diptych.models.embedded import fetch_embedded
from diptych.models.resolve import LoadedModel, load

TEXTS = (
    "My grandmother kept bees. Every spring she would walk to the hives with a veil over her hat and a "
    "smoker in her hand, and every autumn she came back with jars.",
    "Water boils at one hundred degrees Celsius at sea level. Higher up, where the air is thinner, it boils "
    "at lower temperatures, and so a potato takes longer to cook on a mountain.",
    "def greatest(values):\n    best = values[0]\n    for value in values:\n        if value > best:\n"
    "            best = value\n    return best\n",
)
BARS = {"bf16": 0.001, "int8": 0.02, "int4": 0.02}


def logits(engine: Any, tokens: np.ndarray, numerics: str) -> np.ndarray:
    span = Span(
        first_position=0,
        tokens=tokens,
        pages=np.arange(-(-len(tokens) // 16), dtype=np.int32),
        numerics=numerics,
        logits_from=0,
    )
    return np.asarray(engine.logits(engine.step([span])), np.float64)


def log_shares(rows: np.ndarray) -> np.ndarray:
    rows = rows - rows.max(-1, keepdims=True)
    return rows - np.log(np.exp(rows).sum(-1, keepdims=True))


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    return load(fetch_embedded())


@pytest.mark.model
@pytest.mark.torch
def test_divergence_from_float32_stays_below_the_bars(loaded: LoadedModel) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    from diptych.engine.torch import TorchEngine

    model = loaded.model
    weights = {}
    for name in BARS:
        weights[name] = memoryview(mmap.mmap(-1, packing.packed_bytes(model.config, name)))
        packing.pack(model, name, weights[name])
    native = NativeEngine(model.config, weights, model.fingerprint, "int8")
    yardstick = TorchEngine(model, dtype="float32")
    for engine in (native, yardstick):
        engine.attach_pool(memoryview(mmap.mmap(-1, 8 * engine.kv_format.page_bytes)), 8)
    divergence: dict[str, list[np.ndarray]] = {name: [] for name in BARS}
    for text in TEXTS:
        tokens = np.array(loaded.tokenizer.encode(text), np.int32)
        want = log_shares(logits(yardstick, tokens, yardstick.capabilities.numerics[0]))
        for name, numerics in zip(native.capabilities.formats, native.capabilities.numerics, strict=True):
            got = log_shares(logits(native, tokens, numerics))
            divergence[name].append((np.exp(want) * (want - got)).sum(-1))
    for name, bar in BARS.items():
        assert 0 < np.concatenate(divergence[name]).mean() < bar
