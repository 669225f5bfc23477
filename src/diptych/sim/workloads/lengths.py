"""Distributions of token counts, written as `512`, `128-1024` (uniform) or `512~0.5` (log-normal)."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Callable

from diptych.sim.workloads.ask import BadWorkload

TOKENS_MAX = 1 << 24
Draw = Callable[[random.Random], int]
_WORDS = re.compile(r"(?P<first>\d+)(?:-(?P<last>\d+)|~(?P<sigma>\d+(?:\.\d+)?))?")


def lengths(name: str, text: str) -> Draw:
    """`A`: always A. `A-B`: uniform over [A, B]. `A~S`: log-normal with median A and sigma S.

    Raises `BadWorkload` naming the field `name`."""
    match = _WORDS.fullmatch(text)
    if match is None:
        raise BadWorkload(f"{name}: {text!r} is not A, A-B (uniform) or A~S (log-normal, median and sigma)")
    first = int(match["first"])
    last = int(match["last"] or first)
    if not 1 <= first <= last <= TOKENS_MAX:
        raise BadWorkload(f"{name}: {text}; from 1 to {TOKENS_MAX} tokens")
    if match["sigma"] is None:
        return lambda random_: random_.randint(first, last)
    mean, sigma = math.log(first), float(match["sigma"])
    if sigma > 5:
        raise BadWorkload(f"{name}: sigma {sigma}; at most 5")
    return lambda random_: min(TOKENS_MAX, max(1, round(random_.lognormvariate(mean, sigma))))
