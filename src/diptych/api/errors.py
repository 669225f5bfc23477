"""What can go wrong with a request, and how each API dialect says it.

One `ApiError` type for the whole room; the table below is the only place that knows status codes, names
and types. Sources: OpenAI's error object (`{"error": {message, type, param, code}}`) and the modelled
exceptions of the Bedrock runtime (`x-amzn-errortype` header, `{"message"}` body, exception frames).
"""

from __future__ import annotations

import enum
import math
from typing import Any

import msgspec

from diptych.api.generation import GenerationRefused

__all__ = ["ApiError", "ErrorKind", "bedrock_error", "from_refusal", "openai_error"]


class ErrorKind(enum.Enum):
    MALFORMED = "malformed"
    """The body is not JSON of the expected types."""
    INVALID = "invalid"
    """A field has a value that is not allowed, or is not supported here."""
    TOO_LONG = "too_long"
    """The prompt, or the prompt and the asked output, exceed the context or the pool."""
    TOO_LARGE = "too_large"
    """The body has too many bytes."""
    SLOW_BODY = "slow_body"
    UNAUTHENTICATED = "unauthenticated"
    UNKNOWN_MODEL = "unknown_model"
    UNKNOWN_ID = "unknown_id"
    UNKNOWN_ROUTE = "unknown_route"
    WRONG_METHOD = "wrong_method"
    OVERLOADED = "overloaded"
    NOT_READY = "not_ready"
    UNAVAILABLE = "unavailable"
    STOPPING = "stopping"
    DEADLINE = "deadline"
    SLOW_READER = "slow_reader"
    FAILED = "failed"


class _Row(msgspec.Struct, frozen=True):
    status: int
    openai_type: str
    openai_code: str | None
    bedrock_status: int
    bedrock_name: str


# The name of a Bedrock exception frame is the exception's name with a small first letter; only those
# of `_FRAME_NAMES` are members of the stream's union, the others travel as an internal server error.
_ROWS = {
    ErrorKind.MALFORMED: _Row(400, "invalid_request_error", None, 400, "SerializationException"),
    ErrorKind.INVALID: _Row(400, "invalid_request_error", "invalid_value", 400, "ValidationException"),
    ErrorKind.TOO_LONG: _Row(
        400, "invalid_request_error", "context_length_exceeded", 400, "ValidationException"
    ),
    ErrorKind.TOO_LARGE: _Row(413, "invalid_request_error", "request_too_large", 413, "ValidationException"),
    ErrorKind.SLOW_BODY: _Row(408, "invalid_request_error", "request_timeout", 408, "ModelTimeoutException"),
    ErrorKind.UNAUTHENTICATED: _Row(
        401, "invalid_request_error", "invalid_api_key", 403, "AccessDeniedException"
    ),
    ErrorKind.UNKNOWN_MODEL: _Row(
        404, "invalid_request_error", "model_not_found", 404, "ResourceNotFoundException"
    ),
    ErrorKind.UNKNOWN_ID: _Row(404, "invalid_request_error", "not_found", 404, "ResourceNotFoundException"),
    ErrorKind.UNKNOWN_ROUTE: _Row(
        404, "invalid_request_error", "unknown_url", 404, "UnknownOperationException"
    ),
    ErrorKind.WRONG_METHOD: _Row(
        405, "invalid_request_error", "method_not_allowed", 405, "UnknownOperationException"
    ),
    ErrorKind.OVERLOADED: _Row(429, "rate_limit_error", "rate_limit_exceeded", 429, "ThrottlingException"),
    ErrorKind.NOT_READY: _Row(503, "server_error", "model_not_ready", 429, "ModelNotReadyException"),
    ErrorKind.UNAVAILABLE: _Row(
        503, "server_error", "service_unavailable", 503, "ServiceUnavailableException"
    ),
    ErrorKind.STOPPING: _Row(503, "server_error", "service_unavailable", 503, "ServiceUnavailableException"),
    ErrorKind.DEADLINE: _Row(408, "invalid_request_error", "deadline_exceeded", 408, "ModelTimeoutException"),
    ErrorKind.SLOW_READER: _Row(
        408, "invalid_request_error", "slow_reader", 424, "ModelStreamErrorException"
    ),
    ErrorKind.FAILED: _Row(500, "server_error", "internal_error", 500, "InternalServerException"),
}

_FRAME_NAMES = frozenset(
    {
        "InternalServerException",
        "ModelStreamErrorException",
        "ValidationException",
        "ThrottlingException",
        "ServiceUnavailableException",
    }
)


class ApiError(Exception):
    """A refusal or failure, in no dialect yet.

    `field` names the request field at fault, as a client would write it (`messages[0].content`).
    """

    def __init__(
        self,
        kind: ErrorKind,
        message: str,
        *,
        field: str | None = None,
        retry_after_ms: int | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.field = field
        self.retry_after_ms = retry_after_ms

    @property
    def retry_headers(self) -> list[tuple[str, str]]:
        if self.retry_after_ms is None:
            return []
        seconds = max(1, math.ceil(self.retry_after_ms / 1000))
        return [("retry-after", str(seconds)), ("retry-after-ms", str(self.retry_after_ms))]


class WireError(msgspec.Struct, frozen=True):
    """An error as one dialect sends it: over HTTP (status, headers, body) or inside a stream."""

    status: int
    headers: list[tuple[str, str]]
    body: dict[str, Any]
    frame_name: str = ""
    """Bedrock: `:exception-type` of the frame."""


def openai_error(error: ApiError) -> WireError:
    row = _ROWS[error.kind]
    body = {
        "error": {
            "message": error.message,
            "type": row.openai_type,
            "param": error.field,
            "code": row.openai_code,
        }
    }
    return WireError(row.status, error.retry_headers, body)


def bedrock_error(error: ApiError) -> WireError:
    row = _ROWS[error.kind]
    name = row.bedrock_name
    framed = name if name in _FRAME_NAMES else "InternalServerException"
    body: dict[str, Any] = {"message": error.message}
    if name == "ModelStreamErrorException":
        body |= {"originalStatusCode": row.bedrock_status, "originalMessage": error.message}
    headers = [("x-amzn-errortype", name), *error.retry_headers]
    return WireError(row.bedrock_status, headers, body, framed[0].lower() + framed[1:])


_REFUSALS = {
    "overloaded": ErrorKind.OVERLOADED,
    "too_long": ErrorKind.TOO_LONG,
    "unknown_model": ErrorKind.UNKNOWN_MODEL,
    "deadline": ErrorKind.DEADLINE,
    "unavailable": ErrorKind.UNAVAILABLE,
    "failed": ErrorKind.FAILED,
}


def from_refusal(refusal: GenerationRefused, *, ready: bool) -> ApiError:
    """The fleet's refusal as an API error; `ready` tells a fleet that still loads from a broken one."""
    kind = _REFUSALS.get(refusal.kind, ErrorKind.FAILED)
    if kind is ErrorKind.UNAVAILABLE and not ready:
        kind = ErrorKind.NOT_READY
    message = str(refusal)
    if refusal.limit is not None and str(refusal.limit) not in message:
        message = f"{message} (limit {refusal.limit})"
    return ApiError(kind, message, field=refusal.field, retry_after_ms=refusal.retry_after_ms)
