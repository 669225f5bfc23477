"""From a prompt and its limits to a `GenerationRequest`; the same for every endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import msgspec

from diptych.api.errors import ApiError, ErrorKind
from diptych.api.generation import Backend, ServedModel
from diptych.api.http.decoding import refuse_field
from diptych.api.text.machinery import TextModel, TextModels

__all__ = ["Target", "check_length", "check_stops", "find_target", "tokenize"]

STOP_CHARACTERS_MAX = 1024
STOP_CHARACTERS_TOTAL_MAX = 16384
# Longer text is tokenized on another thread, so that streams of other clients go on.
_INLINE_CHARACTERS_MAX = 8192


class Target(msgspec.Struct, frozen=True):
    """The model that a request asked for."""

    model: ServedModel
    text: TextModel


def find_target(backend: Backend, texts: TextModels, name: str, field: str | None = "model") -> Target:
    """The served model of this name; an ARN names the model its resource path ends in.

    Raises `ApiError` UNKNOWN_MODEL.
    """
    served = {model.name: model for model in backend.models() if model.name in texts}
    model = served.get(name)
    if model is None and name.startswith("arn:"):
        endings = [known for known in served if name.endswith(("/" + known, ":" + known))]
        model = served[max(endings, key=len)] if endings else None
    if model is None:
        known = ", ".join(sorted(served)) or "none"
        raise ApiError(
            ErrorKind.UNKNOWN_MODEL,
            f"The model {name[:200]!r} does not exist here. Served models: {known}.",
            field=field,
        )
    return Target(model, texts[model.name])


async def tokenize(encode: Callable[[], Sequence[int]], characters: int, field: str) -> tuple[int, ...]:
    """Runs an encoder over so many characters without holding up other requests.

    Raises `ApiError` naming `field` where the text is refused or has no tokens.
    """
    try:
        if characters > _INLINE_CHARACTERS_MAX:
            tokens = await asyncio.to_thread(encode)
        else:
            tokens = encode()
    except ValueError as error:
        raise refuse_field(field, str(error)) from None
    if not len(tokens):
        raise refuse_field(field, "the prompt has no tokens; at least 1 is needed.")
    return tuple(tokens)


def check_length(
    target: Target, prompt_tokens: int, tokens_max: int | None, *, prompt_field: str, limit_field: str
) -> int:
    """Most output tokens of a request: what was asked for, or all that the context has left.

    Raises `ApiError` TOO_LONG naming the field and the limit.
    """
    context = target.model.context_max
    if prompt_tokens >= context and (prompt_tokens > context or tokens_max != 0):
        raise ApiError(
            ErrorKind.TOO_LONG,
            f"{prompt_field}: the prompt has {prompt_tokens} tokens, but the context of "
            f"{target.model.name!r} is {context} tokens, output included.",
            field=prompt_field,
        )
    if tokens_max is None:
        return context - prompt_tokens
    if prompt_tokens + tokens_max > context:
        raise ApiError(
            ErrorKind.TOO_LONG,
            f"{limit_field}: {prompt_tokens} prompt tokens and {tokens_max} output tokens exceed the "
            f"context of {target.model.name!r}, {context} tokens.",
            field=limit_field,
        )
    return tokens_max


def check_stops(stops: Sequence[str], count_max: int, field: str) -> tuple[str, ...]:
    """Raises `ApiError` naming the field and the limit."""
    if len(stops) > count_max:
        raise refuse_field(field, f"at most {count_max} stop sequences, got {len(stops)}.")
    total = 0
    for index, stop in enumerate(stops):
        total += len(stop)
        if not 1 <= len(stop) <= STOP_CHARACTERS_MAX:
            raise refuse_field(f"{field}[{index}]", f"must have 1 to {STOP_CHARACTERS_MAX} characters.")
    if total > STOP_CHARACTERS_TOTAL_MAX:
        raise refuse_field(field, f"at most {STOP_CHARACTERS_TOTAL_MAX} characters in all.")
    return tuple(dict.fromkeys(stops))
