"""HTTP to a running server, for commands that only ask. Plain `http.client`: quick to import."""

from __future__ import annotations

import argparse
import http.client
import json
import os
from collections.abc import Generator
from typing import Any
from urllib.parse import urlsplit

__all__ = [
    "DEFAULT_URL",
    "EXIT_FAILURE",
    "EXIT_NOT_FOUND",
    "EXIT_NOT_REACHABLE",
    "LinkError",
    "ServerLink",
    "add_link_options",
]

DEFAULT_URL = "http://127.0.0.1:8000"
API_KEY_VARIABLE = "DIPTYCH_API_KEY"
EXIT_FAILURE, EXIT_NOT_REACHABLE, EXIT_NOT_FOUND = 1, 3, 4
_TIMEOUT_S = 600.0


class LinkError(Exception):
    """A request that did not work; `exit_code` is what the command should end with."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def add_link_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--url", type=_url, default=DEFAULT_URL, help=f"address of the server (default {DEFAULT_URL})"
    )
    parser.add_argument(
        "--api-key",
        default=os.environ.get(API_KEY_VARIABLE),
        help=f"bearer key, where the server asks for one (default ${API_KEY_VARIABLE})",
    )


def _url(text: str) -> str:
    parts = urlsplit(text)
    try:
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not good:
        raise argparse.ArgumentTypeError(f"{text!r} is not a URL such as {DEFAULT_URL}")
    return text.rstrip("/")


class ServerLink:
    """One server. Every request has a connection of its own."""

    def __init__(self, url: str, api_key: str | None = None, timeout_s: float = _TIMEOUT_S) -> None:
        self._url = url
        self._parts = urlsplit(url)
        self._headers = {"content-type": "application/json"}
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"
        self._timeout_s = timeout_s

    def get(self, path: str) -> Any:
        """The JSON document at `path`. Raises `LinkError`."""
        connection = self._connection()
        try:
            response = self._answer(connection, "GET", path, None)
            return json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise LinkError(f"{self._url} broke off its answer: {error}", EXIT_FAILURE) from error
        finally:
            connection.close()

    def stream(self, path: str, body: dict[str, Any]) -> Generator[dict[str, Any], None, None]:
        """The documents of a server-sent event stream, as they come. Raises `LinkError`."""
        connection = self._connection()
        try:
            response = self._answer(connection, "POST", path, json.dumps(body).encode())
            ended = False
            for line in iter(response.readline, b""):
                if not line.startswith(b"data: "):
                    continue
                data = line.removeprefix(b"data: ").strip()
                if data == b"[DONE]":
                    ended = True
                    break
                document = json.loads(data)
                if "error" in document:
                    raise LinkError(_message(document), EXIT_FAILURE)
                yield document
            if not ended:
                raise LinkError(f"{self._url} broke off its answer.", EXIT_FAILURE)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise LinkError(f"{self._url} broke off its answer: {error}", EXIT_FAILURE) from error
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        secure = self._parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        return kind(self._parts.hostname or "", self._parts.port, timeout=self._timeout_s)

    def _answer(
        self, connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None
    ) -> http.client.HTTPResponse:
        try:
            connection.request(method, self._parts.path + path, body, self._headers)
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise LinkError(
                f"No server answers at {self._url} ({error}). Start one with 'diptych serve', or give --url.",
                EXIT_NOT_REACHABLE,
            ) from error
        if response.status == 200:
            return response
        code = EXIT_NOT_FOUND if response.status == 404 else EXIT_FAILURE
        try:
            message = _message(json.loads(response.read()))
        except ValueError:
            message = f"{self._url}{path} answered {response.status} {response.reason}."
        raise LinkError(message, code)


def _message(document: Any) -> str:
    error = document.get("error") if isinstance(document, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    return str(message or document)
