from typing import Any

import pytest
from api_fakes import CONTEXT, FakeBackend, completion, make_app


def test_a_whole_answer() -> None:
    reply = completion(make_app(FakeBackend("Hello")))
    document = reply.json
    assert document["object"] == "text_completion"
    assert document["choices"] == [{"index": 0, "text": "Hello", "logprobs": None, "finish_reason": "stop"}]
    assert document["usage"]["prompt_tokens"] == 2


def test_sixteen_tokens_is_the_default() -> None:
    backend = FakeBackend("x" * 100)
    assert completion(make_app(backend)).json["choices"][0]["text"] == "x" * 16
    assert backend.requests[0].tokens_max == 16


def test_a_stream_says_the_same() -> None:
    events = completion(
        make_app(FakeBackend("Hello")), stream=True, stream_options={"include_usage": True}
    ).events
    assert "".join(event["choices"][0]["text"] for event in events[:-1]) == "Hello"
    assert events[-2]["choices"][0]["finish_reason"] == "stop"
    assert events[-1]["choices"] == []
    assert events[-1]["usage"]["completion_tokens"] == 6


PROMPTS: list[tuple[Any, list[bytes]]] = [
    ("abc", [b"abc"]),
    (["abc", "de"], [b"abc", b"de"]),
    ([97, 98], [b"ab"]),
    ([[97], [98, 99]], [b"a", b"bc"]),
]


@pytest.mark.parametrize(("prompt", "expected"), PROMPTS)
@pytest.mark.parametrize("stream", [False, True])
def test_all_forms_of_prompts(prompt: Any, expected: list[bytes], stream: bool) -> None:
    backend = FakeBackend(lambda request, sequence: f"{bytes(request.prompt).decode()}{sequence}")
    reply = completion(make_app(backend), prompt=prompt, n=2, stream=stream)
    texts = [""] * (2 * len(expected))
    documents = reply.events if stream else [reply.json]
    for document in documents:
        for choice in document["choices"]:
            texts[choice["index"]] += choice["text"]
    assert texts == [f"{each.decode()}{sequence}" for each in expected for sequence in (0, 1)]
    if not stream:
        assert reply.json["usage"]["prompt_tokens"] == sum(map(len, expected))
        assert reply.json["usage"]["prompt_tokens_details"]["cached_tokens"] == 3 * len(expected)
    ids = [request.request_id for request in backend.requests]
    assert len(set(ids)) == len(expected)
    assert reply.headers["x-request-id"] in ids


def test_many_prompts_run_side_by_side_but_not_all_at_once() -> None:
    backend = FakeBackend("ok")
    most = 0

    def answer(request: Any, sequence: int) -> str:
        nonlocal most
        most = max(most, backend.running)
        return bytes(request.prompt).decode()

    backend.answer = answer
    backend.pause_s = 0.001
    prompts = [f"p{index}" for index in range(40)]
    reply = completion(make_app(backend), prompt=prompts)
    assert [choice["text"] for choice in reply.json["choices"]] == prompts
    assert 1 < most <= 16


def test_one_failing_prompt_ends_them_all() -> None:
    backend = FakeBackend(lambda request, sequence: "x" if request.prompt == (97,) else "y" * 3000)
    backend.fails_after = 1
    reply = completion(make_app(backend), prompt=["a", "b", "c"], max_tokens=2000)
    assert reply.status == 500
    assert backend.running == 0


@pytest.mark.parametrize("stream", [False, True])
def test_echo(stream: bool) -> None:
    reply = completion(make_app(FakeBackend(" there")), prompt="Hi", echo=True, stream=stream)
    documents = reply.events if stream else [reply.json]
    assert "".join(choice["text"] for document in documents for choice in document["choices"]) == "Hi there"


@pytest.mark.parametrize("prompt", ["Hé", list("Hé".encode()), [list("Hé".encode())]])
def test_echo_with_logprobs_scores_the_prompt(prompt: Any) -> None:
    """The form that evaluation harnesses use to score text."""
    backend = FakeBackend("!!!")
    reply = completion(make_app(backend), prompt=prompt, echo=True, logprobs=2, max_tokens=1)
    [request] = backend.requests
    assert request.score_prompt
    assert request.tokens_max == 1
    [choice] = reply.json["choices"]
    assert choice["text"] == "Hé!"
    logprobs = choice["logprobs"]
    assert logprobs["tokens"] == ["H", "bytes:\\xc3", "bytes:\\xa9", "!"]
    assert logprobs["token_logprobs"] == [None, -0.5, -0.5, -0.5]
    assert logprobs["top_logprobs"][0] is None
    assert logprobs["top_logprobs"][3] == {"!": -0.5, '"': -1.5}
    assert logprobs["text_offset"] == [0, 1, 1, 2]
    assert choice["finish_reason"] == "length"


def test_echo_with_logprobs_and_no_output() -> None:
    reply = completion(make_app(), prompt="abc", echo=True, logprobs=0, max_tokens=0)
    [choice] = reply.json["choices"]
    assert choice["text"] == "abc"
    assert choice["logprobs"]["token_logprobs"] == [None, -0.5, -0.5]


def test_echo_without_output_asks_no_fleet() -> None:
    backend = FakeBackend()
    reply = completion(make_app(backend), prompt=["abc", "de"], echo=True, max_tokens=0)
    assert [choice["text"] for choice in reply.json["choices"]] == ["abc", "de"]
    assert reply.json["usage"]["prompt_tokens"] == 5
    assert backend.requests == []
    events = completion(make_app(backend), prompt="abc", echo=True, max_tokens=0, stream=True).events
    assert events[0]["choices"][0]["text"] == "abc"


def test_logprobs_without_echo() -> None:
    choice = completion(make_app(FakeBackend("né")), logprobs=1, stop="zzz").json["choices"][0]
    assert choice["logprobs"]["text_offset"] == [0, 1, 1]
    assert choice["logprobs"]["tokens"] == ["n", "bytes:\\xc3", "bytes:\\xa9"]


BAD: list[tuple[str, dict[str, Any]]] = [
    ("prompt", {"prompt": ""}),
    ("prompt", {"prompt": []}),
    ("prompt", {"prompt": {}}),
    ("prompt", {"prompt": None}),
    ("prompt", {"prompt": 5}),
    ("prompt[1]", {"prompt": ["a", ""]}),
    ("prompt[1]", {"prompt": ["a", 5]}),
    ("prompt[1]", {"prompt": [5, "a"]}),
    ("prompt[0]", {"prompt": [True]}),
    ("prompt[1]", {"prompt": [1, True]}),
    ("prompt[0]", {"prompt": [257]}),
    ("prompt[0]", {"prompt": [-1]}),
    ("prompt[0]", {"prompt": [10**30]}),
    ("prompt[0]", {"prompt": [1.0]}),
    ("prompt[1][0]", {"prompt": [[1], [999]]}),
    ("prompt[1]", {"prompt": [[1], []]}),
    ("prompt", {"prompt": ["x"] * 300}),
    ("prompt", {"prompt": "x" * (CONTEXT + 1)}),
    ("prompt", {"prompt": "x" * CONTEXT}),
    ("max_tokens", {"max_tokens": CONTEXT}),
    ("max_tokens", {"max_tokens": 0}),
    ("max_tokens", {"max_tokens": -1}),
    ("logprobs", {"logprobs": 21}),
    ("best_of", {"best_of": 3}),
    ("suffix", {"suffix": "end"}),
    ("n", {"n": 129}),
    ("n", {"n": 100, "prompt": ["a", "b", "c"]}),
    ("stop", {"stop": ["a", "b", "c", "d", "e"]}),
    ("stop[1]", {"stop": ["a", ""]}),
    ("stop[0]", {"stop": "x" * 5000}),
]


@pytest.mark.parametrize(("field", "fields"), BAD)
def test_bad_values_are_refused_by_name(field: str, fields: dict[str, Any]) -> None:
    backend = FakeBackend()
    reply = completion(make_app(backend), **fields)
    assert reply.status == 400
    error = reply.json["error"]
    assert error["param"] == field
    assert field in error["message"]
    assert error["type"] == "invalid_request_error"
    assert backend.requests == []


def test_a_prompt_of_the_whole_context_may_be_scored() -> None:
    fields = {"prompt": "x" * CONTEXT, "echo": True, "logprobs": 0, "max_tokens": 0}
    assert completion(make_app(), **fields).status == 200
