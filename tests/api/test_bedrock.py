import json
from typing import Any
from urllib.parse import quote

import pytest
from api_fakes import CONTEXT, MODEL, FakeBackend, Reply, call, make_app
from botocore.eventstream import EventStreamBuffer

from diptych.api.generation import GenerationRefused

PATH = f"/model/{quote(MODEL, safe='')}/"


def converse(app: Any, operation: str = "converse", path: str = PATH, **fields: Any) -> Reply:
    body = {"messages": [{"role": "user", "content": [{"text": "Hi"}]}], **fields}
    return call(app, "POST", path + operation, body)


def frames(reply: Reply) -> list[tuple[str, Any]]:
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/vnd.amazon.eventstream"
    buffer = EventStreamBuffer()
    buffer.add_data(reply.body)
    found = []
    for message in buffer:
        headers = message.headers
        name = headers.get(":event-type") or headers[":exception-type"]
        found.append((name, json.loads(message.payload)))
    return found


def test_converse() -> None:
    backend = FakeBackend("Hello")
    reply = converse(
        make_app(backend),
        system=[{"text": "Be brief."}, {"cachePoint": {"type": "default"}}],
        messages=[
            {"role": "user", "content": [{"text": "a"}, {"text": "b"}, {"cachePoint": {"type": "default"}}]},
            {"role": "assistant", "content": [{"text": "c"}]},
            {"role": "user", "content": [{"text": "d"}]},
        ],
    )
    assert reply.status == 200
    assert reply.headers["x-amzn-requestid"] == reply.headers["x-request-id"]
    prompt = b"<system>Be brief.\n<user>a\nb\n<assistant>c\n<user>d\n<assistant>"
    assert bytes(backend.requests[0].prompt) == prompt
    document = reply.json
    assert document["output"]["message"] == {"role": "assistant", "content": [{"text": "Hello"}]}
    assert document["stopReason"] == "end_turn"
    assert document["usage"] == {
        "inputTokens": len(prompt),
        "outputTokens": 6,
        "totalTokens": len(prompt) + 6,
        "cacheReadInputTokens": 3,
        "cacheWriteInputTokens": 0,
    }
    assert document["metrics"]["latencyMs"] >= 0
    assert backend.requests[0].tokens_max == CONTEXT - len(prompt)


def test_converse_stream() -> None:
    found = frames(converse(make_app(FakeBackend("Hé!")), "converse-stream"))
    names = [name for name, _ in found]
    assert names == [
        "messageStart",
        *["contentBlockDelta"] * 3,
        "contentBlockStop",
        "messageStop",
        "metadata",
    ]
    assert found[0][1] == {"role": "assistant"}
    assert "".join(body["delta"]["text"] for name, body in found if name == "contentBlockDelta") == "Hé!"
    assert all(body["contentBlockIndex"] == 0 for name, body in found if name.startswith("contentBlock"))
    assert found[-2][1] == {"stopReason": "end_turn"}
    assert found[-1][1]["usage"]["outputTokens"] == 5


def test_parameters_reach_the_fleet() -> None:
    backend = FakeBackend("one STOP two")
    reply = converse(
        make_app(backend),
        inferenceConfig={"maxTokens": 50, "temperature": 0.25, "topP": 0.5, "stopSequences": [" STOP", "zz"]},
        additionalModelRequestFields={
            "top_k": 9,
            "seed": 5,
            "min_p": 0.1,
            "repetition_penalty": 1.2,
            "frequency_penalty": 0.3,
            "presence_penalty": 0.4,
            "logit_bias": {"65": -1},
            "temperature": 1.5,
            "unheard_of": 1,
        },
        additionalModelResponseFieldPaths=["/stop_sequence", "/nothing/here"],
        performanceConfig={"latency": "optimized"},
        requestMetadata={"a": "b"},
    )
    [request] = backend.requests
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.25, 0.5, 9, 0.1)
    assert (sampling.frequency_penalty, sampling.presence_penalty) == (0.3, 0.4)
    assert (sampling.repetition_penalty, sampling.logit_bias) == (1.2, {65: -1.0})
    assert (sampling.seed, request.seeded, request.tokens_max) == (5, True, 50)
    assert reply.json["output"]["message"]["content"] == [{"text": "one"}]
    assert reply.json["stopReason"] == "stop_sequence"
    assert reply.json["additionalModelResponseFields"] == {"stop_sequence": " STOP"}


@pytest.mark.parametrize(
    ("reason", "expected"),
    [("length", "max_tokens"), ("context", "model_context_window_exceeded"), ("deadline", "max_tokens")],
)
def test_stop_reasons(reason: str, expected: str) -> None:
    backend = FakeBackend()
    backend.reason = reason
    assert converse(make_app(backend)).json["stopReason"] == expected
    assert ("messageStop", {"stopReason": expected}) in frames(converse(make_app(backend), "converse-stream"))


ARN = "arn:aws:bedrock:us-east-1:123456789012:custom-model/"
IDS = [
    f"/model/{quote(MODEL, safe='')}/",
    f"/model/{MODEL}/",
    f"/model/{quote(MODEL, safe='/')}/",
    f"/model/{quote(ARN + MODEL, safe='')}/",
    f"/model/{ARN}{MODEL}/",
]


@pytest.mark.parametrize("path", IDS)
def test_forms_of_the_model_id(path: str) -> None:
    backend = FakeBackend()
    assert converse(make_app(backend), path=path).status == 200
    assert backend.requests[0].model == MODEL


@pytest.mark.parametrize("name", ["other", "x" + MODEL, ARN + "x" + MODEL, "fake-1:0"])
def test_unknown_models(name: str) -> None:
    reply = converse(make_app(), path=f"/model/{quote(name, safe='')}/")
    assert reply.status == 404
    assert reply.headers["x-amzn-errortype"] == "ResourceNotFoundException"
    assert MODEL in reply.json["message"]


BAD: list[tuple[str, dict[str, Any]]] = [
    ("messages", {"messages": []}),
    ("messages", {"messages": None}),
    ("messages[0].role", {"messages": [{"role": "robot", "content": [{"text": "x"}]}]}),
    ("messages[0].content", {"messages": [{"role": "user", "content": []}]}),
    ("messages[0].content[0]", {"messages": [{"role": "user", "content": [{}]}]}),
    ("messages[0].content[0]", {"messages": [{"role": "user", "content": [{"text": "x", "image": {}}]}]}),
    ("messages[0].content[0].image", {"messages": [{"role": "user", "content": [{"image": {}}]}]}),
    ("messages[0].content[0].toolUse", {"messages": [{"role": "user", "content": [{"toolUse": {}}]}]}),
    ("messages[0].content[0].text", {"messages": [{"role": "user", "content": [{"text": 5}]}]}),
    ("system[0].guardContent", {"system": [{"guardContent": {}}]}),
    ("toolConfig", {"toolConfig": {"tools": [{"toolSpec": {}}]}}),
    ("guardrailConfig", {"guardrailConfig": {"guardrailIdentifier": "g"}}),
    ("outputConfig", {"outputConfig": {"textFormat": {"type": "json_schema"}}}),
    ("inferenceConfig.temperature", {"inferenceConfig": {"temperature": 1.5}}),
    ("inferenceConfig.topP", {"inferenceConfig": {"topP": -0.1}}),
    ("inferenceConfig.maxTokens", {"inferenceConfig": {"maxTokens": 0}}),
    ("inferenceConfig.maxTokens", {"inferenceConfig": {"maxTokens": CONTEXT}}),
    ("inferenceConfig.stopSequences[0]", {"inferenceConfig": {"stopSequences": [""]}}),
    ("inferenceConfig.stopSequences", {"inferenceConfig": {"stopSequences": ["x"] * 2501}}),
    ("additionalModelRequestFields.top_k", {"additionalModelRequestFields": {"top_k": -5}}),
    ("additionalModelRequestFields.logit_bias", {"additionalModelRequestFields": {"logit_bias": {"x": 1}}}),
    ("additionalModelResponseFieldPaths[0]", {"additionalModelResponseFieldPaths": ["x"]}),
    ("additionalModelResponseFieldPaths", {"additionalModelResponseFieldPaths": ["/x"] * 11}),
    ("messages", {"messages": [{"role": "user", "content": [{"text": "x" * CONTEXT}]}]}),
    ("messages", {"messages": [{"role": "user", "content": [{"text": "REFUSED BY TEMPLATE"}]}]}),
]


@pytest.mark.parametrize(("field", "fields"), BAD)
@pytest.mark.parametrize("operation", ["converse", "converse-stream"])
def test_bad_values_are_refused_by_name(field: str, fields: dict[str, Any], operation: str) -> None:
    backend = FakeBackend()
    reply = converse(make_app(backend), operation, **fields)
    assert reply.status == 400
    assert reply.headers["x-amzn-errortype"] == "ValidationException"
    assert reply.json["message"].startswith(f"{field}: ")
    assert backend.requests == []


def test_wrong_types_are_serialization_errors() -> None:
    for fields in ({"messages": "x"}, {"inferenceConfig": {"maxTokens": "5"}}, {"system": {}}):
        reply = converse(make_app(), **fields)
        assert reply.status == 400
        assert reply.headers["x-amzn-errortype"] == "SerializationException"


REFUSALS = [
    (GenerationRefused("overloaded", "full", retry_after_ms=100), True, 429, "ThrottlingException"),
    (GenerationRefused("too_long", "pool", limit=77), True, 400, "ValidationException"),
    (GenerationRefused("unknown_model", "gone"), True, 404, "ResourceNotFoundException"),
    (GenerationRefused("deadline", "late"), True, 408, "ModelTimeoutException"),
    (GenerationRefused("unavailable", "none"), True, 503, "ServiceUnavailableException"),
    (GenerationRefused("unavailable", "loading"), False, 429, "ModelNotReadyException"),
    (GenerationRefused("failed", "lost"), True, 500, "InternalServerException"),
]


@pytest.mark.parametrize(("refusal", "ready", "status", "name"), REFUSALS)
@pytest.mark.parametrize("operation", ["converse", "converse-stream"])
def test_refusals_of_the_fleet(
    refusal: GenerationRefused, ready: bool, status: int, name: str, operation: str
) -> None:
    backend = FakeBackend()
    backend.refusal, backend.is_ready = refusal, ready
    reply = converse(make_app(backend), operation)
    assert (reply.status, reply.headers["x-amzn-errortype"]) == (status, name)
    assert str(refusal) in reply.json["message"]
    if refusal.limit:
        assert "77" in reply.json["message"]


def test_a_failure_in_mid_stream_is_an_exception_frame() -> None:
    backend = FakeBackend()
    backend.fails_after = 2
    found = frames(converse(make_app(backend), "converse-stream"))
    assert found[-1] == ("internalServerException", {"message": "the worker is lost"})
    assert [name for name, _ in found[:-1]] == ["messageStart", "contentBlockDelta", "contentBlockDelta"]


def test_unknown_operations() -> None:
    for path in (PATH + "invoke-with-bidirectional-stream", "/model/x", "/model/"):
        reply = call(make_app(), "POST", path, {})
        assert reply.status == 404
        assert reply.headers["x-amzn-errortype"] == "UnknownOperationException"


def test_openai_below_bedrocks_prefix() -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}]}
    assert call(make_app(), "POST", "/openai/v1/chat/completions", body).json["object"] == "chat.completion"
