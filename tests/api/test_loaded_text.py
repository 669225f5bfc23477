"""The HTTP surface over the embedded model's own tokenizer and chat template."""

from typing import Any

import pytest
from api_fakes import FakeBackend, call

from diptych.api.generation import GenerationRequest, ServedModel
from diptych.api.http.app import App
from diptych.api.text.loaded import LoadedText
from diptych.models.embedded import EMBEDDED_NAME, embedded_path, embedded_present
from diptych.models.resolve import load_text

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(not embedded_present(), reason="the embedded model is not in the cache"),
]


class Scripted(FakeBackend):
    """Says token ids, not bytes."""

    tokens: tuple[int, ...] = ()

    def models(self) -> tuple[ServedModel, ...]:
        return (ServedModel(name=EMBEDDED_NAME, context_max=2048, created_s=0),)

    def _tokens(self, request: GenerationRequest, answer: str) -> tuple[list[int], str, str]:
        return list(self.tokens), "stop_token", ""


@pytest.fixture(scope="module")
def text() -> LoadedText:
    loaded = load_text(embedded_path())
    return LoadedText(loaded.tokenizer, loaded.chat_template)


def ask(text: LoadedText, tokens: list[int], **fields: Any) -> tuple[Any, Scripted]:
    backend = Scripted()
    backend.tokens = tuple(tokens)
    app = App(backend, {EMBEDDED_NAME: text})
    body = {"model": EMBEDDED_NAME, "messages": [{"role": "user", "content": "Hi"}], **fields}
    path = "/v1/completions" if "prompt" in fields else "/v1/chat/completions"
    reply = call(app, "POST", path, body)
    assert reply.status == 200, reply.body
    return reply, backend


def test_the_template_frames_the_conversation(text: LoadedText) -> None:
    _, backend = ask(text, [])
    [request] = backend.requests
    tokenizer = load_text(embedded_path()).tokenizer
    rendered = tokenizer.decode(request.prompt, special=True)
    assert rendered.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer.token_id("<|im_end|>") in request.stop_tokens


@pytest.mark.parametrize(
    "words",
    ["plain words", "\u20ac 5 \u2014 na\u00efve caf\u00e9", "\U0001f600\u4f60\u597d", " leading  spaces"],
)
def test_text_comes_back_whole_streamed_or_not(text: LoadedText, words: str) -> None:
    tokens = [*text.encode_text(words), text.stop_tokens[0]]
    reply, _ = ask(text, tokens)
    assert reply.json["choices"][0]["message"]["content"] == words
    reply, _ = ask(text, tokens, stream=True)
    deltas = [choice["delta"] for event in reply.events for choice in event["choices"]]
    assert "".join(delta.get("content") or "" for delta in deltas) == words


def test_stop_strings_across_tokens(text: LoadedText) -> None:
    tokens = list(text.encode_text("The capital is Paris, of course."))
    reply, _ = ask(text, tokens, stop=["ris, of", "s, of c"])
    assert reply.json["choices"][0]["message"]["content"] == "The capital is Pa"


def test_echo_offsets_point_into_the_text(text: LoadedText) -> None:
    prompt = "Na\u00efve \u20ac words"
    reply, _ = ask(text, [], prompt=prompt, echo=True, logprobs=0, max_tokens=0)
    [choice] = reply.json["choices"]
    assert choice["text"] == prompt
    logprobs = choice["logprobs"]
    for token, offset in zip(logprobs["tokens"], logprobs["text_offset"], strict=True):
        if not token.startswith("bytes:"):
            assert prompt[offset:].startswith(token)


def test_control_tokens_are_no_text_but_have_names(text: LoadedText) -> None:
    end = text.stop_tokens[0]
    reply, _ = ask(text, [*text.encode_text("a"), end], ignore_eos=True, logprobs=True)
    [choice] = reply.json["choices"]
    assert choice["message"]["content"] == "a"
    assert choice["logprobs"]["content"][-1]["token"] == text.token_bytes(end).decode()


def test_a_base_model_has_no_chat() -> None:
    loaded = load_text(embedded_path())
    backend = Scripted()
    app = App(backend, {EMBEDDED_NAME: LoadedText(loaded.tokenizer, None)})
    body = {"model": EMBEDDED_NAME, "messages": [{"role": "user", "content": "Hi"}]}
    reply = call(app, "POST", "/v1/chat/completions", body)
    assert reply.status == 400
    assert "no chat template" in reply.json["error"]["message"]
