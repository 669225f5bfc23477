"""Rotary position embedding: inverse frequencies, and Llama 3's scaling of them.

RoFormer, arXiv 2104.09864, section 3.4; the Llama 3.1 model card for the scaling. GGUF files carry the
scaling as one divisor per frequency; `scaling_from_factors` turns that back into its parameters.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from diptych.models.errors import UnsupportedArchitectureError
from diptych.models.weights import ModelConfig, RopeScaling


def inverse_frequencies(config: ModelConfig) -> npt.NDArray[np.float64]:
    """float64 [head_dim / 2]: radians per token of rotary pair j, scaling applied."""
    base = _unscaled(config.rope_theta, config.head_dim)
    return base if config.rope_scaling is None else base / scaling_factors(config.rope_scaling, base)


def scaling_factors(scaling: RopeScaling, frequencies: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Divisor of each frequency: 1 for short wavelengths, `factor` for long ones, blended between."""
    turns = scaling.original_context * frequencies / (2 * np.pi)
    span = scaling.high_frequency_factor - scaling.low_frequency_factor
    blend = np.clip((turns - scaling.low_frequency_factor) / span, 0.0, 1.0)
    return np.asarray(1.0 / ((1.0 - blend) / scaling.factor + blend), np.float64)


def scaling_from_factors(
    factors: npt.NDArray[np.float32], theta: float, head_dim: int, source: str
) -> RopeScaling | None:
    """The `RopeScaling` that yields these divisors, or None where all are 1.

    Between the flat ends, 1 / divisor is linear in the frequency, which fixes two of the three
    parameters; `low_frequency_factor` is taken as 1, its value in every Llama 3 model (another choice
    gives the same divisors with another original context). Raises `UnsupportedArchitectureError` where the
    divisors do not follow the rule.
    """
    if np.all(factors == 1.0):
        return None
    frequencies = _unscaled(theta, head_dim)
    if factors.shape != frequencies.shape:
        raise UnsupportedArchitectureError(
            f"{source}: {factors.size} rotary factors for a head of {head_dim}"
        )
    exact = factors.astype(np.float64)
    factor = float(exact.max())
    inside = (exact > 1.0) & (exact < factor)
    if inside.sum() >= 2:
        blend = (1.0 / exact[inside] - 1.0 / factor) / (1.0 - 1.0 / factor)
        slope, offset = np.polyfit(frequencies[inside] / (2 * np.pi), blend, 1)
        scaling = RopeScaling(
            factor=factor,
            low_frequency_factor=1.0,
            high_frequency_factor=float(round(1.0 - 1.0 / offset, 3)),
            original_context=round(-slope / offset),
        )
        if np.allclose(scaling_factors(scaling, frequencies), exact, rtol=1e-4):
            return scaling
    raise UnsupportedArchitectureError(f"{source}: the rotary factors do not follow Llama 3's rule")


def _unscaled(theta: float, head_dim: int) -> npt.NDArray[np.float64]:
    return np.asarray(theta ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim), np.float64)
