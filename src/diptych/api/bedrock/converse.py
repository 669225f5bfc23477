"""Bedrock's Converse and ConverseStream, for text."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import msgspec

from diptych.api.bedrock.requests import EXTRA_FIELDS, ConverseBody, conversation, point_out
from diptych.api.errors import ApiError, bedrock_error
from diptych.api.framing import EVENT_STREAM_TYPE, encode_event, encode_exception
from diptych.api.http.asgi import Answer, StreamAnswer, json_answer
from diptych.api.http.decoding import decode_body
from diptych.api.prompts import check_length, find_target, tokenize
from diptych.api.service import Call, begin, begun, generation_request
from diptych.api.text.choice import FinishReason
from diptych.api.text.completion import Delta, Job, Usage, collect

__all__ = ["converse", "converse_stream"]

_STOP_REASONS = {
    FinishReason.STOP_TOKEN: "end_turn",
    FinishReason.STOP_STRING: "stop_sequence",
    FinishReason.LENGTH: "max_tokens",
    FinishReason.CONTEXT: "model_context_window_exceeded",
    # Bedrock has no word for a client's own deadline; the text is cut short, as by a length.
    FinishReason.DEADLINE: "max_tokens",
}


async def converse(call: Call, model_id: str) -> Answer:
    body, job = await _read(call, model_id)
    first, rest = await begin(call, [job])
    async with aclosing(rest):
        choices, usage = await collect(begun(first, rest), 1)
    choice = choices[0]
    documents = _Documents(body.additionalModelResponseFieldPaths or [], lambda: call.timer.elapsed_ms)
    message = {"role": "assistant", "content": [{"text": choice.text}]}
    return json_answer(
        {"output": {"message": message}}
        | documents.stop(choice.finish, choice.stop)
        | documents.metadata(usage)
    )


async def converse_stream(call: Call, model_id: str) -> StreamAnswer:
    body, job = await _read(call, model_id)
    documents = _Documents(body.additionalModelResponseFieldPaths or [], lambda: call.timer.elapsed_ms)
    first, rest = await begin(call, [job])
    headers = [("content-type", EVENT_STREAM_TYPE)]
    return StreamAnswer(headers, _frames(begun(first, rest), documents), rest, _exception_frame)


async def _read(call: Call, model_id: str) -> tuple[ConverseBody, Job]:
    target = find_target(call.service.backend, call.service.texts, model_id, "modelId")
    body = decode_body(call.http.body, ConverseBody)
    body.check_supported()
    messages = conversation(body)
    fields, stops = body.fields(), body.stops()
    sampling = fields.sampling(target.text.vocabulary_size, prefix=f"{EXTRA_FIELDS}.")
    prompt = await tokenize(
        lambda: target.text.encode_chat(messages), sum(len(each.content) for each in messages), "messages"
    )
    asked = body.inferenceConfig.maxTokens if body.inferenceConfig else None
    tokens_max = check_length(
        target, len(prompt), asked, prompt_field="messages", limit_field="inferenceConfig.maxTokens"
    )
    request = generation_request(call, target, prompt, tokens_max, fields, sampling, stops=stops)
    return body, Job(request=request, text=target.text, stops=stops)


class _Documents(msgspec.Struct, frozen=True):
    paths: list[str]
    elapsed_ms: Callable[[], int]

    def stop(self, finish: FinishReason | None, stop: str | None) -> dict[str, Any]:
        reason = _STOP_REASONS[finish] if finish is not None else "end_turn"
        document: dict[str, Any] = {"stopReason": reason}
        extra = point_out({"stop_sequence": stop}, self.paths)
        return document | ({"additionalModelResponseFields": extra} if extra else {})

    def metadata(self, usage: Usage) -> dict[str, Any]:
        tokens = {
            "inputTokens": usage.prompt_tokens,
            "outputTokens": usage.output_tokens,
            "totalTokens": usage.prompt_tokens + usage.output_tokens,
            "cacheReadInputTokens": usage.cached_tokens,
            "cacheWriteInputTokens": 0,
        }
        return {"usage": tokens, "metrics": {"latencyMs": self.elapsed_ms()}}


async def _frames(deltas: AsyncGenerator[Delta, None], documents: _Documents) -> AsyncGenerator[bytes, None]:
    yield encode_event("messageStart", {"role": "assistant"})
    async for delta in deltas:
        if isinstance(delta, Usage):
            yield encode_event("metadata", documents.metadata(delta))
            continue
        frames = []
        if delta.text:
            piece = {"contentBlockIndex": 0, "delta": {"text": delta.text}}
            frames.append(encode_event("contentBlockDelta", piece))
        if delta.finish is not None:
            frames.append(encode_event("contentBlockStop", {"contentBlockIndex": 0}))
            frames.append(encode_event("messageStop", documents.stop(delta.finish, delta.stop)))
        if frames:
            yield b"".join(frames)


def _exception_frame(error: ApiError) -> bytes:
    wire = bedrock_error(error)
    return encode_exception(wire.frame_name, wire.body)
