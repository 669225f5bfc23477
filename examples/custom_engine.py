"""The smallest engine that a fleet could trust: one layer of attention in NumPy, and the suite it passes.

    python examples/custom_engine.py

An engine sees token ids, positions and page tables, never text, requests or other workers. It computes
the spans of a step into their own pages and keeps the logits rows it was asked for. Whatever else lies
in the pool must not matter: `check_engine` fills it with NaN and with another tenant's data.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from diptych.engine.interface import (
    Capabilities,
    SampledToken,
    SampleRow,
    SamplingParameters,
    Span,
    StepResult,
    Tokens,
)
from diptych.engine.sampling import Sampler, make_sampler, sample_rows, score_rows
from diptych.engine.spans import check_spans
from diptych.testing import check_engine
from diptych.wire.kv import KvFormat, nhd

VOCABULARY, DIM, PAGE_TOKENS = 64, 8, 16
NUMERICS = "toy/float32/1"
Floats = npt.NDArray[np.float32]


class ToyResult(msgspec.Struct, frozen=True):
    """The logits that one step kept, float32 [rows, vocabulary]."""

    logits: Floats

    @property
    def rows(self) -> int:
        return len(self.logits)


class ToyEngine:
    """Implements `diptych.engine.interface.Engine`."""

    def __init__(self) -> None:
        weights = np.random.default_rng(1).standard_normal((4, VOCABULARY, DIM)).astype(np.float32)
        self._query, self._key, self._value, self._head = weights
        self._pool: Floats | None = None

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            engine="toy",
            numerics=(NUMERICS,),
            formats=("float32",),
            invariant_rows=True,
            samples=True,
            context_tokens_max=256,
            step_tokens_max=128,
            step_spans_max=16,
        )

    @property
    def kv_format(self) -> KvFormat:
        """K and V alike: token by token, and each token's elements in order."""
        return nhd(
            model="toy",
            layers=1,
            kv_heads=1,
            head_dim=DIM,
            page_tokens=PAGE_TOKENS,
            dtype="float32",
            rope_applied=False,
        )

    def attach_pool(self, pool: memoryview, pages: int) -> None:
        elements = np.frombuffer(pool, np.float32, pages * self.kv_format.page_bytes // 4)
        self._pool = elements.reshape(pages, 2, PAGE_TOKENS, DIM)

    def step(self, spans: Sequence[Span]) -> ToyResult:
        if self._pool is None:
            raise RuntimeError("attach_pool has not been called")
        check_spans(
            spans,
            capabilities=self.capabilities,
            page_tokens=PAGE_TOKENS,
            pages=len(self._pool),
            vocabulary=VOCABULARY,
        )
        kept = [row for span in spans for row in self._span(self._pool, span)]
        return ToyResult(np.array(kept, np.float32).reshape(-1, VOCABULARY))

    def _span(self, pool: Floats, span: Span) -> list[Floats]:
        """Writes K and V of the span's tokens, then computes the rows it keeps, one by one."""
        positions = span.first_position + np.arange(len(span.tokens))
        pages, slots = span.pages[positions // PAGE_TOKENS], positions % PAGE_TOKENS
        pool[pages, 0, slots] = self._key[span.tokens]
        pool[pages, 1, slots] = self._value[span.tokens]
        if span.logits_from is None:
            return []
        keys, values = (pool[span.pages, part].reshape(-1, DIM) for part in (0, 1))
        kept = zip(span.tokens[span.logits_from :], positions[span.logits_from :] + 1, strict=True)
        return [self._row(int(token), keys[:end], values[:end]) for token, end in kept]

    def _row(self, token: int, keys: Floats, values: Floats) -> Floats:
        """Logits of one position over its own context only. Sums along an axis and not matrix products,
        whose order of additions may change with the shape: that is what makes the row invariant."""
        weights = np.exp((keys * self._query[token]).sum(axis=1) / np.float32(DIM))
        mixed = (values * weights[:, None]).sum(axis=0) / weights.sum()
        return np.asarray((self._head * mixed).sum(axis=1), np.float32)

    def sampler(
        self, parameters: SamplingParameters, *, choice: int, prompt: Tokens, emitted: Tokens
    ) -> Sampler:
        return make_sampler(parameters, choice=choice, prompt=prompt, emitted=emitted)

    def sample(self, result: StepResult, rows: Sequence[SampleRow]) -> list[SampledToken]:
        return sample_rows(self.logits(result), rows)

    def score(self, result: StepResult, first_row: int, targets: Tokens, top: int) -> list[SampledToken]:
        return score_rows(self.logits(result), first_row, targets, top)

    def logits(self, result: StepResult) -> Floats:
        if not isinstance(result, ToyResult):
            raise TypeError(f"result: a {type(result).__name__} is not of this engine")
        return result.logits

    def close(self) -> None:
        self._pool = None


if __name__ == "__main__":
    check_engine(ToyEngine)
    print("ToyEngine keeps every property that check_engine knows")
