"""The supplied sampler against a slow model in NumPy that states the rules one after the other."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest

from diptych.engine import sampling
from diptych.engine.interface import SampleRow, SamplingParameters
from diptych.engine.native import _kernels

NOTHING = np.zeros(0, np.int32)


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Philox4x32-10 as the paper's listing has it."""
    c, k = list(counter), list(key)
    for _ in range(10):
        high0, low0 = divmod(0xD2511F53 * c[0], 2**32)
        high1, low1 = divmod(0xCD9E8D57 * c[2], 2**32)
        c = [high1 ^ c[1] ^ k[0], low1, high0 ^ c[3] ^ k[1], low0]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


def model_uniform(seed: int, choice: int, index: int) -> float:
    words = philox([index % 2**32, index >> 32, choice, 0], [seed % 2**32, seed >> 32])
    return ((words[0] << 32 | words[1]) >> 11) / 2**53


def adjusted(row: np.ndarray, p: SamplingParameters, prompt: list[int], emitted: list[int]) -> np.ndarray:
    x = row.astype(np.float64)
    for token in set(prompt) | set(emitted):
        x[token] = x[token] / p.repetition_penalty if x[token] > 0 else x[token] * p.repetition_penalty
    for token, count in Counter(emitted).items():
        x[token] -= count * p.frequency_penalty + p.presence_penalty
    for token, bias in p.logit_bias.items():
        x[token] += bias
    return x


def kept(share: np.ndarray, p: SamplingParameters) -> np.ndarray:
    """Which tokens min-p, top-k and top-p leave."""
    order = np.lexsort((np.arange(len(share)), -share))
    order = order[share[order] >= p.min_p * share.max()]
    if p.top_k:
        order = order[: p.top_k]
    if p.top_p < 1:
        cumulated = np.cumsum(share[order]) / share[order].sum()
        order = order[: int(np.searchsorted(cumulated, p.top_p)) + 1]
    mask = np.zeros(len(share), bool)
    mask[order] = True
    return mask


def model_sample(
    row: np.ndarray, p: SamplingParameters, random: float, prompt: list[int], emitted: list[int]
) -> int:
    x = adjusted(row, p, prompt, emitted)
    if p.temperature == 0:
        return int(np.argmax(x))
    share = np.exp((x - x.max()) / p.temperature)
    share = np.where(kept(share, p), share, 0)
    return int(np.searchsorted(np.cumsum(share) / share.sum(), random, side="right"))


def sampler(p: SamplingParameters, choice: int = 0, prompt: Any = NOTHING, emitted: Any = NOTHING) -> Any:
    return sampling.make_sampler(
        p, choice=choice, prompt=np.array(prompt, np.int32), emitted=np.array(emitted, np.int32)
    )


def one(row: np.ndarray, p: SamplingParameters, index: int = 0, **state: Any) -> Any:
    return sampling.sample_rows(row[None], [SampleRow(0, sampler(p, **state), index)])[0]


@pytest.mark.parametrize(
    ("counter", "key", "want"),
    [  # the known answers that Random123 ships
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([2**32 - 1] * 4, [2**32 - 1] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
)
def test_philox_gives_the_published_vectors(counter: list[int], key: list[int], want: list[int]) -> None:
    assert _kernels.philox(counter, key) == want
    assert philox(counter, key) == want


def test_uniform_is_keyed_by_seed_choice_and_index() -> None:
    cases = [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (2**63 + 5, 7, 2**33 + 1), (2**32, 0, 0)]
    values = [sampling.uniform(*case) for case in cases]
    assert values == [model_uniform(*case) for case in cases]
    assert len(set(values)) == len(values)
    assert sampling.uniform(-1, 0, 0) == sampling.uniform(2**64 - 1, 0, 0)
    many = np.array([sampling.uniform(9, 0, i) for i in range(4000)])
    assert many.min() >= 0
    assert many.max() < 1
    assert abs(many.mean() - 0.5) < 0.02


PARAMETERS = [
    {},
    {"temperature": 1.0},
    {"temperature": 0.3},
    {"temperature": 2.5},
    {"temperature": 1.0, "top_k": 5},
    {"temperature": 1.5, "top_k": 1},
    {"temperature": 1.0, "top_p": 0.9},
    {"temperature": 5.0, "top_p": 0.95},
    {"temperature": 1.0, "top_p": 0.0},
    {"temperature": 1.0, "min_p": 0.1},
    {"temperature": 1.0, "min_p": 1e-5},
    {"temperature": 4.0, "top_k": 300, "top_p": 0.8, "min_p": 0.01},
    {"temperature": 1.0, "top_k": 10**6, "top_p": 0.5},
    {"temperature": 0.8, "repetition_penalty": 1.3},
    {"temperature": 0.8, "frequency_penalty": 0.7, "presence_penalty": 0.4},
    {"temperature": 1.0, "logit_bias": {3: 4.0, 17: -100.0, 900: 2.5}},
    {"repetition_penalty": 5.0, "frequency_penalty": 1.5, "logit_bias": {2: 1.0}},
    {
        "temperature": 0.9,
        "top_p": 0.7,
        "min_p": 0.02,
        "repetition_penalty": 0.8,
        "presence_penalty": -1.0,
        "logit_bias": {5: 3.0},
    },
]


@pytest.mark.parametrize("spread", [1.0, 6.0], ids=["flat", "peaked"])
@pytest.mark.parametrize("changes", PARAMETERS, ids=str)
def test_sampling_follows_the_rules(changes: dict[str, Any], spread: float) -> None:
    rng = np.random.default_rng(11)
    for index in range(60):
        row = rng.normal(0, spread, 1003).astype(np.float32)
        p = SamplingParameters(seed=77, **changes)
        prompt, emitted = rng.integers(0, 1003, 30).tolist(), rng.integers(0, 40, 25).tolist()
        want = model_sample(row, p, model_uniform(77, 2, index), prompt, emitted)
        assert one(row, p, index, choice=2, prompt=prompt, emitted=emitted).token == want


def test_sampling_follows_the_rules_on_odd_sizes_ties_and_mixtures() -> None:
    rng = np.random.default_rng(123)
    for seed in range(600):
        row = rng.normal(0, rng.choice([0.01, 1, 8]), int(rng.choice([1, 2, 5, 40, 1023, 1024, 1025, 3000])))
        row = (np.round(row) if rng.random() < 0.3 else row).astype(np.float32)
        p = SamplingParameters(
            seed=seed,
            temperature=float(rng.choice([0.2, 1, 3])),
            top_k=int(rng.choice([0, 1, 3, 50, 1024])),
            top_p=float(rng.choice([0, 0.3, 0.9, 1])),
            min_p=float(rng.choice([0, 0.05, 0.5, 1])),
        )
        assert one(row, p, 3).token == model_sample(row, p, model_uniform(seed, 0, 3), [], [])


def test_greedy_ties_go_to_the_lowest_id() -> None:
    for vocabulary in (3, 16, 17, 1000, 49152):
        row = np.zeros(vocabulary, np.float32)
        row[vocabulary // 2 :] = 5.0
        assert one(row, SamplingParameters()).token == vocabulary // 2


def test_top_k_ties_go_to_the_lowest_ids() -> None:
    row = np.zeros(500, np.float32)
    drawn = {one(row, SamplingParameters(temperature=1.0, top_k=3), i).token for i in range(100)}
    assert drawn == {0, 1, 2}


def test_a_temperature_too_small_to_divide_by_is_greedy() -> None:
    row = np.random.default_rng(0).normal(0, 3, 100).astype(np.float32)
    for temperature in (1e-320, 1e-9, 1e-6):
        assert one(row, SamplingParameters(temperature=temperature)).token == row.argmax()


def test_frequencies_are_the_probabilities() -> None:
    row = np.log(np.array([0.5, 0.2, 0.2, 0.1], np.float32))
    p = SamplingParameters(temperature=1.0, seed=5)
    counts = Counter(one(row, p, i).token for i in range(4000))
    for token, share in enumerate((0.5, 0.2, 0.2, 0.1)):
        assert abs(counts[token] / 4000 - share) < 0.03


def test_penalties_count_the_sampled_tokens() -> None:
    row = np.array([3.0, 2.0, 1.0, 0.0], np.float32)
    state = sampler(SamplingParameters(presence_penalty=1.5))
    drawn = [sampling.sample_rows(row[None], [SampleRow(0, state, i)])[0].token for i in range(5)]
    # 3.0, then 2.0 and 1.5 left, then 1.0, then every token bears the penalty once
    assert drawn == [0, 1, 0, 0, 0]
    state = sampler(SamplingParameters(frequency_penalty=1.2))
    drawn = [sampling.sample_rows(row[None], [SampleRow(0, state, i)])[0].token for i in range(6)]
    assert drawn == [0, 1, 0, 2, 1, 0]


def test_a_resumed_sampler_goes_on_where_it_was() -> None:
    rng = np.random.default_rng(3)
    rows = rng.normal(0, 2, (12, 50)).astype(np.float32)
    p = SamplingParameters(
        temperature=1.0, frequency_penalty=0.8, repetition_penalty=1.2, seed=2**40 + 9, logprobs=2
    )
    whole = sampler(p, prompt=[1, 2])
    want = sampling.sample_rows(rows, [SampleRow(i, whole, i) for i in range(12)])
    resumed = sampler(p, prompt=[1, 2], emitted=[token.token for token in want[:7]])
    assert sampling.sample_rows(rows, [SampleRow(i, resumed, i) for i in range(7, 12)]) == want[7:]


def test_logprobs_are_of_the_raw_row() -> None:
    row = np.random.default_rng(4).normal(0, 3, 777).astype(np.float32)
    raw = row - np.log(np.exp(row.astype(np.float64)).sum())
    p = SamplingParameters(temperature=0.5, logit_bias={9: 50.0}, repetition_penalty=2.0, logprobs=20)
    got = one(row, p, prompt=[3, 4])
    assert got.token == 9
    assert got.logprob == pytest.approx(raw[9], abs=2e-6)
    order = np.argsort(-row, kind="stable")[:20]
    assert [token for token, _ in got.top] == order.tolist()
    np.testing.assert_allclose([value for _, value in got.top], raw[order], atol=2e-6)


def test_no_logprobs_unless_asked_and_none_but_the_chosen_for_zero() -> None:
    row = np.arange(10, dtype=np.float32)
    plain = one(row, SamplingParameters())
    assert (plain.token, plain.logprob, plain.top) == (9, None, ())
    chosen = one(row, SamplingParameters(logprobs=0))
    assert chosen.logprob == pytest.approx(9 - np.log(np.exp(np.arange(10)).sum()))
    assert chosen.top == ()


def test_score_gives_targets_and_the_most_likely_with_ties_to_the_lowest() -> None:
    rows = np.random.default_rng(8).normal(0, 2, (4, 99)).astype(np.float32)
    rows[2, 50:] = 7.0
    raw = rows - np.log(np.exp(rows.astype(np.float64)).sum(-1, keepdims=True))
    got = sampling.score_rows(rows, 1, np.array([5, 98, 0], np.int32), 3)
    assert [token.token for token in got] == [5, 98, 0]
    np.testing.assert_allclose([t.logprob for t in got], [raw[1, 5], raw[2, 98], raw[3, 0]], atol=2e-6)
    assert [token for token, _ in got[1].top] == [50, 51, 52]


def test_rows_may_be_a_view_with_a_wider_stride() -> None:
    wide = np.random.default_rng(8).normal(0, 2, (3, 48)).astype(np.float32)
    view = wide[:, :40]
    got = sampling.sample_rows(view, [SampleRow(2, sampler(SamplingParameters()), 0)])
    assert got[0].token == view[2].argmax()


def test_nan_is_never_sampled_and_a_row_without_finite_maximum_is_refused() -> None:
    row = np.array([np.nan, 1.0, 2.0, np.nan], np.float32)
    assert one(row, SamplingParameters()).token == 2
    warm = {one(row, SamplingParameters(temperature=5.0, top_p=0.999), i).token for i in range(50)}
    assert warm == {1, 2}
    for bad in (np.nan, -np.inf, np.inf):
        for p in (SamplingParameters(), SamplingParameters(temperature=1.0)):
            with pytest.raises(ValueError, match="no finite greatest logit"):
                one(np.full(20, bad, np.float32), p)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"temperature": -0.1}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": 101.0}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_k": 2**31}, "top_k"),
        ({"top_p": 1.1}, "top_p"),
        ({"top_p": float("nan")}, "top_p"),
        ({"min_p": -0.1}, "min_p"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"frequency_penalty": float("inf")}, "frequency_penalty"),
        ({"presence_penalty": float("nan")}, "presence_penalty"),
        ({"logit_bias": {-1: 1.0}}, "logit_bias"),
        ({"logit_bias": {1: float("nan")}}, "logit_bias"),
        ({"logprobs": 21}, "logprobs"),
        ({"logprobs": -1}, "logprobs"),
    ],
)
def test_parameters_out_of_range_are_refused_by_name(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=rf"^{field}"):
        sampler(SamplingParameters(**changes))


def test_rows_and_targets_out_of_range() -> None:
    rows = np.zeros((2, 10), np.float32)
    with pytest.raises(ValueError, match="row = 2: the step kept 2 rows"):
        sampling.sample_rows(rows, [SampleRow(2, sampler(SamplingParameters()), 0)])
    with pytest.raises(ValueError, match="row = -1"):
        sampling.sample_rows(rows, [SampleRow(-1, sampler(SamplingParameters()), 0)])
    with pytest.raises(ValueError, match=r"targets\[1\]"):
        sampling.score_rows(rows, 0, np.array([0, 10], np.int32), 0)
    with pytest.raises(ValueError, match="row = 2"):
        sampling.score_rows(rows, 1, np.array([0, 1], np.int32), 0)
    with pytest.raises(ValueError, match="top: must be 0 to 20"):
        sampling.score_rows(rows, 0, np.array([0], np.int32), 21)
    with pytest.raises(ValueError, match="choice = -1"):
        sampler(SamplingParameters(), choice=-1)
