"""Bodies of Bedrock's Converse operations, as typed structs; and what in them is not supported yet.

Source: the service model `bedrock-runtime` 2023-09-30. Unknown members are ignored, unknown members of a
union are refused by name.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta, Raw

from diptych.api.http.decoding import decode_value, refuse_field, reject_unsupported
from diptych.api.openai.requests import MESSAGES_MAX, OUTPUT_TOKENS_MAX
from diptych.api.prompts import check_stops
from diptych.api.sampling_fields import SamplingFields
from diptych.api.text.machinery import ChatMessage

__all__ = ["EXTRA_FIELDS", "ConverseBody", "conversation", "point_out"]

STOPS_MAX = 2500
RESPONSE_PATHS_MAX = 10
EXTRA_FIELDS = "additionalModelRequestFields"


class InferenceConfig(msgspec.Struct, kw_only=True):
    maxTokens: Annotated[int, Meta(ge=1, le=OUTPUT_TOKENS_MAX)] | None = None  # noqa: N815
    temperature: Annotated[float, Meta(ge=0, le=1)] | None = None
    topP: Annotated[float, Meta(ge=0, le=1)] | None = None  # noqa: N815
    stopSequences: list[str] | None = None  # noqa: N815


class Turn(msgspec.Struct, kw_only=True):
    role: str
    content: list[dict[str, Any]]


class ConverseBody(msgspec.Struct, kw_only=True):
    messages: list[Turn] | None = None
    system: list[dict[str, Any]] | None = None
    inferenceConfig: InferenceConfig | None = None  # noqa: N815
    additionalModelRequestFields: Raw = Raw()  # noqa: N815
    additionalModelResponseFieldPaths: list[str] | None = None  # noqa: N815
    toolConfig: Raw = Raw()  # noqa: N815
    guardrailConfig: Raw = Raw()  # noqa: N815
    outputConfig: Raw = Raw()  # noqa: N815
    promptVariables: Raw = Raw()  # noqa: N815

    def check_supported(self) -> None:
        reject_unsupported(
            {
                name: getattr(self, name)
                for name in ("toolConfig", "guardrailConfig", "outputConfig", "promptVariables")
            }
        )
        paths = self.additionalModelResponseFieldPaths or []
        if len(paths) > RESPONSE_PATHS_MAX:
            raise refuse_field("additionalModelResponseFieldPaths", f"at most {RESPONSE_PATHS_MAX} paths.")
        for index, path in enumerate(paths):
            if not path.startswith("/") or len(path) > 256:
                raise refuse_field(
                    f"additionalModelResponseFieldPaths[{index}]",
                    "must be a JSON pointer of at most 256 characters, such as /stop_sequence.",
                )

    def fields(self) -> SamplingFields:
        """Sampling fields of `additionalModelRequestFields`, under those of `inferenceConfig`."""
        raw = self.additionalModelRequestFields
        fields = SamplingFields()
        if bytes(raw) not in (b"", b"null"):
            fields = decode_value(raw, SamplingFields, EXTRA_FIELDS)
        config = self.inferenceConfig or InferenceConfig()
        if config.temperature is not None:
            fields.temperature = config.temperature
        if config.topP is not None:
            fields.top_p = config.topP
        return fields

    def stops(self) -> tuple[str, ...]:
        config = self.inferenceConfig or InferenceConfig()
        return check_stops(config.stopSequences or (), STOPS_MAX, "inferenceConfig.stopSequences")


def conversation(body: ConverseBody) -> list[ChatMessage]:
    """System blocks and turns as messages for the chat template. Raises `ApiError` naming the field."""
    given = body.messages or []
    if not 1 <= len(given) <= MESSAGES_MAX:
        raise refuse_field("messages", f"must have 1 to {MESSAGES_MAX} messages.")
    messages = []
    system = _texts(body.system or [], "system")
    if system:
        messages.append(ChatMessage(role="system", content="\n".join(system)))
    for index, turn in enumerate(given):
        if turn.role not in ("user", "assistant", "system"):
            raise refuse_field(f"messages[{index}].role", "must be user, assistant or system.")
        field = f"messages[{index}].content"
        texts = _texts(turn.content, field)
        if not texts:
            raise refuse_field(field, "must have at least 1 text block.")
        messages.append(ChatMessage(role=turn.role, content="\n".join(texts)))
    return messages


def _texts(blocks: list[dict[str, Any]], field: str) -> list[str]:
    texts = []
    for index, block in enumerate(blocks):
        place = f"{field}[{index}]"
        members = [name for name, value in block.items() if value is not None]
        if len(members) != 1:
            raise refuse_field(place, f"must have exactly one member, got {len(members)}.")
        member = members[0]
        if member == "cachePoint":
            # Prefixes are cached without being told to.
            continue
        if member != "text":
            raise refuse_field(
                f"{place}.{member[:40]}",
                "not supported by this server yet; supported are text and cachePoint.",
            )
        text = block["text"]
        if not isinstance(text, str):
            raise refuse_field(f"{place}.text", "must be a string.")
        texts.append(text)
    return texts


def point_out(document: dict[str, Any], paths: list[str]) -> dict[str, Any]:
    """The parts of a document that JSON pointers (RFC 6901) name; pointers to nothing are left out."""
    found: dict[str, Any] = {}
    for path in paths:
        names = [name.replace("~1", "/").replace("~0", "~") for name in path[1:].split("/")]
        value: Any = document
        for name in names:
            value = value.get(name) if isinstance(value, dict) else None
        if value is None:
            continue
        place = found
        for name in names[:-1]:
            place = place.setdefault(name, {})
        place[names[-1]] = value
    return found
