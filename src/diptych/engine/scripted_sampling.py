"""Sampling for the scripted engine: every parameter, in plain NumPy, over small vocabularies.

Random numbers are a hash of (seed, choice, output index), so a token never depends on which tokens
were drawn before it in this process.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from diptych.engine.interface import SampledToken, SamplingParameters, Tokens

Logits = npt.NDArray[np.float32]

_MASK = (1 << 64) - 1


def mix(value: int) -> int:
    """SplitMix64's finaliser: 64 bits in, 64 well-mixed bits out."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & _MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & _MASK
    return value ^ (value >> 31)


def uniform(seed: int, choice: int, output_index: int) -> float:
    """A number in [0, 1), a function of its arguments alone."""
    state = mix(seed & _MASK)
    state = mix(state + 0x9E3779B97F4A7C15 * (choice + 1) & _MASK)
    state = mix(state + 0x9E3779B97F4A7C15 * (output_index + 1) & _MASK)
    return (state >> 11) / 2**53


class ScriptedSampler:
    """Sampling state of one sequence."""

    def __init__(
        self, parameters: SamplingParameters, choice: int, prompt: Tokens, emitted: Tokens, vocabulary: int
    ) -> None:
        self._parameters = parameters
        self._choice = choice
        self._prompt = np.zeros(vocabulary, bool)
        self._prompt[prompt] = True
        self._counts = np.bincount(emitted, minlength=vocabulary).astype(np.int64)

    def pick(self, logits: Logits, output_index: int) -> SampledToken:
        """Picks from one row, [vocabulary], and counts the token."""
        adjusted = self._adjusted(logits)
        if self._parameters.temperature == 0.0:
            token = int(np.argmax(adjusted))
        else:
            token = self._draw(adjusted / self._parameters.temperature, output_index)
        self._counts[token] += 1
        if self._parameters.logprobs is None:
            return SampledToken(token)
        return scored(logits, token, self._parameters.logprobs)

    def _adjusted(self, logits: Logits) -> npt.NDArray[np.float64]:
        parameters = self._parameters
        values = logits.astype(np.float64)
        if parameters.repetition_penalty != 1.0:
            seen = self._prompt | (self._counts > 0)
            penalised = np.where(
                values > 0, values / parameters.repetition_penalty, values * parameters.repetition_penalty
            )
            values = np.where(seen, penalised, values)
        values -= parameters.frequency_penalty * self._counts
        values -= parameters.presence_penalty * (self._counts > 0)
        for token, bias in parameters.logit_bias.items():
            values[token] += bias
        return values

    def _draw(self, values: npt.NDArray[np.float64], output_index: int) -> int:
        parameters = self._parameters
        # Most likely first, the lower id first among equals: the order that top-k and top-p cut.
        order = np.argsort(-values, kind="stable")
        weights = np.exp(values[order] - values[order[0]])
        kept = len(order) if parameters.top_k == 0 else min(parameters.top_k, len(order))
        kept = min(kept, int(np.count_nonzero(weights >= parameters.min_p)))
        weights = weights[:kept]
        if parameters.top_p < 1.0:
            before = np.cumsum(weights) - weights
            weights = weights[: max(1, int(np.count_nonzero(before < parameters.top_p * weights.sum())))]
        point = uniform(parameters.seed, self._choice, output_index) * weights.sum()
        return int(order[min(int(np.searchsorted(np.cumsum(weights), point, "right")), len(weights) - 1)])


def scored(logits: Logits, token: int, top: int) -> SampledToken:
    """`token` with its log-probability in this row and the `top` most likely ones."""
    values = logits.astype(np.float64)
    values -= values.max()
    values -= np.log(np.exp(values).sum())
    order = np.argsort(-values, kind="stable")[:top]
    return SampledToken(
        token, float(values[token]), tuple((int(best), float(values[best])) for best in order)
    )
