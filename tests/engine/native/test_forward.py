"""The forward pass against a float64 model of the network, for every architecture and odd geometries."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from diptych.models.weights import RopeScaling

SCALING = RopeScaling(factor=8.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_context=64)
CASES: dict[str, dict[str, Any]] = {
    "llama": {},
    "llama 3 scaling": {"rope_scaling": SCALING, "rope_theta": 500.0},
    "separate head": {"tied_head": False},
    "qwen2": {"architecture": "qwen2", "qkv_bias": True, "heads": 7, "kv_heads": 1},
    "qwen3": {"architecture": "qwen3", "qk_norm": True, "head_dim": 64},
    "heads of 96": {"head_dim": 96, "heads": 3, "kv_heads": 3},
    "heads of 128": {"head_dim": 128, "heads": 8, "kv_heads": 2},
    "sixteen heads a group": {"heads": 16, "kv_heads": 1},
    "odd widths": {"hidden": 160, "ffn": 224, "vocabulary": 251},
}
# Relative error of the logits (rms over rms). Inputs of a product are rounded to 8 bits of mantissa, or
# to 127 steps of a group's maximum.
BOUNDS = {"bf16": 0.012, "int8": 0.03, "int4": 0.03}


def relative_error(got: np.ndarray, want: np.ndarray) -> float:
    return float(np.sqrt(((got - want) ** 2).mean() / (want**2).mean()))


@pytest.mark.parametrize("format", BOUNDS)
@pytest.mark.parametrize("case", CASES)
def test_forward_follows_the_network(case: str, format: str, tiny: Any, host: Any, network: Any) -> None:
    # The file's encoding is one the format keeps, so that only the arithmetic differs.
    model = tiny(3, {"bf16": "bf16", "int8": "q8_0", "int4": "q4_1"}[format], **CASES[case])
    tokens = np.random.default_rng(1).integers(0, model.config.vocabulary, 75).astype(np.int32)
    want = network(model, tokens)
    got = host(model, [format]).whole(tokens, format)
    assert relative_error(got, want) < BOUNDS[format]


@pytest.mark.parametrize("format", ["bf16", "int8"])
@pytest.mark.parametrize("encoding", ["f32", "f16", "bf16", "q8_0", "q4_1"])
def test_every_encoding_packs_into_fine_formats(
    encoding: str, format: str, tiny: Any, host: Any, network: Any
) -> None:
    model = tiny(4, encoding)
    tokens = np.arange(40, dtype=np.int32)
    assert relative_error(host(model, [format]).whole(tokens, format), network(model, tokens)) < 0.03


@pytest.mark.parametrize("encoding", ["f32", "f16", "bf16"])
def test_int4_from_other_encodings_is_q4_1(encoding: str, tiny: Any, host: Any, network: Any) -> None:
    tokens = np.arange(40, dtype=np.int32)
    want = network(tiny(4, "q4_1"), tokens)  # the same random weights in blocks of the test's own
    exact = {"f32": 0.03, "f16": 0.06, "bf16": 0.12}[encoding]  # a changed weight may take another code
    assert relative_error(host(tiny(4, encoding), ["int4"]).whole(tokens, "int4"), want) < exact


def test_logits_rows_come_in_span_order_then_position_order(tiny: Any, host: Any) -> None:
    box = host(tiny(), ["int8", "int4", "bf16"])
    tokens = np.arange(30, dtype=np.int32)
    alone = {name: box.whole(tokens, name) for name in box.numerics}
    rows = box.run(
        [
            box.span(tokens, 0, 20, [3, 4], "int4", 18),
            box.span(tokens, 0, 9, [5], "int8", None),
            box.span(tokens, 0, 30, [6, 7], "bf16", 29),
            box.span(tokens, 0, 25, [8, 9], "int4", 23),
        ]
    )
    want = np.concatenate([alone["int4"][18:20], alone["bf16"][29:30], alone["int4"][23:25]])
    np.testing.assert_array_equal(rows, want)


def test_a_step_without_logits_still_writes_its_pages(tiny: Any, host: Any) -> None:
    box = host(tiny(), ["int8"])
    tokens = np.arange(20, dtype=np.int32)
    want = box.whole(tokens, "int8")[-1]
    result = box.engine.step([box.span(tokens, 0, 19, [9, 4], "int8", None)])
    assert result.rows == 0
    np.testing.assert_array_equal(box.run([box.span(tokens, 19, 20, [9, 4], "int8")])[0], want)


def test_an_empty_step_keeps_no_rows(tiny: Any, host: Any) -> None:
    assert host(tiny()).engine.step([]).rows == 0
