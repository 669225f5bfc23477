"""A small client of a running server: streamed completions with the time of every piece, over http.client."""

from __future__ import annotations

import http.client
import json
import random
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any
from urllib.parse import quote

import msgspec

TIMEOUT_S = 120.0


class Answer(msgspec.Struct, kw_only=True):
    """One streamed completion; times are of `time.monotonic`, in seconds."""

    request_id: str
    sent_s: float
    text: str = ""
    pieces_s: list[float] = []
    """When each piece of text came; one token each unless a token ends within a character."""
    finish_reason: str | None = None
    usage: dict[str, Any] = {}

    @property
    def ttft_s(self) -> float:
        """From sending the request to the first piece of text."""
        return self.pieces_s[0] - self.sent_s

    @property
    def gaps_s(self) -> list[float]:
        return [after - before for before, after in pairwise(self.pieces_s)]


class Client:
    """Raises `OSError`, `http.client.HTTPException`, or `RuntimeError` naming what the server said."""

    def __init__(self, port: int) -> None:
        self.port = port

    def get(self, path: str) -> Any:
        connection = self._connection()
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        if response.status != 200:
            raise RuntimeError(f"{path}: {response.status} {body.decode(errors='replace')}")
        return json.loads(body)

    def model(self) -> str:
        name: str = self.get("/v1/models")["data"][0]["id"]
        return name

    def status(self) -> dict[str, Any]:
        document: dict[str, Any] = self.get("/diptych/status")
        return document

    def trace(self, request_id: str) -> dict[str, Any]:
        document: dict[str, Any] = self.get(f"/diptych/trace/{quote(request_id, safe='')}")
        return document

    def complete(
        self,
        body: dict[str, Any],
        on_piece: Callable[[int], None] = lambda count: None,
    ) -> Answer:
        """Streams one completion to its end; `on_piece` hears the count after each piece."""
        wanted = body | {"stream": True, "stream_options": {"include_usage": True}}
        connection = self._connection()
        try:
            sent_s = time.monotonic()
            connection.request(
                "POST", "/v1/completions", json.dumps(wanted), {"content-type": "application/json"}
            )
            response = connection.getresponse()
            if response.status != 200:
                raise RuntimeError(f"{response.status} {response.read().decode(errors='replace')}")
            answer = Answer(request_id=response.headers.get("x-request-id", ""), sent_s=sent_s)
            for line in iter(response.readline, b""):
                if line.startswith(b"data: ") and take_event(answer, line[6:].strip()):
                    on_piece(len(answer.pieces_s))
        finally:
            connection.close()
        if answer.finish_reason is None:
            raise RuntimeError(f"{answer.request_id}: the stream broke off")
        return answer

    def _connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)


def take_event(answer: Answer, data: bytes) -> bool:
    """Adds one event's data to the answer; whether it brought text. Raises `RuntimeError` on an error."""
    if data == b"[DONE]":
        return False
    event = json.loads(data)
    if "error" in event:
        raise RuntimeError(f"{answer.request_id}: {event['error']}")
    answer.usage = event.get("usage") or answer.usage
    text = ""
    for choice in event["choices"]:
        text += choice["text"]
        answer.finish_reason = choice["finish_reason"] or answer.finish_reason
    answer.text += text
    if text:
        answer.pieces_s.append(time.monotonic())
    return bool(text)


def random_prompt(length: int, seed: int) -> list[int]:
    """Token ids that no other seed's prompt begins with, so no cached page is hit. They lie in the middle
    of the embedded model's vocabulary: no special token, words only."""
    generator = random.Random(seed)
    return [generator.randrange(1000, 40000) for _ in range(length)]
