"""The base of all facts, and the values that several of them carry."""

from __future__ import annotations

import msgspec

from diptych.core.ids import Attempt, PageHash, RequestId


class Fact(msgspec.Struct, frozen=True, kw_only=True, tag=True, array_like=True):
    """Base of all facts; its tag (the class's name) makes them one union on the wire."""


class RequestFact(Fact, frozen=True):
    """A fact about one attempt at one request."""

    request: RequestId
    attempt: Attempt


class SequenceStart(msgspec.Struct, frozen=True, array_like=True):
    """Where one sequence stands when an attempt begins."""

    index: int
    emitted: int
    page_hashes: tuple[PageHash, ...] = ()
    """Of the full pages after the shared prompt pages, over prompt tail and emitted tokens."""


Outputs = tuple[tuple[int, int], ...]
"""(sequence index, output tokens) of finished sequences."""
