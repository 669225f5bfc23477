"""The dirty pool and the helpers that every engine property works with."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from diptych.engine.interface import Engine, Span, Tokens

Logits = npt.NDArray[np.float32]

POOL_PAGES = 64
NAN_BYTE = 0xFF
"""All ones is a NaN in float32, float16 and bfloat16."""
NO_TOKENS = np.empty(0, np.int32)

_ALIGNMENT_BYTES = 4096
_GUARD_BYTES = 2 * _ALIGNMENT_BYTES


def require(condition: object, message: str) -> None:
    """As `assert`, but also under `python -O`, where a suite of asserts would pass anything."""
    if not condition:
        raise AssertionError(message)


class EngineTrial:
    """One engine over one dirty pool, for one numerics id.

    `tolerance`: for an engine without `invariant_rows`, how far the root mean square of a difference
    may be from 0, relative to that of the logits. `seed`: of the random prompts, pages and chunks.
    """

    def __init__(self, engine: Engine, numerics: str, *, tolerance: float = 0.02, seed: int = 0) -> None:
        self.engine = engine
        self.numerics = numerics
        self.tolerance = tolerance
        self.random = np.random.default_rng(seed)
        self.page_tokens = engine.kv_format.page_tokens
        self._pool = _GuardedPool(POOL_PAGES, engine.kv_format.page_bytes)
        engine.attach_pool(self._pool.view, POOL_PAGES)
        self.vocabulary = self._vocabulary()
        limits = engine.capabilities
        if limits.context_tokens_max < 4 * self.page_tokens:
            raise ValueError(f"capabilities.context_tokens_max: {limits.context_tokens_max} is under 4 pages")
        self.step_tokens = limits.step_tokens_max
        self.prompt_tokens = min(5 * self.page_tokens - 3, limits.context_tokens_max)
        self.dirty()

    @property
    def pages(self) -> npt.NDArray[np.uint8]:
        """The pool's bytes, [pages, page bytes]."""
        return self._pool.pages

    def guards_intact(self) -> bool:
        """Whether the bytes around the pool are as they were."""
        return self._pool.guards_intact()

    def prompt(self, length: int | None = None) -> Tokens:
        """A random prompt, int32 [length]."""
        return self.random.integers(0, self.vocabulary, length or self.prompt_tokens).astype(np.int32)

    def table(self, tokens: int) -> Tokens:
        """Random distinct pages for so many tokens."""
        return self.random.permutation(POOL_PAGES)[: -(-tokens // self.page_tokens)].astype(np.int32)

    def dirty(self) -> None:
        """NaN everywhere, then another tenant's sequence over half of the pages."""
        self.pages.fill(NAN_BYTE)
        foreign = min(POOL_PAGES // 2 * self.page_tokens, self.engine.capabilities.context_tokens_max)
        tokens = self.prompt(foreign)
        self.run(tokens, self.table(foreign), keep=False)

    def run(self, tokens: Tokens, table: Tokens, *, chunks: Sequence[int] = (), keep: bool = True) -> Logits:
        """Logits of every position, [tokens, vocabulary], computed in these chunks (default: as few as
        the engine takes). With `keep` false no logits are asked for, and the result has no rows."""
        parts, start = [], 0
        for count in chunks or chunks_of(len(tokens), self.step_tokens):
            span = self.span(tokens, table, start, count, 0 if keep else None)
            parts.append(self.engine.logits(self.engine.step([span])))
            start += count
        return np.concatenate(parts)

    def span(
        self, tokens: Tokens, table: Tokens, start: int, count: int, logits_from: int | None = 0
    ) -> Span:
        """The span [start, start + count) of a sequence."""
        pages = -(-(start + count) // self.page_tokens)
        return Span(
            first_position=start,
            tokens=np.ascontiguousarray(tokens[start : start + count], np.int32),
            pages=np.ascontiguousarray(table[:pages], np.int32),
            numerics=self.numerics,
            logits_from=logits_from,
        )

    def assert_same(self, found: Logits, expected: Logits, what: str) -> None:
        """Bit for bit with `invariant_rows`, within the tolerance otherwise."""
        require(found.shape == expected.shape, f"{what}: shape {found.shape}, expected {expected.shape}")
        require(np.isfinite(found).all(), f"{what}: {_where(~np.isfinite(found))} not finite")
        if self.engine.capabilities.invariant_rows:
            differing = found.view(np.uint32) != expected.view(np.uint32)
            require(
                not differing.any(), f"{what}: {_where(differing)} differ though invariant_rows is promised"
            )
            return
        difference = _rms(found - expected) / max(_rms(expected), 1e-30)
        require(
            difference <= self.tolerance,
            f"{what}: relative rms difference {difference:.2g}, the tolerance is {self.tolerance:.2g}",
        )

    def _vocabulary(self) -> int:
        self.pages.fill(0)
        span = self.span(np.zeros(1, np.int32), np.zeros(1, np.int32), 0, 1)
        logits = self.engine.logits(self.engine.step([span]))
        require(logits.ndim == 2, f"logits: {logits.ndim} dimensions, expected [rows, vocabulary]")
        require(logits.dtype == np.float32, f"logits: {logits.dtype}, expected float32")
        require(logits.shape[0] == 1, f"logits: {logits.shape[0]} rows for a span that keeps 1")
        return int(logits.shape[1])


class _GuardedPool:
    """Page-aligned memory for a pool, between two stretches of known bytes."""

    def __init__(self, pages: int, page_bytes: int) -> None:
        size_bytes = pages * page_bytes
        memory = np.empty(size_bytes + 2 * _GUARD_BYTES + _ALIGNMENT_BYTES, np.uint8)
        start = -memory.ctypes.data % _ALIGNMENT_BYTES + _GUARD_BYTES
        self._before = memory[start - _GUARD_BYTES : start]
        self._after = memory[start + size_bytes : start + size_bytes + _GUARD_BYTES]
        self._pattern = (np.arange(_GUARD_BYTES) % 251).astype(np.uint8)
        self._before[:] = self._pattern
        self._after[:] = self._pattern
        data = memory[start : start + size_bytes]
        self.pages = data.reshape(pages, page_bytes)
        self.view = data.data

    def guards_intact(self) -> bool:
        return bool(
            np.array_equal(self._before, self._pattern) and np.array_equal(self._after, self._pattern)
        )


def chunks_of(total: int, limit: int) -> list[int]:
    return [min(limit, total - start) for start in range(0, total, limit)]


def _rms(values: npt.NDArray[np.float32]) -> float:
    return float(np.sqrt(np.mean(np.square(values, dtype=np.float64))))


def _where(wrong: npt.NDArray[np.bool_]) -> str:
    rows = np.flatnonzero(wrong.any(axis=1))
    shown = ", ".join(map(str, rows[:5])) + (", ..." if len(rows) > 5 else "")
    return f"{int(wrong.sum())} values in {len(rows)} rows ({shown})"


EngineProperty = Callable[[EngineTrial], None]
