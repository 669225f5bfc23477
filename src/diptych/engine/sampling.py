"""Sampling of tokens from float32 logits rows: the supplied default for every engine.

One row becomes one token by these rules, in this order:

1. repetition penalty over prompt and output tokens: positive logits are divided by it, others multiplied
   (CTRL, arXiv 1909.05858);
2. frequency and presence penalty over output tokens, then logit bias (both as OpenAI's API defines them);
3. temperature 0 (or below 1e-5): the greatest logit, ties to the lowest token id;
4. else softmax of logits / temperature; min-p keeps tokens of at least min_p times the greatest
   probability (arXiv 2407.01082), top-k the k most likely, top-p the fewest most likely ones of these
   whose share reaches top_p (arXiv 1904.09751), ties to the lowest token id;
5. the first of the kept tokens, by token id, at which their cumulated share passes the random number.

The random number is Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011)
with key = seed (two words, low first) and counter = (output index, two words; choice; 0); the first two
words make 53 bits of a number in [0, 1). It depends on nothing else, so a resumed sequence goes on as it
would have. Log-probabilities are of the raw row: unpenalised, untempered.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from diptych.engine.interface import SampledToken, SampleRow, SamplingParameters, Tokens
from diptych.engine.native import _kernels

Sampler = _kernels.Sampler
"""Sampling state of one sequence: parameters, and the token counts its penalties need."""


def make_sampler(parameters: SamplingParameters, *, choice: int, prompt: Tokens, emitted: Tokens) -> Sampler:
    """A sampler that goes on after `emitted`. Raises `ValueError` naming a parameter out of range."""
    if not 0 <= choice < 2**32:
        raise ValueError(f"choice = {choice}: must be 0 to 2**32 - 1")
    if parameters.top_k > 2**31 - 1:
        raise ValueError(f"top_k = {parameters.top_k}: must be 0 to 2**31 - 1")
    if parameters.logprobs is not None and parameters.logprobs < 0:
        raise ValueError(f"logprobs = {parameters.logprobs}: must be None or 0 to 20")
    return _kernels.sampler(
        parameters.temperature,
        parameters.top_k,
        parameters.top_p,
        parameters.min_p,
        parameters.repetition_penalty,
        parameters.frequency_penalty,
        parameters.presence_penalty,
        sorted(parameters.logit_bias.items()),
        -1 if parameters.logprobs is None else parameters.logprobs,
        parameters.seed & (2**64 - 1),
        choice,
        np.ascontiguousarray(prompt, dtype=np.int32),
        np.ascontiguousarray(emitted, dtype=np.int32),
    )


def sample_rows(logits: npt.NDArray[np.float32], rows: Sequence[SampleRow]) -> list[SampledToken]:
    """Samples `rows` of float32 logits [rows, vocabulary], and records each token with its sampler.

    Raises `ValueError` on a row without a finite greatest logit or beyond the array.
    """
    return [
        SampledToken(*_kernels.sample_row(logits, one.row, one.sampler, one.output_index)) for one in rows
    ]


def score_rows(
    logits: npt.NDArray[np.float32], first_row: int, targets: Tokens, top: int
) -> list[SampledToken]:
    """Log-probability of `targets[i]` under row `first_row + i`, with the `top` (0 to 20) most likely."""
    found = _kernels.score_rows(logits, first_row, np.ascontiguousarray(targets, dtype=np.int32), top)
    return [SampledToken(*one) for one in found]


def uniform(seed: int, choice: int, output_index: int) -> float:
    """The random number in [0, 1) of one output token; `seed` counts modulo 2**64."""
    return _kernels.uniform(seed & (2**64 - 1), choice, output_index)
