"""POST /v1/completions."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from diptych.api.framing import SSE_DONE, encode_sse
from diptych.api.http.asgi import Answer, StreamAnswer, json_answer
from diptych.api.http.decoding import decode_body, refuse_field
from diptych.api.openai.answers import CompletionDocuments
from diptych.api.openai.chat import SSE_HEADERS, sse_error
from diptych.api.openai.requests import CHOICES_MAX, CompletionBody, Prompt, prompts, stop_strings
from diptych.api.prompts import Target, check_length, find_target, tokenize
from diptych.api.service import Call, begin, begun, generation_request
from diptych.api.text.completion import Delta, Job, TextDelta, Usage, collect, echo_only

__all__ = ["completions"]

# OpenAI's default for this endpoint.
_TOKENS_MAX = 16


async def completions(call: Call) -> Answer | StreamAnswer:
    body = decode_body(call.http.body, CompletionBody)
    body.check_supported()
    jobs = await _jobs(call, body)
    choices = len(jobs) * jobs[0].request.sequences
    documents = CompletionDocuments(
        identity=f"cmpl-{call.http.request_id}",
        created_s=int(time.time()),
        model=jobs[0].request.model,
        scored=body.logprobs is not None,
        include_usage=body.include_usage(),
    )
    if body.max_tokens == 0 and body.logprobs is None:
        # Nothing to compute: the answer is the prompt.
        deltas = echo_only(jobs)
        source = deltas
    else:
        first, source = await begin(call, jobs)
        deltas = begun(first, source)
    if body.stream:
        return StreamAnswer(SSE_HEADERS, _frames(deltas, documents), source, sse_error)
    async with aclosing(source):
        whole, usage = await collect(deltas, choices)
    return json_answer(documents.whole(whole, usage))


async def _jobs(call: Call, body: CompletionBody) -> list[Job]:
    target = find_target(call.service.backend, call.service.texts, body.model)
    given = prompts(body.prompt, target.text)
    sequences = body.n or 1
    if len(given) * sequences > CHOICES_MAX * 2:
        raise refuse_field("n", f"at most {CHOICES_MAX * 2} choices over all prompts.")
    stops = stop_strings(body.stop)
    sampling = body.sampling(target.text.vocabulary_size, body.logprobs)
    asked = _TOKENS_MAX if body.max_tokens is None else body.max_tokens
    echo = bool(body.echo)
    jobs = []
    for number, prompt in enumerate(given):
        field = "prompt" if len(given) == 1 else f"prompt[{number}]"
        tokens = await _tokens(prompt, target, field)
        tokens_max = check_length(target, len(tokens), asked, prompt_field=field, limit_field="max_tokens")
        request = generation_request(
            call,
            target,
            tokens,
            tokens_max,
            body,
            sampling,
            number=number,
            sequences=sequences,
            stops=stops,
            score_prompt=echo and body.logprobs is not None,
        )
        job = Job(
            request=request,
            text=target.text,
            stops=stops,
            scored=body.logprobs is not None,
            echo=echo,
            first_choice=number * sequences,
        )
        jobs.append(job)
    return jobs


async def _tokens(prompt: Prompt, target: Target, field: str) -> tuple[int, ...]:
    if isinstance(prompt, tuple):
        return prompt
    return await tokenize(lambda: target.text.encode_text(prompt), len(prompt), field)


async def _frames(
    deltas: AsyncGenerator[Delta, None], documents: CompletionDocuments
) -> AsyncGenerator[bytes, None]:
    async for delta in deltas:
        if isinstance(delta, TextDelta):
            yield encode_sse(documents.chunk(delta))
        elif isinstance(delta, Usage) and documents.include_usage:
            yield encode_sse(documents.usage(delta))
    yield SSE_DONE
