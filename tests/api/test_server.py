"""The real server with the real clients: openai, boto3, curl, and bare sockets that behave badly."""

import asyncio
import http.client
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import boto3
import openai
import pytest
from api_fakes import MODEL, FakeBackend, make_app, served
from botocore.config import Config
from botocore.exceptions import ClientError, EventStreamError

from diptych.api.generation import GenerationRefused
from diptych.api.http.app import App
from diptych.api.http.delivery import DeliveryLimits
from diptych.api.http.server import ServerSettings, serve

BODY: dict[str, Any] = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}


class Running:
    def __init__(self, url: str, app: App, backend: FakeBackend) -> None:
        self.url, self.app, self.backend = url, app, backend
        address = urlsplit(url)
        self.host, self.port = str(address.hostname), int(address.port or 0)

    def openai(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)

    def bedrock(self) -> Any:
        return boto3.client(
            "bedrock-runtime",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id="x",
            aws_secret_access_key="y",
            config=Config(retries={"total_max_attempts": 1}, read_timeout=20),
        )

    def post_and_hold(self, path: str, body: Any) -> socket.socket:
        """Sends a request on a bare connection with a small receive buffer, and reads nothing."""
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect((self.host, self.port))
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(content)}\r\n\r\n"
        connection.sendall(head.encode() + content)
        return connection


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend("Hello, wörld! €")


@pytest.fixture
def running(backend: FakeBackend) -> Iterator[Running]:
    with served(lambda: make_app(backend)) as (url, app, _):
        yield Running(url, app, backend)


def eventually(condition: Any, wait_s: float = 15) -> None:
    """Waits for what another thread does; fails loudly, not by time."""
    end = time.monotonic() + wait_s
    while not condition():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.002)


def test_openai_chat(running: Running) -> None:
    client = running.openai()
    answer = client.chat.completions.create(**BODY, seed=1, logprobs=True, top_logprobs=2)
    assert answer.choices[0].message.content == "Hello, wörld! €"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage is not None
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens == 3
    assert answer.choices[0].logprobs is not None
    assert answer.choices[0].logprobs.content is not None
    assert answer.choices[0].logprobs.content[0].token == "H"
    assert answer._request_id == running.backend.requests[0].request_id


def test_openai_chat_stream(running: Running) -> None:
    stream = running.openai().chat.completions.create(
        **BODY, stream=True, stream_options={"include_usage": True}, n=2, stop=["€"]
    )
    texts = ["", ""]
    usage = None
    for chunk in stream:
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.delta.content or ""
    assert texts == ["Hello, wörld! "] * 2
    assert usage is not None


def test_openai_stream_helper(running: Running) -> None:
    with running.openai().chat.completions.stream(**BODY) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == "Hello, wörld! €"


def test_openai_completions_and_models(running: Running) -> None:
    client = running.openai()
    answer = client.completions.create(
        model=MODEL, prompt=[[72, 105], [72]], echo=True, logprobs=1, max_tokens=1
    )
    assert [choice.text for choice in answer.choices] == ["HiH", "HH"]
    stream = client.completions.create(model=MODEL, prompt="a", stream=True, max_tokens=50)
    assert "".join(chunk.choices[0].text for chunk in stream) == "Hello, wörld! €"
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).id == MODEL


def test_openai_errors(running: Running) -> None:
    client = running.openai()
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="other", messages=BODY["messages"])
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(**BODY, temperature=5)
    assert bad.value.param == "temperature"
    running.backend.refusal = GenerationRefused("overloaded", "full", retry_after_ms=10)
    with pytest.raises(openai.RateLimitError):
        client.chat.completions.create(**BODY)
    running.backend.refusal = None
    running.backend.fails_after = 3
    with pytest.raises(openai.APIError, match="the worker is lost"):
        list(client.chat.completions.create(**BODY, stream=True))


def test_boto3_converse(running: Running) -> None:
    answer = running.bedrock().converse(
        modelId=MODEL,
        system=[{"text": "s"}],
        messages=[{"role": "user", "content": [{"text": "Hi"}]}],
        inferenceConfig={"maxTokens": 100, "temperature": 0.5, "stopSequences": ["€"]},
        additionalModelRequestFields={"top_k": 5},
        additionalModelResponseFieldPaths=["/stop_sequence"],
    )
    assert answer["output"]["message"]["content"] == [{"text": "Hello, wörld! "}]
    assert answer["stopReason"] == "stop_sequence"
    assert answer["additionalModelResponseFields"] == {"stop_sequence": "€"}
    assert answer["usage"]["cacheReadInputTokens"] == 3
    assert answer["ResponseMetadata"]["RequestId"] == running.backend.requests[0].request_id
    assert running.backend.requests[0].sampling.top_k == 5


def test_boto3_converse_stream(running: Running) -> None:
    request = {"modelId": MODEL, "messages": [{"role": "user", "content": [{"text": "Hi"}]}]}
    events = list(running.bedrock().converse_stream(**request)["stream"])
    texts = [event["contentBlockDelta"]["delta"]["text"] for event in events if "contentBlockDelta" in event]
    assert "".join(texts) == "Hello, wörld! €"
    assert events[0] == {"messageStart": {"role": "assistant"}}
    assert events[-1]["metadata"]["metrics"]["latencyMs"] >= 0
    running.backend.fails_after = 3
    with pytest.raises(EventStreamError, match="the worker is lost"):
        list(running.bedrock().converse_stream(**request)["stream"])


def test_boto3_errors(running: Running) -> None:
    client = running.bedrock()
    messages = [{"role": "user", "content": [{"text": "Hi"}]}]
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        client.converse(modelId="other", messages=messages)
    tool = {"toolSpec": {"name": "f", "inputSchema": {"json": {}}}}
    image = {"image": {"format": "png", "source": {"bytes": b"x"}}}
    with pytest.raises(client.exceptions.ValidationException, match="toolConfig"):
        client.converse(modelId=MODEL, messages=messages, toolConfig={"tools": [tool]})
    with pytest.raises(client.exceptions.ValidationException, match="image"):
        client.converse(modelId=MODEL, messages=[{"role": "user", "content": [image]}])
    running.backend.refusal = GenerationRefused("overloaded", "full")
    with pytest.raises(client.exceptions.ThrottlingException):
        client.converse_stream(modelId=MODEL, messages=messages)
    running.backend.is_ready = False
    running.backend.refusal = GenerationRefused("unavailable", "loading")
    with pytest.raises(ClientError) as loading:
        client.converse(modelId=MODEL, messages=messages)
    assert loading.value.response["Error"]["Code"] == "ModelNotReadyException"


CURL = shutil.which("curl")


@pytest.mark.skipif(CURL is None, reason="curl is not installed")
@pytest.mark.parametrize("version", ["--http1.1", "--http2-prior-knowledge"])
def test_both_protocols_on_one_port(running: Running, version: str) -> None:
    command = [str(CURL), "-sS", version, "-w", "%{http_version}", "-d", json.dumps({**BODY, "stream": True})]
    done = subprocess.run(
        [*command, f"{running.url}/v1/chat/completions"], capture_output=True, check=True, timeout=30
    )
    frames, _, spoken = done.stdout.decode().rpartition("data: [DONE]\n\n")
    assert spoken == ("2" if "2" in version else "1.1")
    events = [json.loads(frame.removeprefix("data: ")) for frame in frames.split("\n\n")[:-1]]
    deltas = [event["choices"][0]["delta"] for event in events]
    assert "".join(delta.get("content", "") for delta in deltas) == "Hello, wörld! €"


@pytest.mark.skipif(CURL is None, reason="curl is not installed")
@pytest.mark.parametrize("version", ["--http1.1", "--http2-prior-knowledge"])
@pytest.mark.parametrize("waiting", [True, False])
def test_a_client_that_goes_away_ends_its_generation(version: str, waiting: bool) -> None:
    backend = FakeBackend("x" * 4000)
    backend.pause_s = 3600 if waiting else 0.002
    with served(lambda: make_app(backend)) as (url, app, _):
        command = [str(CURL), "-sSN", version, "-d", json.dumps({**BODY, "stream": True})]
        with subprocess.Popen([*command, f"{url}/v1/chat/completions"], stdout=subprocess.PIPE) as curl:
            assert backend.started.wait(15)
            if not waiting:
                assert curl.stdout is not None
                assert curl.stdout.read(200)
            curl.kill()
        assert backend.closed.wait(15)
        assert (backend.running, backend.closed_early) == (0, 1)
        eventually(lambda: app.in_flight == 0)
        assert backend.events_given < 4000
        assert b"diptych_clients_gone_total 1.0" in app.metrics.expose("")[0]


def test_a_client_that_goes_away_before_a_whole_answer(running: Running) -> None:
    running.backend.pause_s = 3600
    connection = running.post_and_hold("/v1/chat/completions", BODY)
    assert running.backend.started.wait(15)
    connection.close()
    assert running.backend.closed.wait(15)
    assert running.backend.closed_early == 1


def test_a_slow_reader_is_cut_and_stalls_nobody() -> None:
    backend = FakeBackend(lambda request, sequence: "x" * 4000 if request.sequences > 1 else "short")
    with served(lambda: make_app(backend, delivery=DeliveryLimits(buffer_bytes=200_000))) as (url, app, _):
        running = Running(url, app, backend)
        # 128 choices of 4000 tokens are some 130 MB of frames, more than any socket buffer takes.
        slow = running.post_and_hold("/v1/chat/completions", {**BODY, "stream": True, "n": 128})
        answers = []
        for _ in range(20):
            answer = running.openai().chat.completions.create(**BODY)
            answers.append(answer.choices[0].message.content)
        assert answers == ["short"] * 20
        eventually(lambda: backend.closed_early == 1)
        given = backend.events_given
        assert given < 100_000
        # When it reads at last it gets what was buffered, then the error, then a clean end.
        slow.settimeout(30)
        received = b""
        while not received.endswith(b"0\r\n\r\n"):
            chunk = slow.recv(1 << 20)
            assert chunk, received[-300:]
            received = received[-400:] + chunk
        assert b"not read fast enough" in received
        assert b"[DONE]" not in received
        eventually(lambda: app.in_flight == 0)
        slow.close()


def test_body_too_large_over_the_wire(running: Running) -> None:
    for path in ("/v1/chat/completions", "/model/x/converse"):
        connection = http.client.HTTPConnection(running.host, running.port, timeout=30)
        connection.request("POST", path, b"x" * (9 << 20))
        response = connection.getresponse()
        assert response.status == 413
        assert "8388608" in response.read().decode()
        connection.close()


def test_connections_are_kept_alive(running: Running) -> None:
    connection = http.client.HTTPConnection(running.host, running.port, timeout=30)
    for stream in (False, True, False):
        connection.request("POST", "/v1/chat/completions", json.dumps({**BODY, "stream": stream}))
        response = connection.getresponse()
        assert response.status == 200
        assert response.read()
        local = connection.sock.getsockname() if connection.sock else None
    connection.request("GET", "/health")
    assert connection.getresponse().status == 200
    assert connection.sock is not None
    assert connection.sock.getsockname() == local
    assert b"diptych_clients_gone_total 0.0" in running.app.metrics.expose("")[0]


def test_the_port_is_taken_exclusively(running: Running) -> None:
    async def second() -> None:
        settings = ServerSettings(port=running.port)
        await serve(make_app(), settings, asyncio.Event())

    with pytest.raises(OSError, match="in use"):
        asyncio.run(second())


def test_stopping_lets_requests_end() -> None:
    backend = FakeBackend("x" * 200)
    backend.pause_s = 0.005
    texts: list[str] = []
    with served(lambda: make_app(backend)) as (url, app, _):
        client = Running(url, app, backend).openai()

        def ask() -> None:
            texts.append(client.chat.completions.create(**BODY).choices[0].message.content or "")

        thread = threading.Thread(target=ask)
        thread.start()
        assert backend.started.wait(15)
    thread.join(15)
    assert texts == ["x" * 200]


def test_stopping_cuts_what_does_not_end() -> None:
    backend = FakeBackend("x" * 200)
    backend.pause_s = 0.005
    with served(lambda: make_app(backend), drain_s=0.05) as (url, app, _):
        running = Running(url, app, backend)
        stream = iter(running.openai().chat.completions.create(**BODY, stream=True, max_tokens=4000))
        next(stream)
        backend.pause_s = 3600
    assert backend.running == 0
    with pytest.raises(openai.APIError, match="The server is stopping"):
        list(stream)


def test_stopping_does_not_wait_for_a_reader_that_sleeps() -> None:
    backend = FakeBackend("x" * 4000)
    with served(lambda: make_app(backend), drain_s=0.05) as (url, app, _):
        slow = Running(url, app, backend).post_and_hold(
            "/v1/chat/completions", {**BODY, "stream": True, "n": 128}
        )
        assert backend.started.wait(15)
    assert backend.running == 0
    slow.close()


def test_a_host_name_is_resolved() -> None:
    async def start_and_stop(host: str) -> int:
        stop = asyncio.Event()
        ports: list[int] = []

        def listening(port: int) -> None:
            ports.append(port)
            stop.set()

        await serve(make_app(), ServerSettings(host=host, port=0), stop, listening)
        return ports[0]

    assert asyncio.run(start_and_stop("localhost")) > 0
