"""POST /v1/chat/completions."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from diptych.api.errors import ApiError, openai_error
from diptych.api.framing import SSE_DONE, SSE_TYPE, encode_sse
from diptych.api.http.asgi import Answer, StreamAnswer, json_answer
from diptych.api.http.decoding import decode_body
from diptych.api.openai.answers import ChatDocuments
from diptych.api.openai.requests import ChatBody, chat_messages, stop_strings
from diptych.api.prompts import check_length, find_target, tokenize
from diptych.api.service import Call, begin, begun, generation_request
from diptych.api.text.completion import Delta, Job, Usage, collect

__all__ = ["SSE_HEADERS", "chat_completions", "sse_error"]

SSE_HEADERS = [("content-type", SSE_TYPE), ("cache-control", "no-cache")]


async def chat_completions(call: Call) -> Answer | StreamAnswer:
    body = decode_body(call.http.body, ChatBody)
    body.check_supported()
    job = await _job(call, body)
    documents = ChatDocuments(
        identity=f"chatcmpl-{call.http.request_id}",
        created_s=int(time.time()),
        model=job.request.model,
        scored=job.scored,
        include_usage=body.include_usage(),
    )
    first, rest = await begin(call, [job])
    if body.stream:
        frames = _frames(begun(first, rest), documents)
        return StreamAnswer(SSE_HEADERS, frames, rest, sse_error)
    async with aclosing(rest):
        choices, usage = await collect(begun(first, rest), job.request.sequences)
    return json_answer(documents.whole(choices, usage))


async def _job(call: Call, body: ChatBody) -> Job:
    target = find_target(call.service.backend, call.service.texts, body.model)
    messages = chat_messages(body.messages)
    stops = stop_strings(body.stop)
    logprobs = body.logprobs_count()
    sampling = body.sampling(target.text.vocabulary_size, logprobs)
    prompt = await tokenize(
        lambda: target.text.encode_chat(messages), sum(len(each.content) for each in messages), "messages"
    )
    asked, limit_field = body.output_limit()
    tokens_max = check_length(target, len(prompt), asked, prompt_field="messages", limit_field=limit_field)
    request = generation_request(
        call, target, prompt, tokens_max, body, sampling, sequences=body.n or 1, stops=stops
    )
    return Job(request=request, text=target.text, stops=stops, scored=logprobs is not None)


async def _frames(
    deltas: AsyncGenerator[Delta, None], documents: ChatDocuments
) -> AsyncGenerator[bytes, None]:
    opened: set[int] = set()
    async for delta in deltas:
        if isinstance(delta, Usage):
            if documents.include_usage:
                yield encode_sse(documents.usage(delta))
            continue
        frames = []
        if delta.choice not in opened:
            opened.add(delta.choice)
            frames.append(encode_sse(documents.opening(delta.choice)))
        frames += [encode_sse(chunk) for chunk in documents.chunks(delta)]
        yield b"".join(frames)
    yield SSE_DONE


def sse_error(error: ApiError) -> bytes:
    """An error after the stream has begun; OpenAI's clients raise it."""
    return encode_sse(openai_error(error).body)
