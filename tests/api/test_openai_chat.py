import asyncio
import json
from typing import Any

import pytest
from api_fakes import CONTEXT, MODEL, Client, FakeBackend, call, chat, make_app

from diptych.api.generation import GenerationRefused

URL = "/v1/chat/completions"


def text_of(events: list[Any], choice: int = 0) -> str:
    deltas = [each["delta"] for event in events for each in event["choices"] if each["index"] == choice]
    return "".join(delta.get("content") or "" for delta in deltas)


def finish_of(events: list[Any], choice: int = 0) -> list[str]:
    found = [each for event in events for each in event["choices"] if each["index"] == choice]
    return [each["finish_reason"] for each in found if each["finish_reason"]]


def test_a_whole_answer() -> None:
    backend = FakeBackend("Héllo")
    reply = chat(make_app(backend))
    assert reply.status == 200
    document = reply.json
    assert document["object"] == "chat.completion"
    assert document["model"] == MODEL
    [choice] = document["choices"]
    assert choice["message"] == {"role": "assistant", "content": "Héllo", "refusal": None}
    assert choice["finish_reason"] == "stop"
    assert choice["logprobs"] is None
    prompt = len(b"<user>Hi\n<assistant>")
    usage = document["usage"]
    assert usage["prompt_tokens"] == prompt
    assert usage["completion_tokens"] == 7
    assert usage["total_tokens"] == prompt + 7
    assert usage["prompt_tokens_details"]["cached_tokens"] == 3
    assert reply.headers["x-request-id"] == backend.requests[0].request_id
    assert backend.closed_early == 0, "a complete generation is not one that its client left"


def test_a_stream_says_the_same() -> None:
    backend = FakeBackend("Héllo €")
    reply = chat(make_app(backend), stream=True)
    assert reply.headers["content-type"].startswith("text/event-stream")
    events = reply.events
    assert text_of(events) == "Héllo €"
    assert finish_of(events) == ["stop"]
    assert events[0]["choices"][0]["delta"]["role"] == "assistant"
    assert {event["id"] for event in events} == {events[0]["id"]}
    assert all("usage" not in event for event in events)
    assert backend.closed_early == 0


def test_usage_in_the_stream() -> None:
    events = chat(make_app(), stream=True, stream_options={"include_usage": True}).events
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] == 14
    assert all(event["usage"] is None for event in events[:-1])


def test_usage_needs_a_stream() -> None:
    reply = chat(make_app(), stream_options={"include_usage": True})
    assert reply.status == 400
    assert reply.json["error"]["param"] == "stream_options"


def test_several_choices() -> None:
    app = make_app(FakeBackend(lambda request, sequence: f"answer {sequence}"))
    assert [c["message"]["content"] for c in chat(app, n=3).json["choices"]] == [
        "answer 0",
        "answer 1",
        "answer 2",
    ]
    events = chat(app, n=3, stream=True).events
    assert [text_of(events, choice) for choice in range(3)] == ["answer 0", "answer 1", "answer 2"]
    assert [finish_of(events, choice) for choice in range(3)] == [["stop"]] * 3


@pytest.mark.parametrize("stop", [", w", [", w"], ["zzz", ", w", "rld"]])
@pytest.mark.parametrize("step", [1, 4, 100])
@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings_cut_the_text(stop: Any, step: int, stream: bool) -> None:
    backend = FakeBackend("Hello, world!")
    backend.step = step
    reply = chat(make_app(backend), stop=stop, stream=stream)
    if stream:
        assert (text_of(reply.events), finish_of(reply.events)) == ("Hello", ["stop"])
    else:
        [choice] = reply.json["choices"]
        assert (choice["message"]["content"], choice["finish_reason"]) == ("Hello", "stop")
    assert backend.requests[0].stop == tuple(
        each.encode() for each in ([stop] if isinstance(stop, str) else stop)
    )


def test_partial_stop_strings_are_withheld_while_streaming() -> None:
    backend = FakeBackend("one\n\nUse two\n\nUser: three")
    events = chat(make_app(backend), stop="\n\nUser:", stream=True).events
    assert text_of(events) == "one\n\nUse two"
    shown = ""
    for event in events:
        shown += event["choices"][0]["delta"].get("content") or ""
        assert "one\n\nUse two".startswith(shown)


def test_sampling_reaches_the_fleet() -> None:
    backend = FakeBackend()
    chat(
        make_app(backend),
        temperature=0.5,
        top_p=0.9,
        top_k=40,
        min_p=0.05,
        repetition_penalty=1.1,
        frequency_penalty=0.2,
        presence_penalty=-0.3,
        logit_bias={"65": 5, "66": -100},
        seed=7,
        max_tokens=5,
        ignore_eos=True,
        priority=3,
        deadline_ms=1500,
        exact=True,
        user="someone",
        unheard_of={"deep": [1, 2]},
    )
    [request] = backend.requests
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.5, 0.9, 40, 0.05)
    penalties = (sampling.repetition_penalty, sampling.frequency_penalty, sampling.presence_penalty)
    assert penalties == (1.1, 0.2, -0.3)
    assert sampling.logit_bias == {65: 5.0, 66: -100.0}
    assert (sampling.seed, request.seeded) == (7, True)
    assert (request.tokens_max, request.stop_tokens) == (5, ())
    assert (request.priority, request.deadline_ms, request.exact) == (3, 1500, True)


def test_defaults() -> None:
    backend = FakeBackend()
    app = make_app(backend)
    chat(app)
    chat(app)
    first, second = backend.requests
    assert first.sampling.temperature == 1.0
    assert not first.seeded
    assert first.sampling.seed != second.sampling.seed
    assert first.sampling.seed >= 0
    assert first.tokens_max == CONTEXT - len(first.prompt)
    assert first.stop_tokens == (256,)
    assert first.request_id != second.request_id


def test_negative_seeds_and_tiny_temperatures_are_safe_for_engines() -> None:
    backend = FakeBackend()
    chat(make_app(backend), seed=-1, temperature=1e-300, top_p=0)
    sampling = backend.requests[0].sampling
    assert 0 <= sampling.seed < 2**63
    assert sampling.temperature == 0
    assert (sampling.top_p, sampling.top_k) == (1.0, 1)


def test_max_completion_tokens_wins() -> None:
    backend = FakeBackend()
    reply = chat(make_app(backend), max_tokens=9, max_completion_tokens=5)
    assert reply.json["choices"][0]["finish_reason"] == "length"
    assert reply.json["choices"][0]["message"]["content"] == "Hello"


@pytest.mark.parametrize("stream", [False, True])
def test_logprobs(stream: bool) -> None:
    reply = chat(make_app(FakeBackend("né")), logprobs=True, top_logprobs=2, stream=stream)
    if stream:
        entries = [
            entry
            for event in reply.events
            for choice in event["choices"]
            if choice["logprobs"]
            for entry in choice["logprobs"]["content"]
        ]
    else:
        entries = reply.json["choices"][0]["logprobs"]["content"]
    assert [entry["bytes"] for entry in entries] == [[110], [0xC3], [0xA9]]
    assert entries[0]["token"] == "n"
    assert entries[0]["logprob"] == -0.5
    assert [top["logprob"] for top in entries[0]["top_logprobs"]] == [-0.5, -1.5]


def test_logprobs_stop_where_the_text_stops() -> None:
    choice = chat(make_app(), logprobs=True, stop="lo").json["choices"][0]
    assert choice["message"]["content"] == "Hel"
    assert [entry["token"] for entry in choice["logprobs"]["content"]] == ["H", "e", "l"]


def test_content_parts_and_developer_role() -> None:
    backend = FakeBackend()
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
    ]
    assert chat(make_app(backend), messages=messages).status == 200
    assert bytes(backend.requests[0].prompt) == b"<system>Be brief.\n<user>a\nb\n<assistant>"


UNSUPPORTED = [
    ("tools", {"tools": [{"type": "function", "function": {"name": "f"}}]}),
    ("tool_choice", {"tool_choice": "required"}),
    ("functions", {"functions": [{"name": "f"}]}),
    ("response_format", {"response_format": {"type": "json_schema", "json_schema": {}}}),
    ("response_format", {"response_format": {"type": "json_object"}}),
    ("modalities", {"modalities": ["text", "audio"]}),
    (
        "messages[0].content[0].type",
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
    ),
    ("messages[0].role", {"messages": [{"role": "tool", "tool_call_id": "1", "content": "x"}]}),
    (
        "messages[0].tool_calls",
        {"messages": [{"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}]},
    ),
]


@pytest.mark.parametrize(("field", "fields"), UNSUPPORTED)
def test_what_is_not_supported_is_refused_by_name(field: str, fields: Any) -> None:
    reply = chat(make_app(), **fields)
    assert reply.status == 400
    assert reply.json["error"]["param"] == field
    assert "support" in reply.json["error"]["message"]


def test_what_says_nothing_is_accepted() -> None:
    fields = {"tools": [], "tool_choice": "auto", "response_format": {"type": "text"}, "functions": None}
    assert chat(make_app(), **fields).status == 200


REFUSALS = [
    (GenerationRefused("overloaded", "full", retry_after_ms=2500), 429, "rate_limit_exceeded"),
    (GenerationRefused("too_long", "pool", field="max_tokens", limit=100), 400, "context_length_exceeded"),
    (GenerationRefused("unknown_model", "gone"), 404, "model_not_found"),
    (GenerationRefused("deadline", "late"), 408, "deadline_exceeded"),
    (GenerationRefused("unavailable", "no worker"), 503, "service_unavailable"),
    (GenerationRefused("failed", "lost"), 500, "internal_error"),
]


@pytest.mark.parametrize(("refusal", "status", "code"), REFUSALS)
@pytest.mark.parametrize("stream", [False, True])
def test_refusals_of_the_fleet(refusal: GenerationRefused, status: int, code: str, stream: bool) -> None:
    backend = FakeBackend()
    backend.refusal = refusal
    reply = chat(make_app(backend), stream=stream)
    assert (reply.status, reply.json["error"]["code"]) == (status, code)
    assert str(refusal) in reply.json["error"]["message"]
    if refusal.kind == "overloaded":
        assert (reply.headers["retry-after"], reply.headers["retry-after-ms"]) == ("3", "2500")
    if refusal.kind == "too_long":
        assert reply.json["error"]["param"] == "max_tokens"
        assert "100" in reply.json["error"]["message"]
    assert backend.running == 0


def test_a_fleet_that_still_loads_is_not_ready() -> None:
    backend = FakeBackend()
    backend.refusal, backend.is_ready = GenerationRefused("unavailable", "loading"), False
    reply = chat(make_app(backend))
    assert (reply.status, reply.json["error"]["code"]) == (503, "model_not_ready")


def test_a_failure_in_mid_stream_is_an_error_event() -> None:
    backend = FakeBackend()
    backend.fails_after = 3
    reply = chat(make_app(backend), stream=True)
    assert reply.status == 200
    frames = reply.body.decode().split("\n\n")
    assert frames[-1] == ""
    error = json.loads(frames[-2].removeprefix("data: "))["error"]
    assert error["message"] == "the worker is lost"
    assert "[DONE]" not in reply.body.decode()
    assert reply.ended
    assert chat(make_app(backend)).status == 500


def test_a_fleet_that_ends_without_a_word_is_a_failure() -> None:
    class Mute(FakeBackend):
        def _events(self, request: Any) -> list[Any]:
            return super()._events(request)[:2]

    reply = chat(make_app(Mute()))
    assert reply.status == 500
    assert reply.json["error"]["type"] == "server_error"


@pytest.mark.parametrize(
    ("reason", "finish"), [("length", "length"), ("context", "length"), ("deadline", "length")]
)
def test_finish_reasons(reason: str, finish: str) -> None:
    backend = FakeBackend()
    backend.reason = reason
    assert chat(make_app(backend)).json["choices"][0]["finish_reason"] == finish


def test_request_ids() -> None:
    app = make_app()
    body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}]}
    assert call(app, "POST", URL, body, {"x-request-id": "mine-1"}).headers["x-request-id"] == "mine-1"
    for bad in ("", "a b", "x" * 200, "a\u00e9", "a/b"):
        assert call(app, "POST", URL, body, {"x-request-id": bad}).headers["x-request-id"].startswith("req-")


def test_an_id_in_use_is_not_given_twice() -> None:
    backend = FakeBackend()

    async def main() -> None:
        backend.gate = asyncio.Event()
        client = Client(make_app(backend))
        body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}]}
        both = [asyncio.create_task(client.post(URL, body, x_request_id="same")) for _ in range(2)]
        while len(backend.requests) < 2:
            await asyncio.sleep(0)
        backend.gate.set()
        ids = {(await each).headers["x-request-id"] for each in both}
        assert len(ids) == 2
        assert "same" in ids

    asyncio.run(main())


def test_trace_context_is_passed_on() -> None:
    backend = FakeBackend()
    app = make_app(backend)
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}]}
    call(app, "POST", URL, body, {"traceparent": parent})
    call(app, "POST", URL, body, {"traceparent": "nonsense"})
    assert [request.trace_context for request in backend.requests] == [parent, ""]
