"""The bytes of every token as one read-only memfd: what a step loop needs to match stop strings.

A worker that maps it needs neither a tokenizer nor the model's file. Layout, little-endian: vocabulary
size as uint32, so many ends as uint32, then the bytes of all tokens one after another.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable

import numpy as np

from diptych.live.sealed_memory import create_sealed

_SIZE_BYTES = 4


def create_token_table(token_bytes: Iterable[bytes]) -> int:
    """Descriptor of a sealed memfd that holds the table."""
    tokens = list(token_bytes)
    ends = np.cumsum([len(token) for token in tokens], dtype=np.uint32)
    header = np.uint32(len(tokens)).tobytes()
    return create_sealed("diptych-tokens", b"".join((header, ends.astype("<u4").tobytes(), *tokens)))


class TokenTable:
    """A mapped table. Raises `ValueError` where the descriptor's file is none."""

    def __init__(self, descriptor: int) -> None:
        """Maps the file; the descriptor may be closed afterwards."""
        size = os.fstat(descriptor).st_size
        if size < _SIZE_BYTES:
            raise ValueError(f"token table of {size} bytes has no header")
        self._data = mmap.mmap(descriptor, size, prot=mmap.PROT_READ)
        count = int(np.frombuffer(self._data, "<u4", 1)[0])
        self._start = _SIZE_BYTES * (1 + count)
        if size < self._start:
            raise ValueError(f"token table of {size} bytes cannot hold {count} tokens")
        self._ends = np.frombuffer(self._data, "<u4", count, _SIZE_BYTES)
        if count and self._start + int(self._ends[-1]) != size:
            raise ValueError(f"token table of {size} bytes ends in the wrong place")

    def __len__(self) -> int:
        return len(self._ends)

    def token_bytes(self, token: int) -> bytes:
        """Bytes of `token`, b"" for one without text. Raises `IndexError` outside the vocabulary."""
        if not 0 <= token < len(self._ends):
            raise IndexError(f"token {token} is outside the vocabulary of {len(self._ends)}")
        first = int(self._ends[token - 1]) if token else 0
        return self._data[self._start + first : self._start + int(self._ends[token])]
