"""The `Engine` seam: what a model runtime must offer so that our `Worker` machine can schedule it.

An engine sees token ids, positions and page tables. It knows nothing of HTTP, text, routing, other
workers or requests: one verb, `step`, computes a list of spans and leaves its logits where they are;
`sample` and `score` turn logits rows into tokens and log-probabilities without moving the rows.

Rules every engine keeps (checked by `diptych.testing.check_engine`):

* K and V of the tokens of a span are written to the span's own pages and nowhere else; pages are
  read only for positions below the end of the span. Whatever else lies in the pool (NaN, another
  tenant's data) never changes a result.
* With `Capabilities.invariant_rows`, the logits of a position are bit-equal for every batch the span
  is in, every chunking of its prompt, every choice of physical pages and every thread count.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from diptych.wire.kv import KvFormat

Tokens = npt.NDArray[np.int32]
PageTable = npt.NDArray[np.int32]


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """What an engine promises; the worker machine and the router read it, never the engine's name."""

    engine: str
    """Family name for people: `native`, `torch`, `scripted`, ..."""
    numerics: tuple[str, ...]
    """Every numerics id this engine can run, the preferred one first."""
    formats: tuple[str, ...]
    """Weight format of each numerics id, in the same order (`int8`, `int4`, `bf16`, ...)."""
    invariant_rows: bool
    """A row's bits do not depend on its company (DESIGN idea 9)."""
    samples: bool
    """It can sample (a prefill-only engine need not)."""
    context_tokens_max: int
    step_tokens_max: int
    """Most tokens one step may hold over all its spans."""
    step_spans_max: int


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """Consecutive tokens of one sequence to compute in one step: a prompt chunk or one decode token."""

    first_position: int
    tokens: Tokens
    """int32 [count]; K and V of positions [first_position, first_position + count) are written."""
    pages: PageTable
    """int32 [ceil((first_position + count) / page_tokens)]; physical page of each logical page."""
    numerics: str
    logits_from: int | None = None
    """Rows from this index within the span keep logits (count - 1: the last only; None: no row)."""


class SamplingParameters(msgspec.Struct, frozen=True, kw_only=True):
    """How a sequence picks its tokens. Defaults are greedy and unpenalised."""

    temperature: float = 0.0
    """0 is greedy (ties to the lowest token id)."""
    top_k: int = 0
    """0 keeps all tokens."""
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    """Over prompt and output tokens, as in CTRL (arXiv 1909.05858)."""
    frequency_penalty: float = 0.0
    """Over output tokens, as OpenAI defines it."""
    presence_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    logprobs: int | None = None
    """None: none; k: the chosen token's log-probability and the k most likely ones, 0 <= k <= 20."""
    seed: int = 0
    """Random numbers are a function of (seed, choice, output index) alone."""


class SampledToken(msgspec.Struct, frozen=True):
    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()
    """(token id, log-probability), most likely first; of the unpenalised, untempered distribution."""


class Sampler(Protocol):
    """The sampling state of one sequence: parameters and the counts its penalties need.

    Made by `Engine.sampler`. `Engine.sample` records each token it picks, so a resumed sequence gets a
    fresh sampler built with the tokens it has already emitted.
    """


class SampleRow(msgspec.Struct, frozen=True):
    """One row to sample: the n-th logits row a step kept, for output token `output_index`."""

    row: int
    sampler: Any
    output_index: int


class StepResult(Protocol):
    """Handle of the logits that a step kept: `rows` rows, in span order, then position order.

    Valid until the next `step` of the same engine.
    """

    @property
    def rows(self) -> int: ...


class Engine(Protocol):
    """A model runtime over one pool of KV pages. Called from one thread at a time; blocking calls
    release the GIL."""

    @property
    def capabilities(self) -> Capabilities: ...

    @property
    def kv_format(self) -> KvFormat: ...

    def attach_pool(self, pool: memoryview, pages: int) -> None:
        """Maps the pool: `pages * kv_format.page_bytes` writable bytes, page i at i * page_bytes."""

    def step(self, spans: Sequence[Span]) -> StepResult:
        """Computes the spans. Raises `ValueError` naming the field on a span outside the limits.

        Spans of one step are independent: none reads a page that another writes. Who has work that
        depends on work (a prompt's shared part and the tails after it) joins it into one span where the
        pages line up, and otherwise makes two steps of it.
        """
        ...

    def sampler(
        self, parameters: SamplingParameters, *, choice: int, prompt: Tokens, emitted: Tokens
    ) -> Any: ...

    def sample(self, result: StepResult, rows: Sequence[SampleRow]) -> list[SampledToken]: ...

    def score(self, result: StepResult, first_row: int, targets: Tokens, top: int) -> list[SampledToken]:
        """Log-probability of `targets[i]` under row `first_row + i`, with the `top` most likely ones."""
        ...

    def logits(self, result: StepResult) -> npt.NDArray[np.float32]:
        """float32 [rows, vocabulary]: a copy, for conformance tests and accuracy measurements."""
        ...

    def close(self) -> None: ...
