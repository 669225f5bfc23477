"""A fleet and a model in a few lines, and a client that speaks ASGI; for the tests of the HTTP surface."""

from __future__ import annotations

import asyncio
import codecs
import contextlib
import json
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from diptych.api.generation import (
    GenerationEvent,
    GenerationRefused,
    GenerationRequest,
    PromptScored,
    RequestFinished,
    SequenceFinished,
    ServedModel,
    TokensEmitted,
)
from diptych.api.http.app import App, AppSettings
from diptych.api.http.server import ServerSettings, serve
from diptych.api.text.machinery import ChatMessage, IncrementalDetokenizer
from diptych.engine.interface import SampledToken

MODEL = "org/fake-1:0"
END = 256
"""The token that ends a turn. Tokens below are bytes."""
CONTEXT = 4096


class ByteText:
    """A byte-level model: token i is byte i, 256 ends a turn and has no text."""

    vocabulary_size = 257
    stop_tokens = (END,)

    def encode_text(self, text: str) -> Sequence[int]:
        return list(text.encode())

    def encode_chat(self, messages: Sequence[ChatMessage]) -> Sequence[int]:
        if messages[-1].content == "REFUSED BY TEMPLATE":
            raise ValueError("roles must alternate")
        rendered = "".join(f"<{message.role}>{message.content}\n" for message in messages)
        return list((rendered + "<assistant>").encode())

    def token_bytes(self, token: int) -> bytes:
        return b"<end>" if token == END else bytes([token])

    def detokenizer(self) -> IncrementalDetokenizer:
        return ByteDetokenizer()


class ByteDetokenizer:
    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token: int) -> str:
        return "" if token == END else self._decoder.decode(bytes([token]))

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


def sampled(request: GenerationRequest, token: int) -> SampledToken:
    """A token with made-up but distinct log-probabilities, as the request asks for them."""
    count = request.sampling.logprobs
    if count is None:
        return SampledToken(token)
    top = tuple(((token + rank) % 256, -0.5 - rank) for rank in range(count))
    return SampledToken(token, -0.5, top)


class FakeBackend:
    """Says `answer(request, sequence)` to every request, `step` tokens an event."""

    def __init__(self, answer: str | Callable[[GenerationRequest, int], str] = "Hello, world!") -> None:
        self.answer = answer
        self.step = 1
        self.pause_s = 0.0
        self.gate: asyncio.Event | None = None
        """Where set, nothing comes before it opens."""
        self.refusal: GenerationRefused | None = None
        self.fails_after: int | None = None
        """Fails in mid-stream after this many events."""
        self.reason = "stop_token"
        self.is_ready = True
        self.requests: list[GenerationRequest] = []
        self.running = 0
        self.closed_early = 0
        self.events_given = 0
        self.closed = threading.Event()
        self.started = threading.Event()

    def models(self) -> tuple[ServedModel, ...]:
        return (ServedModel(name=MODEL, context_max=CONTEXT, created_s=1_700_000_000),)

    def ready(self) -> bool:
        return self.is_ready

    async def generate(self, request: GenerationRequest) -> AsyncIterator[GenerationEvent]:
        self.requests.append(request)
        self.running += 1
        complete = False
        self.started.set()
        try:
            if self.gate is not None:
                await self.gate.wait()
            if self.refusal is not None:
                raise self.refusal
            for event in self._events(request):
                if self.pause_s:
                    await asyncio.sleep(self.pause_s)
                self.events_given += 1
                yield event
                if self.events_given % 64 == 0:
                    await asyncio.sleep(0)
            complete = True
        finally:
            self.running -= 1
            self.closed_early += not complete
            self.closed.set()

    def _events(self, request: GenerationRequest) -> list[GenerationEvent]:
        events: list[GenerationEvent] = []
        if request.score_prompt:
            events.append(PromptScored(tuple(sampled(request, token) for token in request.prompt[1:])))
        total = 0
        for sequence in range(request.sequences):
            answer = self.answer if isinstance(self.answer, str) else self.answer(request, sequence)
            tokens, reason, detail = self._tokens(request, answer)
            for first in range(0, len(tokens), self.step):
                piece = tuple(sampled(request, token) for token in tokens[first : first + self.step])
                events.append(TokensEmitted(sequence, first, piece))
            events.append(SequenceFinished(sequence, reason, len(tokens), detail))
            total += len(tokens)
        if self.fails_after is not None:
            events[self.fails_after :] = [SequenceFinished(0, "failed", 0, "the worker is lost")]
        return [*events, RequestFinished(len(request.prompt), 3, total)]

    def _tokens(self, request: GenerationRequest, answer: str) -> tuple[list[int], str, str]:
        """What a worker would emit: up to the stop string, the end token or the limit."""
        output = answer.encode()
        ends = [(output.find(stop) + len(stop), stop) for stop in request.stop if stop in output]
        tokens, reason, detail = [*output, END], self.reason, ""
        if ends:
            end, stop = min(ends)
            tokens, reason, detail = list(output[:end]), "stop_string", stop.decode()
        if END not in request.stop_tokens and not ends:
            tokens.pop()
        if len(tokens) > request.tokens_max:
            tokens, reason, detail = tokens[: request.tokens_max], "length", ""
        return tokens, reason, detail

    async def status(self) -> dict[str, object]:
        worker = {
            "name": "prefill-0",
            "role": "prefill",
            "engine": "native",
            "format": "int8",
            "pid": 4242,
            "state": "ready",
            "epoch": 1,
            "pages": {"free": 90, "held": 6, "cached": 4, "total": 100},
        }
        counts = {"queued": 1, "prefilling": 0, "transferring": 0, "decoding": 2}
        return {"workers": [worker], "requests": counts}

    async def trace(self, request_id: str) -> dict[str, object] | None:
        if request_id != "req-known":
            return None
        return {
            "id": request_id,
            "prefill_worker": "prefill-0",
            "decode_worker": "decode-0",
            "split": 496,
            "prompt_tokens": 512,
            "cached_tokens": 16,
            "output_tokens": 128,
            "handoff": {"pages": 31, "bytes_moved": 0, "duration_ms": 0.21},
            "ttft_ms": 180.5,
            "itl_ms": {"p50": 8.2, "p99": 11.0},
            "attempts": [{"prefill": "prefill-0", "decode": "decode-0", "outcome": "finished"}],
            "exact": True,
            "finish_reason": "stop_token",
            "reasons": ["prefill-0 is free and faster at 512 tokens"],
        }


def make_app(backend: FakeBackend | None = None, **settings: Any) -> App:
    return App(backend or FakeBackend(), {MODEL: ByteText()}, AppSettings(**settings))


class Reply:
    """What an ASGI app sent."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.chunks: list[bytes] = []
        self.ended = False

    @property
    def body(self) -> bytes:
        return b"".join(self.chunks)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[Any]:
        """The documents of a server-sent event stream; checks that it ends with [DONE]."""
        lines = self.body.decode().split("\n\n")
        assert lines[-1] == ""
        assert lines[-2] == "data: [DONE]", lines[-2:]
        assert all(line.startswith("data: ") for line in lines[:-1])
        return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


class Client:
    """Calls an app directly. `leave` is set to disconnect; `on_chunk` sees each body chunk sent."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.leave: asyncio.Event | None = None
        self.on_chunk: Callable[[bytes], Any] | None = None

    async def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        chunks: list[bytes] | None = None,
    ) -> Reply:
        if chunks is None:
            content = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
            chunks = [content]
        leave = self.leave or asyncio.Event()
        waiting = list(chunks)
        reply = Reply()

        async def receive() -> dict[str, Any]:
            if waiting:
                chunk = waiting.pop(0)
                return {"type": "http.request", "body": chunk, "more_body": bool(waiting)}
            await leave.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            if message["type"] == "http.response.start":
                assert reply.status == 0, "two heads"
                reply.status = message["status"]
                reply.headers = {name.decode(): value.decode() for name, value in message["headers"]}
                return
            assert not reply.ended, "body after the end"
            reply.chunks.append(message["body"])
            reply.ended = not message.get("more_body", False)
            if self.on_chunk is not None:
                await self.on_chunk(message["body"])

        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in (headers or {}).items()],
        }
        await asyncio.wait_for(self.app(scope, receive, send), 20)
        return reply

    async def post(self, path: str, body: Any, **headers: str) -> Reply:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.send("POST", path, body, named)

    async def get(self, path: str, **headers: str) -> Reply:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.send("GET", path, headers=named)


def call(app: App, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Reply:
    """One request in a loop of its own."""
    return asyncio.run(Client(app).send(method, path, body, headers))


def chat(app: App, **fields: Any) -> Reply:
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], **fields}
    return call(app, "POST", "/v1/chat/completions", body)


def completion(app: App, **fields: Any) -> Reply:
    return call(app, "POST", "/v1/completions", {"model": MODEL, "prompt": "Hi", **fields})


@contextlib.contextmanager
def served(make: Callable[[], App], drain_s: float = 5.0) -> Any:
    """A real server on a free port, in a thread with its own loop; yields (url, app, loop)."""
    started: dict[str, Any] = {}
    up = threading.Event()

    async def main() -> None:
        stop = asyncio.Event()
        app = make()
        loop = asyncio.get_running_loop()

        def listening(port: int) -> None:
            started.update(port=port, app=app, loop=loop, stop=stop)
            up.set()

        await serve(app, ServerSettings(port=0, drain_s=drain_s), stop, listening)

    def run() -> None:
        try:
            asyncio.run(main())
        except BaseException as error:
            started["error"] = error
            raise
        finally:
            up.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert up.wait(20)
    assert "error" not in started, started
    try:
        yield f"http://127.0.0.1:{started['port']}", started["app"], started["loop"]
    finally:
        started["loop"].call_soon_threadsafe(started["stop"].set)
        thread.join(30)
        assert not thread.is_alive(), "the server did not stop"
