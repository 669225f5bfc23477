import asyncio
import time
from typing import Any

import pytest
from api_fakes import CONTEXT, MODEL, ByteText, Client, FakeBackend, call, chat, make_app

from diptych.api.generation import GenerationRefused
from diptych.api.http.app import App
from diptych.api.http.delivery import DeliveryLimits

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}


def test_models() -> None:
    app = make_app()
    [model] = call(app, "GET", "/v1/models").json["data"]
    assert model["id"] == MODEL
    assert model["object"] == "model"
    for path in ("/v1/models/org%2Ffake-1%3A0", "/v1/models/org/fake-1:0", "/openai/v1/models/org/fake-1:0"):
        assert call(app, "GET", path).json == model
    reply = call(app, "GET", "/v1/models/other")
    assert (reply.status, reply.json["error"]["code"]) == (404, "model_not_found")


def test_a_model_without_text_is_not_offered() -> None:
    app = App(FakeBackend(), {"another": ByteText()})
    assert call(app, "GET", "/v1/models").json["data"] == []
    assert chat(app).status == 404


def test_health_and_readiness() -> None:
    backend = FakeBackend()
    app = make_app(backend)
    assert call(app, "GET", "/health").status == 200
    assert call(app, "GET", "/ready").status == 200
    backend.is_ready = False
    assert call(app, "GET", "/health").status == 200
    assert call(app, "GET", "/ready").status == 503


def test_status_and_trace() -> None:
    app = make_app()
    assert call(app, "GET", "/diptych/status").json["workers"][0]["name"] == "prefill-0"
    assert call(app, "GET", "/diptych/trace/req-known").json["split"] == 496
    reply = call(app, "GET", "/diptych/trace/req-other")
    assert (reply.status, reply.json["error"]["code"]) == (404, "not_found")


def test_a_fleet_that_cannot_say_its_status() -> None:
    class Lost(FakeBackend):
        async def status(self) -> dict[str, object]:
            raise GenerationRefused("unavailable", "control is starting again")

    reply = call(make_app(Lost()), "GET", "/diptych/status")
    assert (reply.status, reply.json["error"]["message"]) == (503, "control is starting again")


def test_unknown_routes_and_methods() -> None:
    app = make_app()
    for path in ("/", "/v1", "/v1/chat", "/v2/models", "/diptych/trace", "//", "/%"):
        reply = call(app, "GET", path)
        assert (reply.status, reply.json["error"]["type"]) == (404, "invalid_request_error")
        assert reply.headers["x-request-id"].startswith("req-")
    reply = call(app, "GET", CHAT)
    assert (reply.status, reply.json["error"]["code"]) == (405, "method_not_allowed")
    head = call(app, "HEAD", "/health")
    assert (head.status, head.body) == (200, b"")


def test_metrics() -> None:
    app = make_app(FakeBackend("Hello"))
    chat(app, n=2)
    chat(app, stream=True)
    chat(app, n=0)
    lines = call(app, "GET", "/metrics").body.decode().splitlines()
    values = {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if line[0] != "#"}
    assert values['diptych_requests_total{route="/v1/chat/completions",status="200"}'] == 2
    assert values['diptych_requests_total{route="/v1/chat/completions",status="400"}'] == 1
    assert values["diptych_time_to_first_token_seconds_count"] == 2
    assert values["diptych_inter_token_seconds_count"] == 3 * 5
    assert values["diptych_output_tokens_total"] == 3 * 6
    assert values["diptych_cached_prompt_tokens_total"] == 2 * 3
    assert values["diptych_prompt_tokens_total"] == 2 * len(b"<user>Hi\n<assistant>")
    assert values['diptych_request_seconds_count{route="/v1/chat/completions"}'] == 3
    assert values["diptych_requests_in_flight"] == 1
    assert values["diptych_clients_gone_total"] == 0


def test_api_keys() -> None:
    backend = FakeBackend()
    app = make_app(backend, api_keys={"secret": "tenant-a", "other": "tenant-b"})
    for given in (None, "Bearer wrong", "Bearer", "secret", "Basic secret", "Bearer s\u00e9cret"):
        headers = {} if given is None else {"authorization": given}
        reply = call(app, "POST", CHAT, BODY, headers)
        assert (reply.status, reply.json["error"]["code"]) == (401, "invalid_api_key")
        reply = call(app, "POST", "/model/x/converse", BODY, headers)
        assert (reply.status, reply.headers["x-amzn-errortype"]) == (403, "AccessDeniedException")
        assert call(app, "GET", "/diptych/status", headers=headers).status == 401
    assert backend.requests == []
    assert call(app, "GET", "/health").status == 200
    assert call(app, "POST", CHAT, BODY, {"authorization": "Bearer other"}).status == 200
    assert backend.requests[0].tenant == "tenant-b"


def test_bodies_arrive_in_pieces() -> None:
    app = make_app()
    chunks = [b'{"model":"org/fake-1:0","mess', b"", b'ages":[{"role":"user","content":"x"}]}']
    assert asyncio.run(Client(app).send("POST", CHAT, chunks=chunks)).status == 200


def test_bodies_have_a_limit() -> None:
    backend = FakeBackend()
    app = make_app(backend, body_bytes_max=1000)
    for path, status in ((CHAT, 413), ("/model/x/converse", 413)):
        for size in (1001, 3000, 100_000):
            chunks = [b"x" * 500] * (size // 500) + [b"x"]
            reply = asyncio.run(Client(app).send("POST", path, chunks=chunks))
            assert reply.status == status
            assert "1000" in (reply.json.get("message") or reply.json["error"]["message"])
    declared = {"content-length": "99999999999999999999999"}
    assert call(app, "POST", CHAT, b"x", declared).status == 413


def test_a_body_that_never_comes() -> None:
    async def main() -> int:
        status = 0

        async def receive() -> Any:
            await asyncio.sleep(3600)

        async def send(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)

        scope = {"type": "http", "method": "POST", "path": CHAT, "raw_path": CHAT.encode(), "headers": []}
        await make_app(body_timeout_s=0.01)(scope, receive, send)
        return status

    assert asyncio.run(main()) == 408


def test_a_client_that_leaves_in_its_body() -> None:
    async def main() -> None:
        async def receive() -> Any:
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            raise AssertionError("nobody is there")

        scope = {"type": "http", "method": "POST", "path": CHAT, "raw_path": CHAT.encode(), "headers": []}
        app = make_app()
        await app(scope, receive, send)
        assert app.in_flight == 0

    asyncio.run(main())


CALLS = [
    (CHAT, {**BODY, "stream": True}),
    (CHAT, BODY),
    ("/v1/completions", {"model": MODEL, "prompt": ["a", "b", "c"], "stream": True}),
    ("/v1/completions", {"model": MODEL, "prompt": ["a", "b", "c"]}),
    ("/model/org%2Ffake-1:0/converse-stream", {"messages": [{"role": "user", "content": [{"text": "x"}]}]}),
    ("/model/org%2Ffake-1:0/converse", {"messages": [{"role": "user", "content": [{"text": "x"}]}]}),
]


@pytest.mark.parametrize(("path", "body"), CALLS)
def test_a_client_that_leaves_while_waiting_ends_the_generation(path: str, body: Any) -> None:
    async def main() -> None:
        backend = FakeBackend()
        backend.gate = asyncio.Event()
        app = make_app(backend)
        client = Client(app)
        client.leave = asyncio.Event()
        task = asyncio.create_task(client.post(path, body))
        prompts = 3 if "prompt" in body else 1
        while backend.running < prompts:
            await asyncio.sleep(0)
        client.leave.set()
        reply = await task
        assert reply.status == 0
        assert (backend.running, backend.closed_early) == (0, prompts)
        assert app.in_flight == 0

    asyncio.run(main())


@pytest.mark.parametrize(("path", "body"), [call for call in CALLS if "stream" in call[0] + str(call[1])])
def test_a_client_that_leaves_in_mid_stream_ends_the_generation(path: str, body: Any) -> None:
    async def main() -> None:
        backend = FakeBackend("x" * 1000)
        backend.pause_s = 0.001
        client = Client(make_app(backend))
        client.leave = leave = asyncio.Event()

        async def on_chunk(chunk: bytes) -> None:
            if len(chunks) == 3:
                leave.set()
            chunks.append(chunk)

        chunks: list[bytes] = []
        client.on_chunk = on_chunk
        await client.post(path, {**body, "max_tokens": 1000})
        assert backend.running == 0
        assert backend.closed_early >= 1
        assert backend.events_given < 1000

    asyncio.run(main())


@pytest.mark.parametrize("path", [CHAT, "/model/org%2Ffake-1:0/converse-stream"])
def test_a_slow_reader_is_cut_and_told_so(path: str) -> None:
    async def main() -> None:
        backend = FakeBackend("x" * 4000)
        app = make_app(backend, delivery=DeliveryLimits(buffer_bytes=20_000))
        client = Client(app)
        reading = asyncio.Event()

        async def on_chunk(chunk: bytes) -> None:
            await reading.wait()

        client.on_chunk = on_chunk
        content = [{"text": "x"}] if "converse" in path else "x"
        body = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": content}]}
        task = asyncio.create_task(client.post(path, body))
        while not backend.closed.is_set():
            await asyncio.sleep(0.001)
        assert (backend.running, backend.closed_early) == (0, 1)
        assert backend.events_given < 4000
        # Another client is served meanwhile.
        assert (await Client(app).post(CHAT, BODY)).status == 200
        reading.set()
        reply = await task
        assert reply.ended
        assert b"not read fast enough" in reply.chunks[-2]
        assert 10_000 < len(reply.body) < 60_000
        exposed, _ = app.metrics.expose("")
        assert b"diptych_slow_readers_cut_total 1.0" in exposed

    asyncio.run(main())


def test_a_reader_that_stalls_is_cut_though_little_waits_for_it() -> None:
    async def main() -> None:
        backend = FakeBackend("x" * 4000)
        backend.pause_s = 0.02
        app = make_app(backend, delivery=DeliveryLimits(stall_s=0.05))
        client = Client(app)

        async def on_chunk(chunk: bytes) -> None:
            await asyncio.Event().wait()

        client.on_chunk = on_chunk
        started = time.monotonic()
        reply = await client.post(CHAT, {**BODY, "stream": True})
        assert not reply.ended
        assert backend.running == 0
        assert backend.events_given < 1000
        assert time.monotonic() - started < 15
        assert app.in_flight == 0

    asyncio.run(main())


def test_small_frames_travel_together_when_the_reader_is_behind() -> None:
    async def main() -> None:
        backend = FakeBackend("x" * 2000)
        client = Client(make_app(backend))
        sizes: list[int] = []

        async def on_chunk(chunk: bytes) -> None:
            sizes.append(len(chunk))
            await asyncio.sleep(0.002)

        client.on_chunk = on_chunk
        reply = await client.post(CHAT, {**BODY, "stream": True})
        assert len(reply.events) == 2002
        assert len(sizes) < 1000
        assert max(sizes) <= 16384

    asyncio.run(main())


def test_stopping_in_order() -> None:
    async def main() -> None:
        backend = FakeBackend("x" * 1000)
        backend.pause_s = 0.005
        app = make_app(backend)
        client = Client(app)
        stream = asyncio.create_task(client.post(CHAT, {**BODY, "stream": True}))
        whole = asyncio.create_task(client.post(CHAT, BODY))
        while backend.events_given < 10:
            await asyncio.sleep(0.001)
        app.stop_accepting()
        refused = await client.post(CHAT, BODY)
        assert refused.status == 503
        assert "retry-after" in refused.headers
        assert (await client.get("/ready")).status == 503
        assert (await client.get("/health")).status == 200
        app.cut()
        await app.wait_idle()
        reply = await stream
        assert reply.ended
        assert b"The server is stopping" in reply.body
        assert b"[DONE]" not in reply.body
        assert (await whole).status == 503
        assert backend.running == 0

    asyncio.run(main())


def test_a_backend_that_breaks_is_500_in_the_dialects_shape() -> None:
    class Broken(FakeBackend):
        def generate(self, request: Any) -> Any:
            raise ZeroDivisionError

    app = make_app(Broken())
    assert chat(app).json["error"]["type"] == "server_error"
    reply = call(
        app,
        "POST",
        "/model/org%2Ffake-1:0/converse",
        {"messages": [{"role": "user", "content": [{"text": "x"}]}]},
    )
    assert (reply.status, reply.headers["x-amzn-errortype"]) == (500, "InternalServerException")
    assert "Zero" not in reply.json["message"]


def test_long_prompts_do_not_hold_up_others() -> None:
    class Slow(ByteText):
        def encode_chat(self, messages: Any) -> Any:
            if len(messages[0].content) > 10_000:
                time.sleep(0.3)
            return super().encode_chat(messages)

    async def main() -> None:
        client = Client(App(FakeBackend(), {MODEL: Slow()}))
        long = {"model": MODEL, "messages": [{"role": "user", "content": "x" * 20_000}]}
        slow = asyncio.create_task(client.post(CHAT, long))
        await asyncio.sleep(0.05)
        assert (await client.get("/health")).status == 200
        assert not slow.done()
        reply = await slow
        assert (reply.status, reply.json["error"]["code"]) == (400, "context_length_exceeded")
        assert str(CONTEXT) in reply.json["error"]["message"]

    asyncio.run(main())
