"""An engine without a model: what it says is a hash of what it was told, what it costs is declared.

It keeps the rules of a real engine, and breaks loudly where others break them. The KV entry of a token
is its id, its position and a running hash of all tokens and numerics up to it; a logits row is a hash
of *every* entry of its context, read back from the pages. So a page that is missing, stale, swapped or
computed with other numerics changes the next token.

Ids below 256 are bytes, 256 and 257 are control tokens (`diptych.models.scripted` has the tokenizer);
lower-case letters and space are likely, so that its text can be read, though it says nothing.
"""

from __future__ import annotations

import hashlib
import time
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
from diptych.engine.scripted_sampling import ScriptedSampler, scored
from diptych.engine.spans import check_spans
from diptych.wire.kv import KvFormat, nhd

Hashes = npt.NDArray[np.uint64]

END_OF_TURN = 257
VOCABULARY_MIN = 258

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_STEP = 0xD1342543DE82EF95
"""Odd, hence invertible modulo 2**64: a running hash is then one cumulative sum."""
_STEP_INVERSE = pow(_STEP, -1, 1 << 64)
_LIKELY = b"abcdefghijklmnopqrstuvwxyz "


class ScriptedCost(msgspec.Struct, frozen=True, kw_only=True):
    """What a step takes, in ns: slept, not computed."""

    step_ns: int = 0
    prompt_token_ns: int = 0
    """Per token of a span of several tokens."""
    decode_row_ns: int = 0
    """Per span of one token."""

    def of(self, spans: Sequence[Span]) -> int:
        """Cost of a step of these spans."""
        decode_rows = sum(len(span.tokens) == 1 for span in spans)
        prompt_tokens = sum(len(span.tokens) for span in spans) - decode_rows
        return self.step_ns + prompt_tokens * self.prompt_token_ns + decode_rows * self.decode_row_ns


class ScriptedResult:
    """Hash of the context of each kept row; logits are made from it when asked for."""

    def __init__(self, seeds: Hashes) -> None:
        self.seeds = seeds

    @property
    def rows(self) -> int:
        return len(self.seeds)


class ScriptedEngine:
    """Implements `Engine`.

    `model` names what is spoken: two engines with the same `model` and numerics say the same, with
    other numerics something else. `end_every`: about one row in so many ends the turn (0: none does).
    """

    def __init__(
        self,
        *,
        model: str = "scripted",
        numerics: Sequence[str] = ("scripted",),
        formats: Sequence[str] | None = None,
        vocabulary: int = VOCABULARY_MIN,
        page_tokens: int = 16,
        context_tokens_max: int = 8192,
        step_tokens_max: int = 2048,
        step_spans_max: int = 256,
        cost: ScriptedCost | None = None,
        end_every: int = 0,
    ) -> None:
        if vocabulary < VOCABULARY_MIN:
            raise ValueError(
                f"vocabulary: {vocabulary} is less than {VOCABULARY_MIN} (bytes and control tokens)"
            )
        self._cost = cost or ScriptedCost()
        self._end_every = end_every
        self._vocabulary = vocabulary
        self._capabilities = Capabilities(
            engine="scripted",
            numerics=tuple(numerics),
            formats=tuple(formats or numerics),
            invariant_rows=True,
            samples=True,
            context_tokens_max=context_tokens_max,
            step_tokens_max=step_tokens_max,
            step_spans_max=step_spans_max,
        )
        self._kv_format = nhd(
            model=f"{model}/{vocabulary}",
            layers=1,
            kv_heads=1,
            head_dim=2,
            page_tokens=page_tokens,
            dtype="float32",
        )
        self._salts = {name: _salt(f"{model}/{vocabulary}/{name}") for name in numerics}
        self._likelihood = np.zeros(vocabulary, np.float32)
        self._likelihood[list(_LIKELY)] = 8.0
        self._likelihood[END_OF_TURN] = -16.0
        self._keys: npt.NDArray[np.int32] | None = None
        self._hashes: Hashes = np.empty((0, page_tokens), np.uint64)

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    @property
    def kv_format(self) -> KvFormat:
        return self._kv_format

    def attach_pool(self, pool: memoryview, pages: int) -> None:
        """See `Engine`. Raises `ValueError` where the pool is too small."""
        size_bytes = pages * self._kv_format.page_bytes
        if pool.nbytes < size_bytes:
            raise ValueError(f"pool: {pool.nbytes} bytes, {pages} pages need {size_bytes}")
        data = np.frombuffer(pool, np.uint8, size_bytes).reshape(pages, 2, -1)
        # K holds (token id, position) as two 32-bit patterns, V the 64-bit running hash.
        self._keys = data[:, 0].view(np.int32).reshape(pages, self._kv_format.page_tokens, 2)
        self._hashes = data[:, 1].view(np.uint64)

    def step(self, spans: Sequence[Span]) -> ScriptedResult:
        """See `Engine`. Returns when the declared cost has passed."""
        started_ns = time.monotonic_ns()
        if self._keys is None:
            raise RuntimeError("attach_pool has not been called")
        check_spans(
            spans,
            capabilities=self._capabilities,
            page_tokens=self._kv_format.page_tokens,
            pages=len(self._keys),
            vocabulary=self._vocabulary,
        )
        seeds = [self._span(span, self._keys) for span in spans]
        remaining_ns = self._cost.of(spans) - (time.monotonic_ns() - started_ns)
        if remaining_ns > 0:
            time.sleep(remaining_ns / 1e9)
        return ScriptedResult(np.concatenate(seeds))

    def sampler(
        self, parameters: SamplingParameters, *, choice: int, prompt: Tokens, emitted: Tokens
    ) -> ScriptedSampler:
        return ScriptedSampler(parameters, choice, prompt, emitted, self._vocabulary)

    def sample(self, result: StepResult, rows: Sequence[SampleRow]) -> list[SampledToken]:
        logits = self.logits(result)
        picked: list[SampledToken] = []
        for row in rows:
            if not 0 <= row.row < len(logits):
                raise ValueError(f"row: {row.row} is outside the {len(logits)} rows of the step")
            picked.append(row.sampler.pick(logits[row.row], row.output_index))
        return picked

    def score(self, result: StepResult, first_row: int, targets: Tokens, top: int) -> list[SampledToken]:
        logits = self.logits(result)
        if not 0 <= first_row <= first_row + len(targets) <= len(logits):
            raise ValueError(f"first_row: {len(targets)} rows from {first_row} are outside {len(logits)}")
        return [scored(logits[first_row + index], int(token), top) for index, token in enumerate(targets)]

    def logits(self, result: StepResult) -> npt.NDArray[np.float32]:
        if not isinstance(result, ScriptedResult):
            raise TypeError(f"result: a {type(result).__name__} is not of this engine")
        columns = np.arange(self._vocabulary, dtype=np.uint64) * _GOLDEN
        bits = _mix(result.seeds[:, None] + columns[None, :]) >> np.uint64(40)
        logits = bits.astype(np.float32) * np.float32(4.0 / (1 << 24)) + self._likelihood
        if self._end_every:
            logits[result.seeds % np.uint64(self._end_every) == 0, END_OF_TURN] = 16.0
        return np.asarray(logits, np.float32)

    def close(self) -> None:
        """Lets go of the pool."""
        self._keys = None
        self._hashes = np.empty((0, self._kv_format.page_tokens), np.uint64)

    def _span(self, span: Span, keys: npt.NDArray[np.int32]) -> Hashes:
        """Writes the span's entries, reads the whole context, and returns the kept rows' seeds."""
        salt = self._salts[span.numerics]
        start, count = span.first_position, len(span.tokens)
        positions = np.arange(start + count)
        pages, slots = (
            span.pages[positions // self._kv_format.page_tokens],
            positions % self._kv_format.page_tokens,
        )
        new = slice(start, None)
        before = int(self._hashes[pages[start - 1], slots[start - 1]]) if start else 0
        keys[pages[new], slots[new], 0] = span.tokens
        keys[pages[new], slots[new], 1] = positions[new]
        self._hashes[pages[new], slots[new]] = _running(before, span.tokens, positions[new], salt)
        if span.logits_from is None:
            return np.empty(0, np.uint64)
        entries = keys[pages, slots].astype(np.uint32).astype(np.uint64)
        stored = entries[:, 0] + (entries[:, 1] << np.uint64(32))
        read = _mix(self._hashes[pages, slots] ^ _mix(stored + positions.astype(np.uint64) * _GOLDEN))
        return _mix(np.cumsum(read)[start + span.logits_from :] ^ np.uint64(salt))


def _salt(name: str) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")


def _running(before: int, tokens: Tokens, positions: npt.NDArray[np.int64], salt: int) -> Hashes:
    """h[i] = h[i - 1] * STEP + c[i] modulo 2**64, for all i at once."""
    count = len(tokens)
    terms = _mix(tokens.astype(np.uint64) * _GOLDEN + positions.astype(np.uint64) ^ np.uint64(salt))
    forward = np.cumprod(np.full(count, _STEP, np.uint64), dtype=np.uint64)
    backward = np.cumprod(np.full(count, _STEP_INVERSE, np.uint64), dtype=np.uint64)
    return np.asarray(forward * (np.uint64(before) + np.cumsum(terms * backward)), np.uint64)


def _mix(values: Hashes) -> Hashes:
    """SplitMix64's finaliser, element by element."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(values ^ (values >> np.uint64(31)), np.uint64)
