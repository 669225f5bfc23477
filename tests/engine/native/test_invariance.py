"""DESIGN idea 9: the bits of a row depend on its own tokens and recipe, and on nothing else.

Every case compares logits bit for bit with those of each sequence computed alone, in one step, by one
thread, over zeroed pages.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from typing import Any

import numpy as np
import pytest

FORMATS = ("bf16", "int8", "int4")
SHAPES: list[dict[str, Any]] = [
    {"heads": 6, "kv_heads": 2, "head_dim": 32, "vocabulary": 61},
    {"heads": 3, "kv_heads": 3, "head_dim": 64, "vocabulary": 61},
    {"heads": 8, "kv_heads": 1, "head_dim": 96, "vocabulary": 61, "qk_norm": True},
]


def random_schedule(rng: np.random.Generator, lengths: list[int]) -> list[list[tuple[int, int, int]]]:
    """Steps of (sequence, first, end): ragged chunks of random sequences until all are done."""
    done = [0] * len(lengths)
    steps = []
    while any(at < length for at, length in zip(done, lengths, strict=True)):
        step = []
        for i in rng.permutation(len(lengths)):
            if done[i] == lengths[i] or rng.random() < 0.3:
                continue
            most = lengths[i] - done[i]
            count = int(rng.choice([1, 1, 2, 3, 5, 16, 17, 40, most]))
            end = done[i] + min(count, most)
            step.append((int(i), done[i], end))
            done[i] = end
        steps.append(step)
    return steps


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("seed", range(9))
def test_rows_do_not_depend_on_their_company(seed: int, format: str, tiny: Any, host: Any) -> None:
    rng = np.random.default_rng(seed)
    model = tiny(seed, "q4_1", **SHAPES[seed % 3])
    lengths = [int(n) for n in rng.integers(1, 120, int(rng.integers(1, 7)))]
    sequences = [rng.integers(0, 61, n).astype(np.int32) for n in lengths]
    calm = host(model, [format], poison="zero")
    alone = [calm.whole(tokens, format) for tokens in sequences]
    for threads in (1, 2):
        poison = ("nan", "huge", "random")[int(rng.integers(3))]
        box = host(model, [format], poison=poison, seed=seed, threads=threads)
        shuffled = rng.permutation(64)
        tables = [shuffled[8 * i : 8 * i + 8] for i in range(len(lengths))]
        for step in random_schedule(rng, lengths):
            rows = box.run([box.span(sequences[i], a, b, tables[i], format) for i, a, b in step])
            for i, first, end in step:
                np.testing.assert_array_equal(
                    rows[: end - first].view(np.uint32), alone[i][first:end].view(np.uint32)
                )
                rows = rows[end - first :]


@pytest.mark.parametrize("format", FORMATS)
def test_formats_in_one_step_do_not_disturb_each_other(format: str, tiny: Any, host: Any) -> None:
    box = host(tiny(), FORMATS)
    tokens = np.arange(50, dtype=np.int32)
    alone = {name: box.whole(tokens, name) for name in FORMATS}
    rows = box.run([box.span(tokens, 0, 50, range(8 * k, 8 * k + 4), name) for k, name in enumerate(FORMATS)])
    at = FORMATS.index(format) * 50
    np.testing.assert_array_equal(rows[at : at + 50], alone[format])


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("mode", [0x400, 0x800, 0xC00], ids=["down", "up", "to zero"])
def test_the_callers_rounding_mode_does_not_matter(mode: int, format: str, tiny: Any, host: Any) -> None:
    library = ctypes.CDLL(ctypes.util.find_library("m"))
    tokens = np.arange(40, dtype=np.int32)
    model = tiny(0, "f32")
    want = host(model, [format], threads=2).whole(tokens, format)
    library.fesetround(mode)
    try:  # packing and computing
        got = host(model, [format], threads=2).whole(tokens, format)
        after = library.fegetround()
    finally:
        library.fesetround(0)
    assert after == mode
    np.testing.assert_array_equal(got, want)


def test_a_shared_prefix_gives_the_bits_of_a_private_one(tiny: Any, host: Any) -> None:
    box = host(tiny(), ["int8"])
    tokens = np.arange(40, dtype=np.int32)
    other = np.concatenate([tokens[:32], tokens[:8]])
    want = [box.whole(tokens, "int8")[32:], box.whole(other, "int8")[32:]]
    box.run([box.span(tokens, 0, 32, [10, 11], "int8")])
    rows = box.run(
        [box.span(tokens, 32, 40, [10, 11, 12], "int8"), box.span(other, 32, 40, [10, 11, 13], "int8")]
    )
    np.testing.assert_array_equal(rows, np.concatenate(want))
