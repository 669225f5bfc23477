"""Which path is which operation. Paths are matched as the client sent them, so that a model id may hold
an encoded slash; an id with plain slashes is understood too."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from diptych.api.bedrock import converse as bedrock
from diptych.api.errors import ApiError, ErrorKind, WireError, bedrock_error, openai_error
from diptych.api.http.asgi import Answer, HttpRequest, StreamAnswer, json_answer
from diptych.api.openai.answers import model_document
from diptych.api.openai.chat import chat_completions
from diptych.api.openai.completions import completions
from diptych.api.prompts import find_target
from diptych.api.service import Call

__all__ = ["Dialect", "Route", "dialect_of", "find_route"]

Handler = Callable[[Call, str], Awaitable[Answer | StreamAnswer]]


class Dialect(msgspec.Struct, frozen=True):
    """How an API speaks of errors and names its requests."""

    error: Callable[[ApiError], WireError]
    id_headers: tuple[str, ...]


_OPENAI = Dialect(openai_error, ("x-request-id",))
_BEDROCK = Dialect(bedrock_error, ("x-request-id", "x-amzn-requestid"))


class Route(msgspec.Struct, frozen=True):
    name: str
    """As metrics call it."""
    method: str
    handler: Handler
    argument: str = ""
    """The id in the path."""
    open: bool = False
    """Needs no API key, and is answered while the server stops."""


async def _health(call: Call, _: str) -> Answer:
    return json_answer({"status": "alive"})


async def _ready(call: Call, _: str) -> Answer:
    ready = call.service.accepting() and call.service.backend.ready()
    return json_answer({"status": "ready" if ready else "not ready"}, 200 if ready else 503)


async def _metrics(call: Call, _: str) -> Answer:
    body, content_type = call.service.metrics.expose(call.http.headers.get("accept", ""))
    return Answer(200, [("content-type", content_type)], body)


async def _models(call: Call, _: str) -> Answer:
    service = call.service
    models = [model_document(model) for model in service.backend.models() if model.name in service.texts]
    return json_answer({"object": "list", "data": models})


async def _model(call: Call, name: str) -> Answer:
    return json_answer(model_document(find_target(call.service.backend, call.service.texts, name).model))


async def _status(call: Call, _: str) -> Answer:
    return json_answer(await call.service.backend.status())


async def _trace(call: Call, request_id: str) -> Answer:
    trace = await call.service.backend.trace(request_id)
    if trace is None:
        raise ApiError(ErrorKind.UNKNOWN_ID, f"No request {request_id[:128]!r} is on record.", field="id")
    return json_answer(trace)


async def _chat_completions(call: Call, _: str) -> Answer | StreamAnswer:
    return await chat_completions(call)


async def _completions(call: Call, _: str) -> Answer | StreamAnswer:
    return await completions(call)


async def _converse(call: Call, model_id: str) -> Answer | StreamAnswer:
    return await bedrock.converse(call, model_id)


async def _converse_stream(call: Call, model_id: str) -> Answer | StreamAnswer:
    return await bedrock.converse_stream(call, model_id)


_FIXED: dict[tuple[str, ...], Route] = {
    ("health",): Route("/health", "GET", _health, open=True),
    ("ready",): Route("/ready", "GET", _ready, open=True),
    ("metrics",): Route("/metrics", "GET", _metrics, open=True),
    ("v1", "models"): Route("/v1/models", "GET", _models),
    ("v1", "chat", "completions"): Route("/v1/chat/completions", "POST", _chat_completions),
    ("v1", "completions"): Route("/v1/completions", "POST", _completions),
    ("diptych", "status"): Route("/diptych/status", "GET", _status),
}
_WITH_ID: dict[tuple[str, ...], Route] = {
    ("v1", "models"): Route("/v1/models/{id}", "GET", _model),
    ("diptych", "trace"): Route("/diptych/trace/{id}", "GET", _trace),
}
_BEDROCK_OPERATIONS = {
    "converse": Route("/model/{id}/converse", "POST", _converse),
    "converse-stream": Route("/model/{id}/converse-stream", "POST", _converse_stream),
}


def dialect_of(request: HttpRequest) -> Dialect:
    return _BEDROCK if request.segments[0] == "model" else _OPENAI


def find_route(request: HttpRequest) -> Route:
    """The operation of a request. Raises `ApiError` (UNKNOWN_ROUTE, WRONG_METHOD)."""
    route = _match(request.segments)
    if route is None:
        raise ApiError(ErrorKind.UNKNOWN_ROUTE, f"Unknown request URL: {request.raw_path[:200]}.")
    method = "GET" if request.method == "HEAD" else request.method
    if method != route.method:
        raise ApiError(ErrorKind.WRONG_METHOD, f"{route.name} takes {route.method}, not {method[:20]}.")
    return route


def _match(segments: tuple[str, ...]) -> Route | None:
    if segments[0] == "model" and len(segments) >= 3:
        return _with(_BEDROCK_OPERATIONS.get(segments[-1]), "/".join(segments[1:-1]))
    if segments[:2] == ("openai", "v1"):
        # Bedrock serves OpenAI's API below this prefix.
        segments = segments[1:]
    fixed = _FIXED.get(segments)
    if fixed is not None:
        return fixed
    return _with(_WITH_ID.get(segments[:2]), "/".join(segments[2:])) if len(segments) > 2 else None


def _with(route: Route | None, argument: str) -> Route | None:
    return None if route is None else msgspec.structs.replace(route, argument=argument)
