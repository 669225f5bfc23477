"""What a copy costs, from measured rates: an estimate for the choice between plans, not a promise. Pure."""

from __future__ import annotations

import math

import msgspec

from diptych.wire.kv.nests import Nest
from diptych.wire.kv.record import Group

__all__ = ["RATES", "Rates"]


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """Of one thread, with pools larger than the caches. `make bench-conversion` prints those of the machine
    that it runs on, beside what the plans predicted by `RATES`."""

    byte_ns: float
    """Per byte of a long run."""
    run_ns: float
    """Per run, beyond its bytes."""
    transposed_ns: float
    """Per element of a transposition, whatever its size."""
    cast_ns: float
    """Per element that changes its type, without scales."""
    scaled_ns: float
    """Per element that gets a new scale with its vector."""

    def nest_ns(self, nest: Nest, source: Group, target: Group, chunk_tokens: int) -> float:
        """One chunk of one nest."""
        times = math.prod(loop.extent for loop in nest.loops)
        if nest.cast is None:
            if nest.transposes:
                return times * self.transposed_ns
            return times * (self.run_ns + nest.run_bytes * self.byte_ns)
        elements = chunk_tokens * source.head_dim
        each = self.scaled_ns if target.scales else self.cast_ns
        each += self.transposed_ns * (bool(nest.cast.gather) + bool(nest.cast.scatter))
        return times * elements * each


RATES = Rates(byte_ns=0.06, run_ns=1.0, transposed_ns=0.55, cast_ns=0.35, scaled_ns=0.35)
"""Of one core of a shared AMD EPYC (Zen 4) with the avx512 kernels; a plan may be given others."""
