"""The benchmarks' client against a bare HTTP server."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

Bench = Callable[[str], ModuleType]


def event(text: str, finish: str | None = None, **more: Any) -> str:
    return json.dumps({"choices": [{"index": 0, "text": text, "finish_reason": finish}]} | more)


USAGE = json.dumps({"choices": [], "usage": {"completion_tokens": 2}})


class Server(http.server.ThreadingHTTPServer):
    """Answers every POST with `status` and the events."""

    status = 200
    events: tuple[str, ...] = ()
    bodies: list[dict[str, Any]]


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.bodies.append(body)
        self.send_response(self.server.status)
        self.send_header("x-request-id", "req-1")
        self.end_headers()
        for one in self.server.events:
            self.wfile.write(f"data: {one}\n\n".encode())

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/v1/models" else 404)
        self.end_headers()
        self.wfile.write(json.dumps({"data": [{"id": "tiny"}]}).encode())

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing to standard error."""


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server(("127.0.0.1", 0), Handler)
    running.bodies = []
    thread = threading.Thread(target=running.serve_forever, daemon=True)
    thread.start()
    yield running
    running.shutdown()
    running.server_close()


def test_a_stream_is_timed_piece_by_piece(bench: Bench, server: Server) -> None:
    server.events = (event("a"), event(""), event("b"), event("", "length"), USAGE, "[DONE]")
    counts: list[int] = []
    answer = bench("client").Client(server.server_port).complete({"prompt": [1]}, counts.append)
    assert (answer.text, answer.finish_reason, answer.request_id) == ("ab", "length", "req-1")
    assert answer.usage == {"completion_tokens": 2}
    assert counts == [1, 2]
    assert len(answer.pieces_s) == 2
    assert answer.gaps_s == [answer.pieces_s[1] - answer.pieces_s[0]]
    assert answer.ttft_s == answer.pieces_s[0] - answer.sent_s > 0
    assert server.bodies == [{"prompt": [1], "stream": True, "stream_options": {"include_usage": True}}]


def test_errors_are_raised_with_their_words(bench: Bench, server: Server) -> None:
    client = bench("client").Client(server.server_port)
    server.events = (event("a"),)
    with pytest.raises(RuntimeError, match="broke off"):
        client.complete({})
    server.events = (event("a"), json.dumps({"error": {"message": "cut"}}))
    with pytest.raises(RuntimeError, match="cut"):
        client.complete({})
    server.status, server.events = 400, ("no such field",)
    with pytest.raises(RuntimeError, match=r"400.*no such field"):
        client.complete({})


def test_documents(bench: Bench, server: Server) -> None:
    client = bench("client").Client(server.server_port)
    assert client.model() == "tiny"
    with pytest.raises(RuntimeError, match="404"):
        client.status()


def test_random_prompts_are_fixed_by_their_seed(bench: Bench) -> None:
    random_prompt = bench("client").random_prompt
    assert random_prompt(20, 1) == random_prompt(20, 1)
    assert len({random_prompt(1, seed)[0] for seed in range(50)}) > 45
