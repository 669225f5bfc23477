"""Instruction sets: every variant this CPU runs gives the bits of the plain C++ one."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from diptych.engine.native import _kernels
from diptych.engine.native.probe import numerics_id

VARIANTS = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            name not in _kernels.runnable_variants(), reason=f"this CPU does not run {name}"
        ),
    )
    for name in ("avx2", "avx512")
]


@pytest.mark.parametrize("isa", VARIANTS)
@pytest.mark.parametrize("format", ["bf16", "int8", "int4"])
def test_variants_agree_bit_for_bit(format: str, isa: str, tiny: Any, host: Any) -> None:
    model = tiny(5, "f32", hidden=160, heads=6, kv_heads=2, head_dim=96, ffn=224, vocabulary=131)
    tokens = np.random.default_rng(2).integers(0, 131, 90).astype(np.int32)
    want = host(model, [format], isa="plain").whole(tokens, format)
    box = host(model, [format], isa=isa)
    np.testing.assert_array_equal(box.whole(tokens, format).view(np.uint32), want.view(np.uint32))
    for first, end in ((0, 33), (33, 34), (34, 90)):
        rows = box.run([box.span(tokens, first, end, [9, 8, 7, 6, 5, 4], format)])
        np.testing.assert_array_equal(rows.view(np.uint32), want[first:end].view(np.uint32))


@pytest.mark.parametrize("isa", VARIANTS)
def test_int8_sums_do_not_saturate(isa: str, tiny: Any, host: Any) -> None:
    """Weights of -128 and inputs of +-127 are the worst case of VPMADDUBSW."""
    model = tiny(6, "q8_0")
    tensors = dict(model.tensors)
    for name in ("layers.0.query", "layers.0.gate", "layers.1.down"):
        blocks = tensors[name].data.reshape(-1, 34)
        blocks[:, 2:] = np.where(np.arange(32) % 3 == 0, 127, 128).astype(np.uint8)
    tokens = np.arange(20, dtype=np.int32)
    want = host(model, ["int8"], isa="plain").whole(tokens, "int8")
    np.testing.assert_array_equal(host(model, ["int8"], isa=isa).whole(tokens, "int8"), want)


def test_environment_variable_forces_a_variant() -> None:
    code = "from diptych.engine.native import _kernels; print(_kernels.default_variant())"
    for name in _kernels.runnable_variants():
        run = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "DIPTYCH_ISA": name},
            capture_output=True,
            text=True,
            check=True,
        )
        assert run.stdout.strip() == name


def test_an_unknown_variant_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"'neon'.*DIPTYCH_ISA.*plain"):
        numerics_id("int8", "neon")


def test_numerics_ids_name_format_and_variant_and_are_stable() -> None:
    ids = {(f, v): numerics_id(f, v) for f in ("bf16", "int8", "int4") for v in _kernels.runnable_variants()}
    assert len(set(ids.values())) == len(ids)
    for (format, variant), value in ids.items():
        family, first, second, digest = value.split("/")
        assert (family, first, second) == ("native", format, variant)
        assert len(digest) == 16
    numerics_id.cache_clear()
    assert {key: numerics_id(*key) for key in ids} == ids
