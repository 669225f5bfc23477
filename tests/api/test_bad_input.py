"""Whatever a client sends, it gets an answer in the API's own shape, and never a 500."""

import json
from typing import Any

import pytest
from api_fakes import CONTEXT, MODEL, FakeBackend, Reply, call, chat, make_app
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
CONVERSE = "/model/org%2Ffake-1%3A0/converse"
CHAT_BODY = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
TURN = {"messages": [{"role": "user", "content": [{"text": "Hi"}]}]}


def check_error(reply: Reply, path: str) -> None:
    """An error is 4xx and in the dialect's shape."""
    assert 400 <= reply.status < 500, reply.body
    if path.startswith("/model/"):
        assert reply.headers["x-amzn-errortype"].endswith("Exception")
        assert isinstance(reply.json["message"], str)
        assert reply.json["message"]
        return
    error = reply.json["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert isinstance(error["message"], str)
    assert error["message"]


BROKEN = [
    b"",
    b" ",
    b"{",
    b"null",
    b"5",
    b"[]",
    b'"text"',
    b"{}",
    b"\xff\xfe",
    b"\xef\xbb\xbf{}",
    b'{"model": "\xff"}',
    b'{"model": "\xed\xa0\x80"}',
    b'{"model": "x", "unknown": "\xff"}',
    b'{"model": "\\ud800"}',
    b'{"messages": [{"role": "user", "content": "\\udfff\\ud800"}]}',
    b'{"temperature": NaN}',
    b'{"temperature": Infinity}',
    b'{"temperature": -Infinity}',
    b'{"temperature": 1e999}',
    b'{"max_tokens": ' + b"9" * 5000 + b"}",
    b"[" * 5000 + b"]" * 5000,
    b'{"messages":' * 5000 + b"1" + b"}" * 5000,
    b'{"unknown":' + b"[" * 5000 + b"]" * 5000 + b"}",
    b'{"tools":' + b"[" * 5000 + b"]" * 5000 + b"}",
    b'{"toolConfig":' + b"[" * 5000 + b"]" * 5000 + b"}",
    b'{"model": "x"} trailing',
    b"{'model': 'x'}",
    b'{"model": "x",}',
    b'{"model": "a\nb"}',
    b"\x00",
]


@pytest.mark.parametrize("body", BROKEN, ids=range(len(BROKEN)))
@pytest.mark.parametrize("path", [CHAT, COMPLETIONS, CONVERSE, CONVERSE + "-stream"])
def test_what_is_no_request_at_all(body: bytes, path: str) -> None:
    check_error(call(make_app(), "POST", path, body), path)


def with_text(text: str) -> bytes:
    """A chat body around raw JSON text for its one content."""
    head = f'{{"model": "{MODEL}", "messages": [{{"role": "user", "content": '
    return head.encode() + text.encode("utf-8", "surrogatepass") + b"}]}"


def test_texts_that_are_not_unicode_are_refused_and_others_are_not() -> None:
    app = make_app()
    for text in ('"\\ud83d"', '"\\ude00x"', '"\ud800"', '"\\ud83d\\ud83d"'):
        check_error(call(app, "POST", CHAT, with_text(text)), CHAT)
    for text in ('"\\ud83d\\ude00"', '"\U0001f600"', '"\\u0000"', '"\uffff"', '"\u202e"', '""'):
        assert call(app, "POST", CHAT, with_text(text)).status == 200


def test_deep_nesting_where_anything_may_stand() -> None:
    deep = "[" * 5000 + "]" * 5000
    check_error(call(make_app(), "POST", CHAT, with_text(deep)), CHAT)
    for field in ("tools", "response_format", "tool_choice", "stop", "logit_bias", "unheard_of"):
        body = json.dumps(CHAT_BODY)[:-1] + f', "{field}": {deep}}}'
        check_error(call(make_app(), "POST", CHAT, body.encode()), CHAT)
    body = json.dumps(TURN)[:-1] + f', "additionalModelRequestFields": {{"a": {deep}}}}}'
    check_error(call(make_app(), "POST", CONVERSE, body.encode()), CONVERSE)


RANGES: list[tuple[str, Any]] = [
    ("model", None),
    ("messages[1].role", [{"role": "user", "content": "x"}, {}]),
    ("model", 5),
    ("model", "x" * 100_000),
    ("messages", []),
    ("messages", "x"),
    ("messages", None),
    ("messages[0]", [5]),
    ("messages", [{"role": "user", "content": "x"}] * 5000),
    ("messages[0].role", [{"content": "x"}]),
    ("messages[0].content", [{"role": "user"}]),
    ("messages[0].content", [{"role": "user", "content": None}]),
    ("messages[0].content", [{"role": "user", "content": 5}]),
    ("messages[0].content", [{"role": "user", "content": []}]),
    ("messages[0].content[0]", [{"role": "user", "content": ["x"]}]),
    ("messages[0].content[0].text", [{"role": "user", "content": [{"type": "text", "text": 1}]}]),
    ("messages[0].content[0].type", [{"role": "user", "content": [{"type": ["text"]}]}]),
    ("messages", [{"role": "user", "content": "x" * CONTEXT}]),
    ("messages", [{"role": "user", "content": "REFUSED BY TEMPLATE"}]),
    ("temperature", -0.1),
    ("temperature", 2.1),
    ("temperature", "1"),
    ("temperature", True),
    ("top_p", 1.1),
    ("top_p", -1),
    ("top_k", -2),
    ("top_k", 2**31),
    ("top_k", 1.5),
    ("min_p", 1.1),
    ("repetition_penalty", 0),
    ("repetition_penalty", -1),
    ("frequency_penalty", 2.1),
    ("presence_penalty", -2.1),
    ("max_tokens", 0),
    ("max_tokens", -5),
    ("max_tokens", True),
    ("max_tokens", 1.5),
    ("max_tokens", 10**30),
    ("max_tokens", CONTEXT),
    ("max_completion_tokens", 0),
    ("n", 0),
    ("n", 129),
    ("n", True),
    ("seed", 2**63),
    ("seed", -(2**63) - 1),
    ("seed", 1.5),
    ("seed", "1"),
    ("stop", 5),
    ("stop", ["a"] * 5),
    ("stop[1]", ["a", 5]),
    ("stop[0]", [""]),
    ("stop[0]", ["x" * 1025]),
    ("stream", 1),
    ("stream", "true"),
    ("stream_options", []),
    ("stream_options", {"include_usage": True}),
    ("logprobs", 5),
    ("top_logprobs", 21),
    ("top_logprobs", -1),
    ("top_logprobs", 2),
    ("logit_bias", []),
    ("logit_bias", {"x": 1}),
    ("logit_bias", {"-1": 1}),
    ("logit_bias", {"257": 1}),
    ("logit_bias", {"\u0661": 1}),
    ("logit_bias", {"9" * 5000: 1}),
    ("logit_bias", {"65": 101}),
    ("logit_bias", {str(token): 1 for token in range(256)} | {f"0{token}": 1 for token in range(900)}),
    ("ignore_eos", 1),
    ("priority", 2**40),
    ("deadline_ms", 0),
    ("exact", "yes"),
]


@pytest.mark.parametrize(
    ("field", "value"), RANGES, ids=[f"{index}-{each[0]}" for index, each in enumerate(RANGES)]
)
def test_values_out_of_range_are_refused_by_name(field: str, value: Any) -> None:
    backend = FakeBackend()
    name = field.split("[")[0].split(".")[0]
    reply = call(make_app(backend), "POST", CHAT, {**CHAT_BODY, name: value})
    check_error(reply, CHAT)
    error = reply.json["error"]
    assert error["param"] == field
    assert field in error["message"]
    assert len(error["message"]) < 1000
    assert backend.requests == []


def test_messages_say_the_limit() -> None:
    for fields, limit in (
        ({"temperature": 3}, "2.0"),
        ({"n": 500}, "128"),
        ({"max_tokens": 0}, "1"),
        ({"top_logprobs": 50, "logprobs": True}, "20"),
        ({"logit_bias": {"257": 1}}, "256"),
        ({"max_tokens": CONTEXT}, str(CONTEXT)),
        ({"stop": ["a"] * 5}, "4"),
        ({"messages": []}, "1"),
    ):
        assert limit in chat(make_app(), **fields).json["error"]["message"]


def test_repeated_members_take_the_last() -> None:
    body = json.dumps(CHAT_BODY)[:-1] + ', "n": 1, "n": 2}'
    assert len(call(make_app(), "POST", CHAT, body.encode()).json["choices"]) == 2


FULL: dict[str, Any] = {
    CHAT: {
        **CHAT_BODY,
        "messages": [
            {"role": "system", "content": "s"},
            {"role": "user", "content": [{"type": "text", "text": "a"}]},
        ],
        "temperature": 1,
        "top_p": 0.5,
        "n": 2,
        "stop": ["x", "yz"],
        "max_tokens": 20,
        "seed": 3,
        "logit_bias": {"65": 1},
        "logprobs": True,
        "top_logprobs": 2,
        "stream": True,
        "stream_options": {"include_usage": True},
        "tools": [],
        "tool_choice": "auto",
        "response_format": {"type": "text"},
        "top_k": 3,
        "min_p": 0.1,
    },
    COMPLETIONS: {
        "model": MODEL,
        "prompt": ["ab", [97, 98]],
        "echo": True,
        "logprobs": 2,
        "max_tokens": 3,
        "best_of": 1,
        "n": 1,
        "suffix": "",
        "stop": "q",
        "stream": False,
    },
    CONVERSE: {
        **TURN,
        "system": [{"text": "s"}, {"cachePoint": {"type": "default"}}],
        "inferenceConfig": {"maxTokens": 5, "temperature": 0.5, "topP": 0.5, "stopSequences": ["x"]},
        "additionalModelRequestFields": {"top_k": 4, "seed": 1, "logit_bias": {"65": 1}},
        "additionalModelResponseFieldPaths": ["/stop_sequence"],
    },
}
FULL[CONVERSE + "-stream"] = FULL[CONVERSE]

SCALARS = [
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**64), 10**40, 0.5, -0.0, 1e-320, 1e308),
    *("", "x", "\x00", "\u00e9" * 50, "x" * 5000, "65", "user", "text", [], {}, [[]], [{}], {"": {}}),
]
ANYTHING = st.one_of(
    st.sampled_from(SCALARS),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=6,
    ),
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in a document."""
    found = [path] if path else []
    items: Any = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, inner in items:
        found += places(inner, (*path, key))
    return found


def put(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copy = dict(document) if isinstance(document, dict) else list(document)
    copy[path[0]] = put(copy[path[0]], path[1:], value)
    return copy


@st.composite
def mutated(draw: Any) -> tuple[str, bytes]:
    """A valid body with some values replaced by anything, sometimes with its bytes damaged too."""
    path = draw(st.sampled_from(sorted(FULL)))
    document = FULL[path]
    for _ in range(draw(st.integers(1, 3))):
        spots = places(document)
        if spots:
            document = put(document, draw(st.sampled_from(spots)), draw(ANYTHING))
    body = json.dumps(document).encode("utf-8", "surrogatepass")
    if draw(st.booleans()):
        spot = draw(st.integers(0, max(0, len(body) - 1)))
        body = body[:spot] + draw(st.binary(max_size=3)) + body[spot + draw(st.integers(0, 2)) :]
    return path, body


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutated())
def test_mutated_bodies_are_answered_or_refused_never_500(case: tuple[str, bytes]) -> None:
    path, body = case
    reply = call(make_app(FakeBackend("Hello")), "POST", path, body)
    if reply.status == 200:
        assert b'"error"' not in reply.body
        assert b":exception-type" not in reply.body
    else:
        check_error(reply, path)


def test_the_unmutated_bodies_are_good() -> None:
    for path, document in FULL.items():
        assert call(make_app(), "POST", path, document).status == 200


def test_missing_fields_are_named() -> None:
    for missing in ("model", "messages"):
        body = {name: value for name, value in CHAT_BODY.items() if name != missing}
        error = call(make_app(), "POST", CHAT, body).json["error"]
        assert (error["param"], missing in error["message"]) == (missing, True)
    assert call(make_app(), "POST", COMPLETIONS, {"model": MODEL}).json["error"]["param"] == "prompt"
    reply = call(make_app(), "POST", CONVERSE, {})
    assert reply.json["message"].startswith("messages: ")
