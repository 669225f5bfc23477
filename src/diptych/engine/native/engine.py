"""The `native` engine: our C++ kernels on a CPU, as an `Engine`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from diptych.engine import sampling
from diptych.engine.interface import (
    Capabilities,
    SampledToken,
    SampleRow,
    SamplingParameters,
    Span,
    StepResult,
    Tokens,
)
from diptych.engine.native import _kernels, packing
from diptych.engine.native.probe import numerics_id
from diptych.models.weights import ModelConfig
from diptych.wire.kv import KvFormat, panels

STEP_TOKENS_MAX = 512
STEP_SPANS_MAX = 256


class _Result(msgspec.Struct, frozen=True):
    """Logits of one step; a later step of the engine reuses their memory."""

    rows: int
    step: int


class NativeEngine:
    """One model in one or more weight formats over one pool of bf16 pages.

    `weights` maps formats (`int8`, `int4`, `bf16`) to packed models (`packing.pack`): read-only buffers
    that start at a multiple of 64 bytes and stay mapped while the engine lives. `preferred` is the format
    named first in the capabilities. With `cores`, thread i runs on `cores[i]`; thread 0 is the caller of
    `step`. `isa` forces an instruction set, as the environment variable DIPTYCH_ISA does.

    Raises `ValueError` naming the field that the kernels cannot run.
    """

    def __init__(
        self,
        config: ModelConfig,
        weights: Mapping[str, memoryview],
        fingerprint: str,
        preferred: str,
        threads: int = 1,
        cores: Sequence[int] | None = None,
        *,
        step_tokens_max: int = STEP_TOKENS_MAX,
        isa: str | None = None,
    ) -> None:
        if preferred not in weights:
            raise ValueError(f"preferred = {preferred!r}: weights hold {', '.join(weights) or 'nothing'}")
        core = _kernels.Core(packing.geometry(config), threads, list(cores or ()), step_tokens_max, isa or "")
        formats = (preferred, *(name for name in weights if name != preferred))
        self._indices = {
            numerics_id(name, core.isa): core.add_weights(name, np.frombuffer(weights[name], np.uint8))
            for name in formats
        }
        self._core: _kernels.Core | None = core
        self._vocabulary = config.vocabulary
        self._steps = 0
        self._capabilities = Capabilities(
            engine="native",
            numerics=tuple(self._indices),
            formats=formats,
            invariant_rows=True,
            samples=True,
            context_tokens_max=config.context_max,
            step_tokens_max=step_tokens_max,
            step_spans_max=STEP_SPANS_MAX,
        )
        self._kv_format = panels(
            model=fingerprint, layers=config.layers, kv_heads=config.kv_heads, head_dim=config.head_dim
        )

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def kv_format(self) -> KvFormat:
        return self._kv_format

    def attach_pool(self, pool: memoryview, pages: int) -> None:
        """Maps the pool; it must be writable and start at a multiple of 64 bytes."""
        if pool.readonly:
            raise ValueError("pool: must be writable")
        self._running().attach_pool(np.frombuffer(pool, np.uint8), pages)

    def step(self, spans: Sequence[Span]) -> StepResult:
        """Computes the spans, one native call for all numerics, without the GIL.

        Raises `ValueError` naming span and field where a span is outside the limits; no page has been
        written then.
        """
        core, indices = self._running(), self._indices
        if len(spans) > STEP_SPANS_MAX:
            raise ValueError(f"spans: {len(spans)}, step_spans_max is {STEP_SPANS_MAX}")
        try:
            rows = core.step(
                [
                    (indices[span.numerics], span.first_position, span.tokens, span.pages, span.logits_from)
                    for span in spans
                ]
            )
        except KeyError as error:
            known = ", ".join(self._indices)
            raise ValueError(f"numerics {error.args[0]!r}: this engine runs {known}") from None
        self._steps += 1
        return _Result(rows, self._steps)

    def sampler(
        self, parameters: SamplingParameters, *, choice: int, prompt: Tokens, emitted: Tokens
    ) -> sampling.Sampler:
        """Raises `ValueError` naming a parameter out of range."""
        return sampling.make_sampler(parameters, choice=choice, prompt=prompt, emitted=emitted)

    def sample(self, result: StepResult, rows: Sequence[SampleRow]) -> list[SampledToken]:
        return sampling.sample_rows(self._view(result), rows)

    def score(self, result: StepResult, first_row: int, targets: Tokens, top: int) -> list[SampledToken]:
        return sampling.score_rows(self._view(result), first_row, targets, top)

    def logits(self, result: StepResult) -> npt.NDArray[np.float32]:
        return self._view(result).copy()

    def close(self) -> None:
        """Ends the threads and lets go of weights and pool. A second call does nothing."""
        self._core = None

    def _view(self, result: StepResult) -> npt.NDArray[np.float32]:
        if not isinstance(result, _Result) or result.step != self._steps:
            raise ValueError("result: not of the latest step of this engine")
        return self._running().logits(result.rows)

    def _running(self) -> _kernels.Core:
        if self._core is None:
            raise ValueError("engine: closed")
        return self._core
