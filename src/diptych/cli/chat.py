"""`diptych chat`: talk to a served model in the terminal.

With a message, one answer; without, a conversation, line by line, until end of input or `/exit`.
Exit codes: 0 ok, 1 failure, 2 wrong usage, 3 not reachable, 4 no such model.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.markup import escape

from diptych.cli.server_link import EXIT_NOT_FOUND, LinkError, ServerLink, add_link_options

__all__ = ["add_parser", "run"]

_EPILOG = "exit codes: 0 ok, 1 failure, 2 wrong usage, 3 server not reachable, 4 no such model"
# What a model writes must not move the cursor or set the clipboard: no control characters but these two.
_CONTROLS = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "chat",
        help="talk to a served model in the terminal",
        description="Talk to a served model. With MESSAGE, one answer; without, a conversation.",
        epilog=_EPILOG,
    )
    parser.add_argument("message", nargs="*", metavar="MESSAGE", help="what to say")
    add_link_options(parser)
    parser.add_argument("--model", help="model name (default: the first one served)")
    parser.add_argument("--system", help="system message")
    parser.add_argument("--max-tokens", type=int, help="most output tokens of an answer")
    parser.add_argument("--temperature", type=float, help="0 is greedy (default 1)")
    parser.add_argument("--seed", type=int, help="for a repeatable answer")
    parser.add_argument("--json", action="store_true", help="answers as JSON lines, for programs")


@dataclass(frozen=True, kw_only=True)
class Answer:
    text: str
    finish_reason: str | None
    prompt_tokens: int
    output_tokens: int
    ttft_ms: float | None
    """From sending the request to the first text; None where there was no text."""
    tokens_per_s: float | None
    """After the first token."""


def run(arguments: argparse.Namespace) -> int:
    link = ServerLink(arguments.url, arguments.api_key)
    console = Console(highlight=False)
    messages: list[dict[str, str]] = []
    if arguments.system:
        messages.append({"role": "system", "content": arguments.system})
    try:
        model = arguments.model or _first_model(link)
        if arguments.message:
            _turn(link, console, arguments, model, messages, " ".join(arguments.message))
        else:
            _converse(link, console, arguments, model, messages)
    except LinkError as error:
        print(f"diptych chat: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def _first_model(link: ServerLink) -> str:
    models = link.get("/v1/models")["data"]
    if not models:
        raise LinkError("The server has no model to talk to.", EXIT_NOT_FOUND)
    return str(models[0]["id"])


def _converse(
    link: ServerLink,
    console: Console,
    arguments: argparse.Namespace,
    model: str,
    messages: list[dict[str, str]],
) -> None:
    talking = sys.stdin.isatty() and not arguments.json
    if talking:
        console.print(f"[dim]{escape(model)}; /exit or end of input to leave[/]")
    while True:
        try:
            line = console.input("[bold]> [/]") if talking else sys.stdin.readline()
        except EOFError:
            return
        if line == "" and not talking:
            return
        said = line.strip()
        if said == "/exit":
            return
        if said:
            _turn(link, console, arguments, model, messages, said)


def _turn(
    link: ServerLink,
    console: Console,
    arguments: argparse.Namespace,
    model: str,
    messages: list[dict[str, str]],
    said: str,
) -> None:
    """One question and its answer, which become part of the conversation."""
    messages.append({"role": "user", "content": said})
    body: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    for name in ("max_tokens", "temperature", "seed"):
        if getattr(arguments, name) is not None:
            body[name] = getattr(arguments, name)
    answer = _ask(link, body, None if arguments.json else console)
    messages.append({"role": "assistant", "content": answer.text})
    if arguments.json:
        print(json.dumps(vars(answer)), flush=True)
        return
    console.print(f"\n[dim]{_figures(answer)}[/]")


def _ask(link: ServerLink, body: dict[str, Any], console: Console | None) -> Answer:
    """Streams one answer, onto the console where there is one. Raises `LinkError`."""
    sent = time.perf_counter()
    first = last = None
    pieces: list[str] = []
    finish: str | None = None
    usage: dict[str, Any] = {}
    with closing(link.stream("/v1/chat/completions", body)) as documents:
        for document in documents:
            usage = document.get("usage") or usage
            for choice in document["choices"]:
                finish = choice["finish_reason"] or finish
                piece = choice["delta"].get("content")
                if not piece:
                    continue
                last = time.perf_counter()
                first = first or last
                pieces.append(piece)
                if console is not None:
                    shown = piece.translate(_CONTROLS)
                    console.print(shown, end="", markup=False, soft_wrap=True)
    output_tokens = usage.get("completion_tokens", 0)
    seconds = (last - first) if first is not None and last is not None else 0.0
    return Answer(
        text="".join(pieces),
        finish_reason=finish,
        prompt_tokens=usage.get("prompt_tokens", 0),
        output_tokens=output_tokens,
        ttft_ms=None if first is None else round((first - sent) * 1000, 1),
        tokens_per_s=round((output_tokens - 1) / seconds, 1) if output_tokens > 1 and seconds > 0 else None,
    )


def _figures(answer: Answer) -> str:
    parts = [] if answer.ttft_ms is None else [f"TTFT {answer.ttft_ms:.0f} ms"]
    parts.append(f"{answer.output_tokens} tokens")
    if answer.tokens_per_s is not None:
        parts.append(f"{answer.tokens_per_s:.1f} tok/s")
    if answer.finish_reason == "length":
        parts.append("cut at the limit")
    return " \u00b7 ".join(parts)
