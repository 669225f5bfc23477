"""The element types of KV pages in NumPy, slow and obvious: what the native kernels must equal.

A value that a type cannot hold becomes infinite or NaN, never another finite value. A vector of codes
with a scale (`int8`, `float8_e4m3`) that had such a value reads back as NaN throughout.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["CODES", "GREATEST", "decode", "encode", "one_nan", "quantise"]

Floats = npt.NDArray[np.float32]
Codes = npt.NDArray[Any]

CODES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.uint32),
    "bfloat16": np.dtype(np.uint16),
    "float16": np.dtype(np.uint16),
    "float8_e4m3": np.dtype(np.uint8),
    "int8": np.dtype(np.uint8),
}
"""How the codes of a type are held, whatever they mean."""
GREATEST = {"float8_e4m3": np.float32(448), "int8": np.float32(127)}
LEAST = np.float32(2.0**-100)
"""A vector with nothing as large is zero: its scale could not be divided by."""


def _e4m3(code: int) -> float:
    sign, exponent, fraction = -1.0 if code & 0x80 else 1.0, code >> 3 & 15, code & 7
    if code & 0x7F == 0x7F:
        return float("nan")
    return sign * (fraction / 8 * 2.0**-6 if exponent == 0 else (1 + fraction / 8) * 2.0 ** (exponent - 7))


_E4M3 = np.array([_e4m3(code) for code in range(256)], np.float32)
_E4M3_BORDERS = (_E4M3[:126] + _E4M3[1:127]) / 2
"""Between each non-negative value and the next."""


def decode(codes: Codes, dtype: str) -> Floats:
    """Values of codes (as `CODES` has them), exactly."""
    match dtype:
        case "float32":
            return codes.view(np.float32)
        case "bfloat16":
            return (codes.astype(np.uint32) << 16).view(np.float32)
        case "float16":
            return one_nan(codes.view(np.float16).astype(np.float32))
        case "float8_e4m3":
            return _E4M3[codes]
        case _:
            return codes.view(np.int8).astype(np.float32)


def encode(values: Floats, dtype: str) -> Codes:
    """Nearest codes, ties to even."""
    match dtype:
        case "float32":
            return values.view(np.uint32)
        case "bfloat16":
            raw = values.view(np.uint32).astype(np.uint64)
            rounded = (raw + 0x7FFF + (raw >> 16 & 1)) >> 16
            return np.where(np.isnan(values), 0x7FC0, rounded).astype(np.uint16)
        case "float16":
            with np.errstate(over="ignore"):
                return one_nan(values).astype(np.float16).view(np.uint16)
        case "float8_e4m3":
            return _encode_e4m3(values)
        case _:
            return np.rint(values).astype(np.int8).view(np.uint8)


def one_nan(values: Floats) -> Floats:
    """NaN with no sign and nothing told: CPUs disagree on the rest of its bits."""
    return np.where(np.isnan(values), np.float32(np.nan), values)


def _encode_e4m3(values: Floats) -> Codes:
    """The index of the interval between borders; on a border the even one of both neighbours."""
    size = np.abs(values)
    low, high = np.searchsorted(_E4M3_BORDERS, size, "left"), np.searchsorted(_E4M3_BORDERS, size, "right")
    codes = np.where(low % 2 == 0, low, high).astype(np.uint8)
    codes[~(size <= 464)] = 0x7F
    return np.asarray(codes | (np.signbit(values).astype(np.uint8) << 7), np.uint8)


def quantise(values: Floats, dtype: str) -> tuple[Codes, Floats]:
    """Codes of `values` [..., dims] and float32 scales [...]: the greatest value of each vector becomes
    the type's greatest."""
    most = np.max(np.abs(values), axis=-1)
    finite, zero = np.isfinite(most), most < LEAST
    usable = finite & ~zero
    factor = np.divide(GREATEST[dtype], most, out=np.zeros_like(most), where=usable)
    scales = np.where(usable, most / GREATEST[dtype], np.where(finite, 0, np.float32(np.nan)))
    scaled = np.multiply(values, factor[..., None], out=np.zeros_like(values), where=usable[..., None])
    return encode(scaled, dtype), scales.astype(np.float32)
