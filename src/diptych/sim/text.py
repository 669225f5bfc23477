"""What the simulated model says: tokens and KV contents as pure functions of prompt, recipe and history.

The content of a KV slot is a *stamp*: a number mixed from the stamp before it, the token there and the
numerics that computed it. So one number per page proves all positions below it, and a token sampled
from a wrong, stale or foreign page differs from the right one.
"""

from __future__ import annotations

import hashlib
import zlib
from array import array
from functools import cache

from diptych.core.ids import PageHash
from diptych.core.recipe import Recipe

VOCABULARY = 30_000


def mix(*numbers: int) -> int:
    """Tuples of integers hash alike in every process, whatever PYTHONHASHSEED is."""
    return hash(numbers)


@cache
def numerics_number(numerics: str) -> int:
    return zlib.crc32(numerics.encode())


def stream_tokens(stream: str, count: int) -> tuple[int, ...]:
    """The first `count` tokens of a named endless text; prompts that begin with one share its pages."""
    seed = zlib.crc32(stream.encode())
    return tuple(mix(seed, index) % VOCABULARY for index in range(count))


def page_hashes(salt: str, tokens: tuple[int, ...], page_tokens: int) -> tuple[PageHash, ...]:
    """Chain hashes of the full pages of `tokens`."""
    previous = hashlib.blake2b(salt.encode(), digest_size=16).digest()
    result = []
    for first in range(0, len(tokens) - page_tokens + 1, page_tokens):
        page = array("i", tokens[first : first + page_tokens]).tobytes()
        previous = hashlib.blake2b(previous + page, digest_size=16).digest()
        result.append(previous)
    return tuple(result)


class Context:
    """The stamps of one sequence under one recipe, grown as its tokens become known."""

    def __init__(self, salt: str, tokens: tuple[int, ...], recipe: Recipe) -> None:
        self.tokens: list[int] = []
        self.stamps: list[int] = []
        self._salt = zlib.crc32(salt.encode())
        self._runs = [(run.end, numerics_number(run.numerics)) for run in recipe]
        self.extend(tokens)

    def extend(self, tokens: tuple[int, ...]) -> None:
        stamp = self.stamps[-1] if self.stamps else self._salt
        position = len(self.tokens)
        for end, numerics in self._runs:
            while position < end and tokens:
                stop = min(len(tokens), end - position)
                for token in tokens[:stop]:
                    stamp = mix(stamp, token, numerics)
                    self.stamps.append(stamp)
                self.tokens.extend(tokens[:stop])
                tokens = tokens[stop:]
                position += stop

    def next_token(self, sequence: int, index: int) -> int:
        """Output token `index` of choice `sequence`, sampled from the row of the last known position."""
        return sampled(self.stamps[-1], sequence, index)

    def fork(self) -> Context:
        other = object.__new__(Context)
        other.tokens = self.tokens.copy()
        other.stamps = self.stamps.copy()
        other._salt = self._salt
        other._runs = self._runs
        return other


def sampled(stamp: int, sequence: int, index: int) -> int:
    return mix(stamp, sequence, index) % VOCABULARY
