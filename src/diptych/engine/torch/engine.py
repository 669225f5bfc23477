"""`TorchEngine`: the `Engine` seam over the plain forward pass."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt
import torch

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
from diptych.engine.spans import check_spans, rows_kept
from diptych.engine.torch.forward import Rows, Weights, forward
from diptych.engine.torch.kv_pages import KvPages, check_viewable
from diptych.models.weights import Model
from diptych.wire.kv import KvFormat, panels

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class _Result(msgspec.Struct, frozen=True):
    """Logits of one step; `step` tells whether a later one has replaced them."""

    logits: npt.NDArray[np.float32]
    step: int

    @property
    def rows(self) -> int:
        return len(self.logits)


class TorchEngine:
    """Implements `Engine` on one torch device.

    `dtype`: `float32` (the yardstick) or `bfloat16`, of weights and activations; norms, rotation and
    softmax are float32 in both. `device`: whatever torch knows; the pool stays in host memory, and a
    layer's context is moved to the device for its attention. `kv_format`: of its pages, any that torch
    can stride over; the native engine's of `page_tokens` by default. Raises `ValueError` for another
    `dtype`, and for a format that is not of this model or cannot be viewed.

    Rows are *not* invariant: torch chooses its kernels by shape, so the bits of a row depend on its batch.
    """

    def __init__(
        self,
        model: Model,
        *,
        dtype: str = "float32",
        device: str = "cpu",
        page_tokens: int = 16,
        kv_format: KvFormat | None = None,
        step_tokens_max: int = 2048,
        step_spans_max: int = 256,
    ) -> None:
        if dtype not in _DTYPES:
            raise ValueError(f"dtype: {dtype!r} is none of {', '.join(_DTYPES)}")
        self._device = torch.device(device)
        self._weights = Weights(model, self._device, _DTYPES[dtype])
        self._pages: KvPages | None = None
        self._steps = 0
        config = model.config
        self._capabilities = Capabilities(
            engine="torch",
            numerics=(f"torch-{torch.__version__}-{self._device.type}-{dtype}",),
            formats=(dtype,),
            invariant_rows=False,
            samples=True,
            context_tokens_max=config.context_max,
            step_tokens_max=step_tokens_max,
            step_spans_max=step_spans_max,
        )
        native = panels(
            model=model.fingerprint,
            layers=config.layers,
            kv_heads=config.kv_heads,
            head_dim=config.head_dim,
            page_tokens=page_tokens,
        )
        self._kv_format = native if kv_format is None else kv_format
        check_viewable(self._kv_format)
        for field in ("model", "group.layers", "group.kv_heads", "group.head_dim"):
            if (other := self._kv_format.field(field)) != native.field(field):
                raise ValueError(f"kv_format.{field}: {other!r}, the model has {native.field(field)!r}")

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def kv_format(self) -> KvFormat:
        return self._kv_format

    def attach_pool(self, pool: memoryview, pages: int) -> None:
        """See `Engine`. Raises `ValueError` where the pool is read-only or too small."""
        self._pages = KvPages(pool, pages, self._kv_format)

    def step(self, spans: Sequence[Span]) -> _Result:
        if self._pages is None:
            raise RuntimeError("attach_pool has not been called")
        check_spans(
            spans,
            capabilities=self._capabilities,
            page_tokens=self._kv_format.page_tokens,
            pages=self._pages.count,
            vocabulary=self._weights.config.vocabulary,
        )
        sequences: list[Rows] = []
        positions: list[torch.Tensor] = []
        kept: list[torch.Tensor] = []
        begin = 0
        for span in spans:
            end = begin + len(span.tokens)
            table = torch.from_numpy(span.pages.astype(np.int64))
            sequences.append(Rows(begin, end, span.first_position, table))
            positions.append(torch.arange(len(span.tokens)) + span.first_position)
            kept.append(torch.arange(end - rows_kept(span), end))
            begin = end
        tokens = torch.from_numpy(np.concatenate([span.tokens for span in spans]).astype(np.int64))
        with torch.inference_mode():
            logits = forward(
                self._weights,
                self._pages,
                tokens.to(self._device),
                torch.cat(positions).to(self._device),
                sequences,
                torch.cat(kept).to(self._device),
            )
            self._steps += 1
            return _Result(logits.cpu().numpy(), self._steps)

    def sampler(
        self, parameters: SamplingParameters, *, choice: int, prompt: Tokens, emitted: Tokens
    ) -> Sampler:
        """Raises `ValueError` naming a parameter out of range."""
        return make_sampler(parameters, choice=choice, prompt=prompt, emitted=emitted)

    def sample(self, result: StepResult, rows: Sequence[SampleRow]) -> list[SampledToken]:
        return sample_rows(self._current(result), rows)

    def score(self, result: StepResult, first_row: int, targets: Tokens, top: int) -> list[SampledToken]:
        return score_rows(self._current(result), first_row, targets, top)

    def logits(self, result: StepResult) -> npt.NDArray[np.float32]:
        return self._current(result).copy()

    def close(self) -> None:
        """Lets go of the pool."""
        self._pages = None

    def _current(self, result: StepResult) -> npt.NDArray[np.float32]:
        if not isinstance(result, _Result) or result.step != self._steps:
            raise ValueError("result: not of the latest step of this engine")
        return result.logits
