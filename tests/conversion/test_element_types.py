"""Casts: every value of the small types, edges of the wide ones, error bounds, and what cannot be held."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from diptych.conversion import Conversion, instruction_sets
from diptych.conversion.dtypes import decode
from diptych.wire.kv import Copy, KvFormat, nhd, plan

EXECUTORS = [*instruction_sets(), "numpy"]


def form(dtype: str, tokens: int, dims: int) -> KvFormat:
    return nhd(model="m", layers=1, kv_heads=1, head_dim=dims, page_tokens=tokens, dtype=dtype)


def cast(values: np.ndarray, source: str, target: str, executor: str) -> np.ndarray:
    """Codes [tokens, dims] as K of one page, cast to `target`, as bytes of the target's K."""
    tokens, dims = values.shape
    here, there = form(source, tokens, dims), form(target, tokens, dims)
    copy = plan(here, there)
    assert isinstance(copy, Copy)
    page, made = np.zeros(here.page_bytes, np.uint8), np.zeros(there.page_bytes, np.uint8)
    page[: values.nbytes] = values.reshape(-1).view(np.uint8)
    if executor == "numpy":
        Conversion(copy, executor="numpy").run(page, [0], made, [0])
    else:
        Conversion(copy, isa=executor).run(page, [0], made, [0])
    return made


def through(values: np.ndarray, target: str, executor: str) -> np.ndarray:
    """float32 [tokens, dims] to `target` and back."""
    tokens, dims = values.shape
    there, here = form(target, tokens, dims), form("float32", tokens, dims)
    codes = cast(values, "float32", target, executor)
    back = plan(there, here)
    assert isinstance(back, Copy)
    made = np.zeros(here.page_bytes, np.uint8)
    Conversion(back, isa=None if executor == "numpy" else executor).run(codes, [0], made, [0])
    return made.view(np.float32)[: tokens * dims].reshape(tokens, dims)


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_every_value_of_16_bits_widens_exactly(dtype: str, executor: str) -> None:
    codes = np.arange(1 << 16, dtype=np.uint16).reshape(256, 256)
    made = cast(codes, dtype, "float32", executor).view(np.float32)[: 1 << 16]
    if dtype == "float16":
        expected = codes.view(np.float16).astype(np.float32).reshape(-1)
    else:
        expected = (codes.astype(np.uint32) << 16).view(np.float32).reshape(-1)
    np.testing.assert_array_equal(made, expected)  # NaN where NaN is
    zeros = expected == 0
    assert np.array_equal(np.signbit(made[zeros]), np.signbit(expected[zeros]))


@pytest.mark.torch
@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("target", ["bfloat16", "float16"])
def test_narrowing_is_what_torch_does(target: str, executor: str) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    random = np.random.default_rng(3)
    # All exponents, and fractions that are ties or nearly so: their low bits are mostly 0 or a half.
    raw = random.integers(0, 1 << 32, (256, 256), dtype=np.uint64).astype(np.uint32)
    raw[::3] &= np.uint32(0xFFFF8000)
    raw[1::3] &= np.uint32(0xFFFFF000)
    values = raw.view(np.float32)
    made = cast(values, "float32", target, executor).view(np.uint16)[: values.size]
    expected = torch.from_numpy(values).to(getattr(torch, target))
    nan = np.isnan(values).reshape(-1)
    np.testing.assert_array_equal(made[~nan], expected.view(torch.uint16).numpy().reshape(-1)[~nan])
    assert np.isnan(decode(made[nan], target)).all()


@pytest.mark.torch
@pytest.mark.parametrize("executor", EXECUTORS)
def test_float8_without_scales_is_what_torch_does_up_to_its_greatest_value(executor: str) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    raw = np.arange(1 << 16, dtype=np.uint32).reshape(256, 256) << 16
    raw |= np.random.default_rng(4).choice(np.array([0, 1, 0x8000, 0xFFFF], np.uint32), raw.shape)
    values = raw.view(np.float32)
    here, there = form("float32", 256, 256), form("float8_e4m3", 256, 256)
    there = msgspec.structs.replace(there, groups=(msgspec.structs.replace(there.group, scales=None),))
    copy, back = plan(here, there), plan(there, here)
    assert isinstance(copy, Copy)
    assert isinstance(back, Copy)
    page = np.zeros(here.page_bytes, np.uint8)
    page[: values.nbytes] = values.reshape(-1).view(np.uint8)
    codes, again = np.zeros(there.page_bytes, np.uint8), np.zeros(here.page_bytes, np.uint8)
    options = {"executor": "numpy"} if executor == "numpy" else {"isa": executor}
    Conversion(copy, **options).run(page, [0], codes, [0])
    Conversion(back, **options).run(codes, [0], again, [0])
    expected = torch.from_numpy(values).to(torch.float8_e4m3fn).to(torch.float32).numpy()
    # torch 2.13 makes the greatest value of what is above it.
    expected[~(np.abs(values) <= 464)] = np.nan
    np.testing.assert_array_equal(again.view(np.float32)[: values.size], expected.reshape(-1))


finite = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 18), st.sampled_from([2, 16, 40, 64])),
    elements=st.floats(-(2.0**127), 2.0**127, width=32),
)


@settings(deadline=None, max_examples=80)
@given(finite, st.sampled_from(["int8", "float8_e4m3"]), st.sampled_from(EXECUTORS))
def test_scaled_codes_stay_within_their_bound(values: np.ndarray, dtype: str, executor: str) -> None:
    """int8: half a step of 1/127 of the vector's greatest value. float8_e4m3: a sixteenth of the value
    itself, or half a step of the smallest codes (2^-10 / 448 of the greatest value)."""
    most = np.abs(values).max(axis=1, keepdims=True).astype(np.float64)
    back = through(values, dtype, executor).astype(np.float64)
    error = np.abs(back - values)
    step = most / 254 if dtype == "int8" else np.maximum(np.abs(values) / 16, most / 448 * 2.0**-10)
    assert (error <= step * (1 + 1e-5) + 2.0**-100).all()


@settings(deadline=None, max_examples=80)
@given(finite, st.sampled_from(["bfloat16", "float16"]), st.sampled_from(EXECUTORS))
def test_halves_stay_within_their_bound(values: np.ndarray, dtype: str, executor: str) -> None:
    values = np.clip(values, -65504, 65504) if dtype == "float16" else values
    back = through(values, dtype, executor).astype(np.float64)
    step = np.abs(values) * 2.0**-8 if dtype == "bfloat16" else np.abs(values) * 2.0**-11 + 2.0**-25
    assert (np.abs(back - values) <= step + 2.0**-134).all()


@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("dtype", ["int8", "float8_e4m3"])
def test_a_vector_that_cannot_be_scaled_reads_back_as_nan_or_zero(dtype: str, executor: str) -> None:
    values = np.ones((5, 24), np.float32)
    values[0, 3], values[1, 20], values[2, 5], values[3] = np.nan, np.inf, -np.inf, 2.0**-101
    back = through(values, dtype, executor)
    assert np.isnan(back[:3]).all()
    assert (back[3] == 0).all()
    assert (back[4] == 1).all()


@pytest.mark.parametrize("executor", EXECUTORS)
def test_what_a_half_cannot_hold_is_infinite_and_not_the_greatest_value(executor: str) -> None:
    values = np.array([[65504, 65519, 65520, -1e30, np.inf, np.nan, 0, -0.0]], np.float32)
    back = through(values, "float16", executor)[0]
    np.testing.assert_array_equal(back, [65504, 65504, np.inf, -np.inf, np.inf, np.nan, 0, 0])
