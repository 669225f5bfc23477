"""What an engine that samples keeps as well: tokens that depend on their row, seed and index alone."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from diptych.engine.interface import SampledToken, SampleRow, SamplingParameters, StepResult
from diptych.testing.trial import NO_TOKENS, EngineProperty, EngineTrial, Logits, require


def check_greedy(trial: EngineTrial) -> None:
    """Temperature 0 takes the most likely token, the lowest id among equals; a bias can force one."""
    result, logits = _some_rows(trial)
    greedy = _sample(trial, result, SamplingParameters())
    require(
        [pick.token for pick in greedy] == np.argmax(logits, axis=1).tolist(), "greedy is not the arg max"
    )
    wanted = int(trial.random.integers(0, trial.vocabulary))
    forced = _sample(trial, result, SamplingParameters(logit_bias={wanted: 100.0}))
    require({pick.token for pick in forced} == {wanted}, f"a logit_bias of 100 does not force token {wanted}")


def check_sampling(trial: EngineTrial) -> None:
    """A drawn token is a function of (logits, seed, choice, output index), and keeps to its limits."""
    result, logits = _some_rows(trial)
    parameters = SamplingParameters(temperature=2.0, seed=7)
    first = [pick.token for pick in _sample(trial, result, parameters)]
    require(
        first == [pick.token for pick in _sample(trial, result, parameters)],
        "the same seed gives another token",
    )
    backwards = _sample(trial, result, parameters, order=range(result.rows - 1, -1, -1))
    require(first == [pick.token for pick in backwards][::-1], "the order of the rows changes what is drawn")
    others = [
        [pick.token for pick in _sample(trial, result, msgspec.structs.replace(parameters, seed=seed))]
        for seed in range(8, 13)
    ]
    require(any(other != first for other in others), "no other seed gives another token")
    few = SamplingParameters(temperature=5.0, top_k=3, seed=3)
    for row, pick in enumerate(_sample(trial, result, few)):
        best = np.sort(logits[row])[-3]
        require(
            logits[row, pick.token] >= best, f"top_k 3 drew token {pick.token}, which is not among the best 3"
        )
    one = _sample(trial, result, SamplingParameters(temperature=1.0, top_p=1e-6, seed=3))
    require(
        [pick.token for pick in one] == np.argmax(logits, axis=1).tolist(), "top_p near 0 is not the arg max"
    )


def check_penalties(trial: EngineTrial) -> None:
    """A sampler counts what it picked: a fresh one with the emitted tokens goes on just the same."""
    result, _ = _some_rows(trial)
    parameters = SamplingParameters(temperature=1.5, seed=5, frequency_penalty=1.5, repetition_penalty=1.3)
    prompt = trial.prompt(9)
    sampler = trial.engine.sampler(parameters, choice=1, prompt=prompt, emitted=NO_TOKENS)
    emitted: list[int] = []
    for index in range(12):
        fresh = trial.engine.sampler(parameters, choice=1, prompt=prompt, emitted=np.array(emitted, np.int32))
        rows = [SampleRow(row=0, sampler=which, output_index=index) for which in (sampler, fresh)]
        kept, resumed = (trial.engine.sample(result, [row])[0].token for row in rows)
        require(kept == resumed, f"output {index}: a resumed sampler picks {resumed}, the first one {kept}")
        emitted.append(kept)
    strong = SamplingParameters(presence_penalty=100.0)
    sampler = trial.engine.sampler(strong, choice=0, prompt=prompt, emitted=NO_TOKENS)
    picks = [
        trial.engine.sample(result, [SampleRow(row=0, sampler=sampler, output_index=index)])[0].token
        for index in range(5)
    ]
    require(len(set(picks)) == 5, f"a presence_penalty of 100 still repeats: {picks}")


def check_logprobs(trial: EngineTrial) -> None:
    """Log-probabilities are those of the plain logits, whatever the sampling parameters."""
    result, logits = _some_rows(trial)
    expected = _log_softmax(logits)
    parameters = SamplingParameters(temperature=3.0, seed=1, logprobs=4, logit_bias={0: 2.0})
    for row, pick in enumerate(_sample(trial, result, parameters)):
        _assert_scored(pick, expected[row], 4, f"row {row}")
    plain = _sample(trial, result, SamplingParameters())
    require(
        all(pick.logprob is None and not pick.top for pick in plain),
        "logprobs were given without being asked",
    )
    targets = trial.prompt(result.rows - 1)
    scores = trial.engine.score(result, 1, targets, 2)
    require([score.token for score in scores] == targets.tolist(), "score answers for other tokens")
    for index, score in enumerate(scores):
        _assert_scored(score, expected[1 + index], 2, f"target {index}")


def _some_rows(trial: EngineTrial) -> tuple[StepResult, Logits]:
    tokens = trial.prompt(min(6, trial.step_tokens))
    result = trial.engine.step([trial.span(tokens, trial.table(len(tokens)), 0, len(tokens))])
    return result, trial.engine.logits(result)


def _sample(
    trial: EngineTrial,
    result: StepResult,
    parameters: SamplingParameters,
    order: Sequence[int] | None = None,
) -> list[SampledToken]:
    """One pick per row, each by a sampler of its own."""
    rows = [
        SampleRow(
            row=row,
            sampler=trial.engine.sampler(parameters, choice=0, prompt=NO_TOKENS, emitted=NO_TOKENS),
            output_index=row,
        )
        for row in (order if order is not None else range(result.rows))
    ]
    return trial.engine.sample(result, rows)


def _assert_scored(pick: SampledToken, expected: npt.NDArray[np.float64], top: int, what: str) -> None:
    if pick.logprob is None:
        raise AssertionError(f"{what}: no log-probability")
    found, wanted = pick.logprob, float(expected[pick.token])
    require(abs(found - wanted) < 1e-3, f"{what}: log-probability {found:.4f}, expected {wanted:.4f}")
    require(len(pick.top) == top, f"{what}: {len(pick.top)} most likely tokens, asked for {top}")
    best = np.sort(expected)[::-1][:top]
    values = [value for _, value in pick.top]
    require(
        np.allclose(values, best, atol=1e-3),
        f"{what}: top log-probabilities {values}, expected {best.tolist()}",
    )
    for token, value in pick.top:
        require(
            abs(value - float(expected[token])) < 1e-3, f"{what}: wrong log-probability for token {token}"
        )


def _log_softmax(logits: Logits) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), np.float64)


SAMPLING_PROPERTIES: tuple[EngineProperty, ...] = (
    check_greedy,
    check_sampling,
    check_penalties,
    check_logprobs,
)
"""What an engine that `samples` keeps as well."""
