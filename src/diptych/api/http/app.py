"""The ASGI application: reads a request, runs its operation, watches the client, sends the answer.

It knows nothing of the operations (`routes`) nor of the server that runs it (`server`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import msgspec

from diptych.api.errors import ApiError, ErrorKind, from_refusal
from diptych.api.generation import Backend, GenerationRefused
from diptych.api.http.asgi import (
    Answer,
    HttpRequest,
    Receive,
    Scope,
    Send,
    StreamAnswer,
    encode_headers,
    json_answer,
    read_body,
    read_head,
)
from diptych.api.http.auth import authenticate
from diptych.api.http.delivery import DeliveryLimits, Interruption, deliver
from diptych.api.http.metrics import Metrics, RequestTimer
from diptych.api.http.routes import Dialect, Route, dialect_of, find_route
from diptych.api.service import Call, Service
from diptych.api.text.machinery import TextModels

__all__ = ["App", "AppSettings"]

_LOG = logging.getLogger("diptych.api")


class AppSettings(msgspec.Struct, frozen=True, kw_only=True):
    body_bytes_max: int = 8 << 20
    """Largest request body."""
    body_timeout_s: float = 60.0
    """Longest time a client may take to send its body."""
    delivery: DeliveryLimits = DeliveryLimits()
    """What a slow reader may cost."""
    api_keys: Mapping[str, str] = {}
    """Bearer key to tenant; empty: no key is asked for."""


class App:
    """ASGI 3 application over a fleet (`backend`) and the text machinery of its models (`texts`)."""

    def __init__(
        self,
        backend: Backend,
        texts: TextModels,
        settings: AppSettings | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self.settings = settings or AppSettings()
        self.metrics = metrics or Metrics()
        self._service = Service(backend, texts, self.metrics, lambda: self._accepting)
        self._accepting = True
        self._live: dict[str, Interruption] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def in_flight(self) -> int:
        return len(self._live)

    def stop_accepting(self) -> None:
        """From now on new requests get 503; `/health`, `/ready` and `/metrics` still answer."""
        self._accepting = False

    def cut(self) -> None:
        """Ends all requests that run: streams with an error frame, the others with 503."""
        error = ApiError(ErrorKind.STOPPING, "The server is stopping.", retry_after_ms=1000)
        for interruption in tuple(self._live.values()):
            interruption.set(error)

    async def wait_idle(self) -> None:
        """Returns when no request is in flight."""
        await self._idle.wait()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            # Granian's lifespan-free interface sends nothing else; other servers go on without.
            raise NotImplementedError(f"ASGI scope type {scope['type']} is not served")
        request = read_head(scope, self._live.__contains__)
        interruption = Interruption()
        self._live[request.request_id] = interruption
        self._idle.clear()
        timer = RequestTimer(self.metrics)
        self.metrics.in_flight.inc()
        exchange = _Exchange(self, request, receive, send, interruption, timer)
        try:
            await exchange.run()
        finally:
            self.metrics.in_flight.dec()
            timer.finished(exchange.route_name, exchange.status)
            del self._live[request.request_id]
            if not self._live:
                self._idle.set()

    def admit(self, request: HttpRequest, route: Route) -> str:
        """The tenant of a request that may be served. Raises `ApiError`."""
        if route.open:
            return ""
        if not self._accepting:
            raise ApiError(ErrorKind.STOPPING, "The server is stopping.", retry_after_ms=1000)
        return authenticate(request, self.settings.api_keys)

    async def handle(self, route: Route, call: Call, dialect: Dialect) -> Answer | StreamAnswer:
        """The operation's answer; every failure becomes the dialect's error."""
        try:
            return await route.handler(call, route.argument)
        except ApiError as error:
            return error_answer(error, dialect)
        except GenerationRefused as refusal:
            # Status and trace ask the fleet too, which may have nobody to answer.
            return error_answer(from_refusal(refusal, ready=self._service.backend.ready()), dialect)
        except Exception:
            _LOG.exception("Request %s failed", call.http.request_id)
            return error_answer(ApiError(ErrorKind.FAILED, "Internal server error."), dialect)

    def call(self, request: HttpRequest, timer: RequestTimer, tenant: str) -> Call:
        return Call(self._service, request, timer, tenant)


def error_answer(error: ApiError, dialect: Dialect) -> Answer:
    wire = dialect.error(error)
    return json_answer(wire.body, wire.status, wire.headers)


# What a log shows for a client that left before its answer began, as nginx does.
_STATUS_CLIENT_GONE = 499


class _Exchange:
    """One request and its answer."""

    def __init__(
        self,
        app: App,
        request: HttpRequest,
        receive: Receive,
        send: Send,
        interruption: Interruption,
        timer: RequestTimer,
    ) -> None:
        self._app = app
        self._request = request
        self._receive = receive
        self._send = send
        self._interruption = interruption
        self._timer = timer
        self._dialect = dialect_of(request)
        self.route_name = "unknown"
        self.status = _STATUS_CLIENT_GONE

    async def run(self) -> None:
        try:
            route = find_route(self._request)
            self.route_name = route.name
            call = await self._admitted(route)
        except ApiError as error:
            await self._reply(error_answer(error, self._dialect))
            return
        except ConnectionResetError:
            self._app.metrics.disconnected.inc()
            return
        watch = asyncio.create_task(self._watch())
        try:
            await self._work(route, call)
        finally:
            watch.cancel()

    async def _admitted(self, route: Route) -> Call:
        request = self._request
        tenant = self._app.admit(request, route)
        if route.method == "POST":
            settings = self._app.settings
            body = await read_body(request, self._receive, settings.body_bytes_max, settings.body_timeout_s)
            request = msgspec.structs.replace(request, body=body)
        return self._app.call(request, self._timer, tenant)

    async def _watch(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self._interruption.set(None)

    async def _work(self, route: Route, call: Call) -> None:
        happened = self._interruption.happened
        work = asyncio.create_task(self._app.handle(route, call, self._dialect))
        try:
            futures: set[asyncio.Future[Any]] = {work, happened}
            await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not work.done():
                work.cancel()
                await asyncio.wait({work})
        if not work.cancelled():
            await self._reply(work.result())
        elif (error := happened.result()) is not None:
            await self._reply(error_answer(error, self._dialect))
        else:
            self._app.metrics.disconnected.inc()

    async def _reply(self, answer: Answer | StreamAnswer) -> None:
        identity = [(name, self._request.request_id) for name in self._dialect.id_headers]
        headers = [*answer.headers, *identity]
        if isinstance(answer, StreamAnswer):
            self.status = 200
            await self._stream(answer, headers)
            return
        self.status = answer.status
        headers.append(("content-length", str(len(answer.body))))
        await self._send(
            {"type": "http.response.start", "status": answer.status, "headers": encode_headers(headers)}
        )
        body = b"" if self._request.method == "HEAD" else answer.body
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def _stream(self, answer: StreamAnswer, headers: list[tuple[str, str]]) -> None:
        outcome = await deliver(answer, headers, self._send, self._interruption, self._app.settings.delivery)
        if outcome.client_gone:
            self._app.metrics.disconnected.inc()
        elif outcome.error is not None and outcome.error.kind is ErrorKind.SLOW_READER:
            self._app.metrics.slow_readers.inc()
