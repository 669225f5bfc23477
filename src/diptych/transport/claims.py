"""The owner's table of claims from other hosts: who may read which pages, by an unguessable name."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Sequence

__all__ = ["CAPABILITY_BYTES", "ClaimRefused", "ClaimTable"]

CAPABILITY_BYTES = 16


class ClaimRefused(Exception):
    """A reader asked for what no open claim gives it; the text is for logs and for the reader."""


class _Claim:
    __slots__ = ("capability", "claim", "pages", "reader")

    def __init__(self, claim: int, capability: bytes, reader: str, pages: frozenset[int]) -> None:
        self.claim = claim
        self.capability = capability
        self.reader = reader
        self.pages = pages


class ClaimTable:
    """Claims by capability. Opened and closed by the worker's thread, read by those that serve."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_capability: dict[bytes, _Claim] = {}
        self._by_number: dict[int, _Claim] = {}

    def open(self, claim: int, reader: str, pages: Sequence[int]) -> bytes:
        """Returns the capability. A claim's number is never used twice."""
        entry = _Claim(claim, secrets.token_bytes(CAPABILITY_BYTES), reader, frozenset(pages))
        with self._lock:
            if claim in self._by_number:
                raise ValueError(f"claim: {claim} is open already")
            self._by_number[claim] = self._by_capability[entry.capability] = entry
        return entry.capability

    def close(self, claim: int) -> None:
        with self._lock:
            entry = self._by_number.pop(claim, None)
            if entry is not None:
                del self._by_capability[entry.capability]

    def check(self, capability: bytes, reader: str, pages: Sequence[int]) -> None:
        """Raises `ClaimRefused` unless an open claim gives `reader` all of `pages`."""
        with self._lock:
            entry = self._by_capability.get(capability)
        # A stranger learns nothing from the answer: unknown, closed and another's read alike.
        if entry is None or entry.reader != reader:
            raise ClaimRefused("the claim is closed")
        if not entry.pages.issuperset(pages):
            outside = next(page for page in pages if page not in entry.pages)
            raise ClaimRefused(f"page {outside} is not part of the claim")

    def __len__(self) -> int:
        return len(self._by_number)
