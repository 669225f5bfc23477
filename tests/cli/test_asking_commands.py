"""The commands that only ask a running server: chat, status, trace; and the table of commands."""

import io
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from api_fakes import MODEL, FakeBackend, make_app, served

from diptych.api.generation import GenerationRefused
from diptych.cli import COMMANDS, main

NOBODY = "http://127.0.0.1:9"
"""The discard port: nothing listens there."""


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend("Hello, wörld!")


@pytest.fixture
def url(backend: FakeBackend) -> Iterator[str]:
    with served(lambda: make_app(backend)) as (address, _, _):
        yield address


Output = pytest.CaptureFixture[str]


def test_status_as_json_is_the_document(url: str, capsys: Output) -> None:
    assert main(["status", "--url", url, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document) == {"workers", "requests"}
    assert document["workers"][0]["pages"] == {"free": 90, "held": 6, "cached": 4, "total": 100}


def test_status_for_people(url: str, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["status", "--url", url]) == 0
    shown = capsys.readouterr().out
    for word in ("prefill-0", "native:int8", "cached", "4242", "ready", "100", "2 decoding", "1 queued"):
        assert word in shown


def test_trace(url: str, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    assert main(["trace", "req-known", "--url", url, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["handoff"]["bytes_moved"] == 0
    assert main(["trace", "req-known", "--url", url]) == 0
    shown = capsys.readouterr().out
    for word in ("decode-0", "496", "pages 31", "p50 8.2", "yes", "faster at 512"):
        assert word in shown


def test_trace_of_an_unknown_request(url: str, capsys: Output) -> None:
    assert main(["trace", "req/other?", "--url", url]) == 4
    assert "req/other?" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["status"], ["trace", "x"], ["chat", "hi"]])
def test_a_server_that_is_not_there(arguments: list[str], capsys: Output) -> None:
    assert main([*arguments, "--url", NOBODY]) == 3
    assert "diptych serve" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["nonsense"],
        ["trace"],
        ["status", "--url", "here"],
        ["status", "--url", "http://x:y"],
        ["chat", "--nope"],
    ],
)
def test_wrong_usage(arguments: list[str], capsys: Output) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: diptych" in capsys.readouterr().err


def test_help_lists_the_commands(capsys: Output) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert all(name in shown and summary in shown for name, summary in COMMANDS.items())
    assert "exit codes" in shown


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_has_help(name: str, capsys: Output) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    assert ended.value.code == 0
    assert "exit codes" in capsys.readouterr().out


def test_asking_loads_no_engines(url: str) -> None:
    """Runs in a fresh interpreter: what is imported is what makes a command slow."""
    program = (
        "import sys; from diptych.cli import main; code = main(sys.argv[1:]);"
        "loaded = {'numpy', 'torch', 'tokenizers', 'granian', 'msgspec', 'gguf'} & set(sys.modules);"
        "assert not loaded, loaded; sys.exit(code)"
    )
    for arguments in (["status"], ["trace", "req-known"], ["chat", "Hi"]):
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments, "--url", url], capture_output=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, b"")


def test_one_answer(url: str, backend: FakeBackend, capsys: Output) -> None:
    options = ["--system", "Be brief.", "--max-tokens", "50", "--temperature", "0", "--seed", "3"]
    assert main(["chat", "How", "are you?", "--url", url, *options]) == 0
    shown = capsys.readouterr().out
    assert "Hello, wörld!" in shown
    assert "TTFT" in shown
    assert "15 tokens" in shown
    assert "tok/s" in shown
    [request] = backend.requests
    assert bytes(request.prompt) == b"<system>Be brief.\n<user>How are you?\n<assistant>"
    assert (request.tokens_max, request.sampling.temperature, request.sampling.seed) == (50, 0, 3)


def test_one_answer_as_json(url: str, capsys: Output) -> None:
    assert main(["chat", "Hi", "--url", url, "--json", "--model", MODEL]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["text"] == "Hello, wörld!"
    assert answer["finish_reason"] == "stop"
    assert answer["output_tokens"] == 15
    assert answer["ttft_ms"] > 0


def test_a_conversation_remembers(
    url: str, backend: FakeBackend, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("one\n\ntwo\n/exit\nthree\n"))
    assert main(["chat", "--url", url, "--json"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    first, second = (bytes(request.prompt).decode() for request in backend.requests)
    assert first == "<user>one\n<assistant>"
    assert second == "<user>one\n<assistant>Hello, wörld!\n<user>two\n<assistant>"


def test_the_terminal_is_safe_from_the_model(url: str, backend: FakeBackend, capsys: Output) -> None:
    backend.answer = "a\x1b[2Jb\x9bc\x07 [bold]markup[/bold]\n\tend"
    assert main(["chat", "Hi", "--url", url]) == 0
    shown = capsys.readouterr().out
    assert "\x1b[2J" not in shown
    assert "\x9b" not in shown
    assert "\x07" not in shown
    assert "[bold]markup[/bold]" in shown


def test_chat_failures(url: str, backend: FakeBackend, capsys: Output) -> None:
    assert main(["chat", "Hi", "--url", url, "--model", "other"]) == 4
    assert MODEL in capsys.readouterr().err
    assert main(["chat", "Hi", "--url", url, "--temperature", "9"]) == 1
    assert "temperature" in capsys.readouterr().err
    backend.fails_after = 3
    assert main(["chat", "Hi", "--url", url]) == 1
    assert "the worker is lost" in capsys.readouterr().err
    backend.refusal = GenerationRefused("overloaded", "all full")
    assert main(["chat", "Hi", "--url", url]) == 1
    assert "all full" in capsys.readouterr().err


def test_api_keys(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    def make() -> Any:
        return make_app(api_keys={"secret": "t"})

    with served(make) as (url, _, _):
        assert main(["status", "--url", url]) == 1
        assert "API key" in capsys.readouterr().err
        assert main(["status", "--url", url, "--api-key", "secret"]) == 0
        monkeypatch.setenv("DIPTYCH_API_KEY", "secret")
        assert main(["status", "--url", url]) == 0


def test_a_server_that_speaks_something_else(capsys: Output) -> None:
    import http.server
    import threading

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>")

        def log_message(self, *arguments: Any) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        assert main(["status", "--url", f"http://127.0.0.1:{server.server_port}"]) == 1
        thread.join()
    assert "broke off" in capsys.readouterr().err
