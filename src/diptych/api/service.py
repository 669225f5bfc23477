"""What every endpoint is given, and the beginning that generating endpoints share."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Callable, Sequence

import msgspec

from diptych.api.generation import Backend, GenerationRequest
from diptych.api.http.asgi import HttpRequest
from diptych.api.http.metrics import Metrics, RequestTimer
from diptych.api.prompts import Target
from diptych.api.sampling_fields import SamplingFields
from diptych.api.text.completion import Delta, Job, complete_all
from diptych.api.text.machinery import TextModels
from diptych.engine.interface import SamplingParameters

__all__ = ["Call", "Service", "begin", "begun", "generation_request"]

_TRACE_PARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class Service(msgspec.Struct, frozen=True):
    """What the app serves; the same for all requests."""

    backend: Backend
    texts: TextModels
    metrics: Metrics
    accepting: Callable[[], bool]
    """False once the server stops."""


class Call(msgspec.Struct, frozen=True):
    """One request, read and admitted."""

    service: Service
    http: HttpRequest
    timer: RequestTimer
    tenant: str = ""


def generation_request(
    call: Call,
    target: Target,
    prompt: Sequence[int],
    tokens_max: int,
    fields: SamplingFields,
    sampling: SamplingParameters,
    *,
    number: int = 0,
    sequences: int = 1,
    stops: Sequence[str] = (),
    score_prompt: bool = False,
) -> GenerationRequest:
    """The fleet's form of one prompt; `number` tells the prompts of one client request apart."""
    request_id = call.http.request_id
    parent = call.http.headers.get("traceparent", "")
    return GenerationRequest(
        request_id=request_id if number == 0 else f"{request_id}-{number}",
        model=target.model.name,
        prompt=tuple(prompt),
        tokens_max=tokens_max,
        sequences=sequences,
        sampling=sampling,
        seeded=fields.seed is not None,
        stop=tuple(stop.encode() for stop in stops),
        stop_tokens=() if fields.ignore_eos else target.text.stop_tokens,
        score_prompt=score_prompt,
        tenant=call.tenant,
        priority=fields.priority or 0,
        deadline_ms=fields.deadline_ms,
        exact=bool(fields.exact),
        trace_context=parent if _TRACE_PARENT.fullmatch(parent) else "",
    )


async def begin(call: Call, jobs: Sequence[Job]) -> tuple[Delta, AsyncGenerator[Delta, None]]:
    """Starts a generation and waits for its first delta, so that a refusal is still a plain HTTP error.

    Raises `ApiError`.
    """
    deltas = complete_all(call.service.backend, jobs, call.timer)
    return await anext(deltas), deltas


async def begun(first: Delta, rest: AsyncGenerator[Delta, None]) -> AsyncGenerator[Delta, None]:
    """The deltas of `begin` as one stream."""
    yield first
    async for delta in rest:
        yield delta
