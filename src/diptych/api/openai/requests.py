"""Bodies of the OpenAI endpoints, as typed structs; and what in them this server cannot do yet.

Unknown fields are ignored, as OpenAI's own clients send new ones before servers know them.
Source: the OpenAI API reference (chat completions, completions), with the sampling extensions that
vLLM and llama.cpp share.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from diptych.api.http.decoding import refuse_field, reject_unsupported
from diptych.api.prompts import check_stops
from diptych.api.sampling_fields import LOGPROBS_MAX, SamplingFields
from diptych.api.text.machinery import ChatMessage, TextModel

__all__ = ["ChatBody", "CompletionBody", "Prompt", "chat_messages", "prompts", "stop_strings"]

CHOICES_MAX = 128
PROMPTS_MAX = 256
MESSAGES_MAX = 4096
STOPS_MAX = 4
OUTPUT_TOKENS_MAX = 2**31 - 1

_Count = Annotated[int, Meta(ge=1, le=CHOICES_MAX)]
_Output = Annotated[int, Meta(ge=1, le=OUTPUT_TOKENS_MAX)]

Prompt = str | tuple[int, ...]


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class Message(msgspec.Struct, kw_only=True):
    role: str
    content: Any = None
    tool_calls: Raw = Raw()
    function_call: Raw = Raw()
    audio: Raw = Raw()


class _SharedBody(SamplingFields, kw_only=True):
    """What chat completions and completions have in common."""

    model: str
    n: _Count | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    def include_usage(self) -> bool:
        """Raises `ApiError` where usage is asked of an answer that is no stream."""
        if self.stream_options is not None and not self.stream:
            raise refuse_field("stream_options", "only allowed when stream is true.")
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class ChatBody(_SharedBody, kw_only=True):
    messages: list[Message]
    max_tokens: _Output | None = None
    max_completion_tokens: _Output | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=LOGPROBS_MAX)] | None = None
    tools: Raw = Raw()
    tool_choice: Any = None
    functions: Raw = Raw()
    function_call: Any = None
    response_format: Any = None
    modalities: list[str] | None = None
    audio: Raw = Raw()
    web_search_options: Raw = Raw()

    def check_supported(self) -> None:
        reject_unsupported(
            {
                "tools": self.tools,
                "functions": self.functions,
                "tool_choice": None if self.tool_choice in ("none", "auto") else self.tool_choice,
                "function_call": None if self.function_call in ("none", "auto") else self.function_call,
                "audio": self.audio,
                "web_search_options": self.web_search_options,
                "modalities": None if self.modalities == ["text"] else self.modalities,
            }
        )
        if self.response_format not in (None, {"type": "text"}):
            raise refuse_field("response_format", 'only {"type": "text"} is supported by this server yet.')

    def logprobs_count(self) -> int | None:
        """How many alternatives to report, None for no log-probabilities at all."""
        if self.top_logprobs is not None and not self.logprobs:
            raise refuse_field("top_logprobs", "only allowed when logprobs is true.")
        return (self.top_logprobs or 0) if self.logprobs else None

    def output_limit(self) -> tuple[int | None, str]:
        """Most output tokens, and the name of the field that says so."""
        if self.max_completion_tokens is not None:
            return self.max_completion_tokens, "max_completion_tokens"
        return self.max_tokens, "max_tokens"


class CompletionBody(_SharedBody, kw_only=True):
    prompt: Any | UnsetType = UNSET
    max_tokens: Annotated[int, Meta(ge=0, le=OUTPUT_TOKENS_MAX)] | None = None
    logprobs: Annotated[int, Meta(ge=0, le=LOGPROBS_MAX)] | None = None
    echo: bool | None = None
    best_of: _Count | None = None
    suffix: str | None = None

    def check_supported(self) -> None:
        reject_unsupported({"suffix": self.suffix})
        if self.best_of not in (None, self.n or 1):
            raise refuse_field("best_of", "only best_of equal to n is supported by this server.")
        if self.max_tokens == 0 and not self.echo:
            raise refuse_field("max_tokens", "must be at least 1 unless echo is true.")


def stop_strings(stop: str | list[str] | None) -> tuple[str, ...]:
    if stop is None:
        return ()
    if isinstance(stop, str):
        # An empty string is what some clients send for "none".
        return check_stops([stop], STOPS_MAX, "stop") if stop else ()
    return check_stops(stop, STOPS_MAX, "stop")


_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}


def chat_messages(given: list[Message]) -> list[ChatMessage]:
    """The conversation as the chat template wants it. Raises `ApiError` naming the field."""
    if not 1 <= len(given) <= MESSAGES_MAX:
        raise refuse_field("messages", f"must have 1 to {MESSAGES_MAX} messages.")
    messages = []
    for index, message in enumerate(given):
        field = f"messages[{index}]"
        role = _ROLES.get(message.role)
        if role is None:
            raise refuse_field(
                f"{field}.role",
                f"{message.role[:40]!r} is not supported by this server yet; known are {', '.join(_ROLES)}.",
            )
        for name in ("tool_calls", "function_call", "audio"):
            reject_unsupported({f"{field}.{name}": getattr(message, name)})
        messages.append(ChatMessage(role=role, content=_content(message.content, f"{field}.content")))
    return messages


def _content(content: Any, field: str) -> str:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise refuse_field(field, "must be a string or a non-empty list of content parts.")
    texts = []
    for index, part in enumerate(content):
        place = f"{field}[{index}]"
        if not isinstance(part, dict):
            raise refuse_field(place, "must be an object.")
        kind = part.get("type")
        if kind != "text":
            raise refuse_field(
                f"{place}.type", f"{str(kind)[:40]!r} is not supported by this server yet, only 'text' is."
            )
        text = part.get("text")
        if not isinstance(text, str):
            raise refuse_field(f"{place}.text", "must be a string.")
        texts.append(text)
    return "\n".join(texts)


def prompts(given: Any, text: TextModel) -> list[Prompt]:
    """One prompt or several, each as text or as token ids. Raises `ApiError` naming the field."""
    if isinstance(given, str):
        return [given]
    if not isinstance(given, list) or not given:
        raise refuse_field("prompt", "must be a string, a list of strings, of token ids or of such lists.")
    if type(given[0]) is int:
        return [_token_ids(given, "prompt", text)]
    if len(given) > PROMPTS_MAX:
        raise refuse_field("prompt", f"at most {PROMPTS_MAX} prompts in one request.")
    found: list[Prompt] = []
    for index, prompt in enumerate(given):
        field = f"prompt[{index}]"
        if isinstance(prompt, str):
            found.append(prompt)
        elif isinstance(prompt, list):
            found.append(_token_ids(prompt, field, text))
        else:
            raise refuse_field(field, "must be a string or a list of token ids.")
    return found


def _token_ids(given: list[Any], field: str, text: TextModel) -> tuple[int, ...]:
    if not given:
        raise refuse_field(field, "must have at least 1 token id.")
    size = text.vocabulary_size
    for index, token in enumerate(given):
        # A JSON true is a Python int too, and no token id.
        if type(token) is not int or not 0 <= token < size:
            raise refuse_field(f"{field}[{index}]", f"must be a token id from 0 to {size - 1}.")
    return tuple(given)
