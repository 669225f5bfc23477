"""The seam between the HTTP surface and the fleet: token ids in, token ids out.

Everything above it (OpenAI, Bedrock, text, templates) is in this room; everything below it (routing,
workers, recovery) is behind `Backend`. The live door implements `Backend` over sockets to control and
the workers; tests implement it in a few lines.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

import msgspec

from diptych.engine.interface import SampledToken, SamplingParameters


class GenerationRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt and how to continue it, for one model."""

    request_id: str
    model: str
    prompt: tuple[int, ...]
    """Token ids, at least one."""
    tokens_max: int
    """Most output tokens of each sequence; 0 only with `score_prompt`."""
    sequences: int = 1
    sampling: SamplingParameters = SamplingParameters()
    seeded: bool = False
    """The client gave a seed: the recipe is canonical and the text repeatable."""
    stop: tuple[bytes, ...] = ()
    """Generation ends when the output's bytes contain one of these."""
    stop_tokens: tuple[int, ...] = ()
    """End-of-turn token ids; empty where the client asked to ignore them."""
    score_prompt: bool = False
    """Also return the log-probabilities of the prompt's own tokens (echo with logprobs)."""
    tenant: str = ""
    priority: int = 0
    deadline_ms: int | None = None
    exact: bool = False
    """Rather failed than continued by other numerics than those of its recipe."""
    trace_context: str = ""
    """W3C traceparent of the client, passed on as it came."""


class PromptScored(msgspec.Struct, frozen=True):
    """Log-probabilities of prompt tokens 1..n-1 given what precedes them; comes before any tokens."""

    scores: tuple[SampledToken, ...]


class TokensEmitted(msgspec.Struct, frozen=True):
    sequence: int
    first_index: int
    """Output index of the first of these tokens; indexes are consecutive, each exactly once."""
    tokens: tuple[SampledToken, ...]


class SequenceFinished(msgspec.Struct, frozen=True):
    sequence: int
    reason: str
    """`stop_token`, `stop_string`, `length`, `context`, `deadline` or `failed`."""
    output_tokens: int
    detail: str = ""
    """For people: the stop string found, or what failed."""


class RequestFinished(msgspec.Struct, frozen=True):
    """Last event of a request; nothing follows it."""

    prompt_tokens: int
    cached_tokens: int
    output_tokens: int


GenerationEvent = PromptScored | TokensEmitted | SequenceFinished | RequestFinished


class GenerationRefused(Exception):
    """The fleet did not take the request, or lost it beyond recovery before the first token.

    `kind`: `overloaded` (with `retry_after_ms`), `too_long` (prompt + tokens_max larger than the pool
    or the context), `unknown_model`, `deadline`, `unavailable` (no worker can serve it now) or
    `failed`; `field` and `limit` say which request field passed which limit.
    """

    def __init__(
        self,
        kind: str,
        message: str,
        *,
        retry_after_ms: int | None = None,
        field: str | None = None,
        limit: int | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.retry_after_ms = retry_after_ms
        self.field = field
        self.limit = limit


class ServedModel(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    context_max: int
    created_s: int
    owner: str = "diptych"


class Backend(Protocol):
    """The fleet as the HTTP surface sees it."""

    def models(self) -> tuple[ServedModel, ...]: ...

    def ready(self) -> bool: ...

    def generate(self, request: GenerationRequest) -> AsyncIterator[GenerationEvent]:
        """Events of one request, in order. Raises `GenerationRefused`. Closing the iterator early
        (`aclose`) says that the client is gone: its pages are freed within a step."""
        ...

    async def status(self) -> dict[str, object]:
        """The document of `diptych status --json`."""
        ...

    async def trace(self, request_id: str) -> dict[str, object] | None:
        """The document of `diptych trace ID --json`, or None where the id is not known."""
        ...
