"""The HTTP server: Granian, embedded in the running asyncio loop. HTTP/1.1 and h2c on one port.

Granian's own threads do the parsing and sleep while nothing comes in. What this module adds: the port is
taken exclusively (Granian binds with SO_REUSEPORT, so that a second server would silently share it), and
stopping in order: no new requests, time for those that run, a clean end for the rest.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress

import msgspec
from granian.constants import HTTPModes, Interfaces
from granian.server.embed import Server

from diptych.api.http.app import App

__all__ = ["ServerSettings", "serve"]

_START_S = 10.0
# Time for connections to close after their requests have ended; a client that never reads its last bytes
# would hold Granian for ever.
_CLOSE_S = 2.0


class ServerSettings(msgspec.Struct, frozen=True, kw_only=True):
    host: str = "127.0.0.1"
    """An IP address, or a name that resolves to one."""
    port: int = 8000
    """0: any free port."""
    drain_s: float = 30.0
    """How long running requests may go on after a stop is asked for."""
    connections_max: int = 4096


async def serve(
    app: App,
    settings: ServerSettings,
    stop: asyncio.Event,
    listening: Callable[[int], None] | None = None,
) -> None:
    """Serves `app` until `stop` is set and all is over. `listening` is told the port once it answers.

    Raises `OSError` where the address cannot be had, `RuntimeError` where the server ends by itself.
    """
    host = _address(settings.host)
    port = _free_port(host, settings.port)
    server = Server(
        app,
        address=host,
        port=port,
        interface=Interfaces.ASGINL,
        http=HTTPModes.auto,
        websockets=False,
        backlog=1024,
        backpressure=settings.connections_max,
        log_enabled=False,
    )
    running = asyncio.create_task(server.serve())
    stopping = asyncio.create_task(stop.wait())
    try:
        await _wait_listening(host, port, running)
        if listening is not None:
            listening(port)
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            raise RuntimeError("The HTTP server ended by itself.") from running.exception()
        await _drain(app, settings.drain_s)
    finally:
        stopping.cancel()
        server.stop()  # type: ignore[no-untyped-call]
        await _end(running)


def _address(host: str) -> str:
    """Granian takes addresses only. Raises `OSError` for a name that is not known."""
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return str(found[0][4][0])


def _free_port(host: str, port: int) -> int:
    """The port, if nobody listens on it. Raises `OSError`."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((host, port))
        found: int = probe.getsockname()[1]
        return found


async def _wait_listening(host: str, port: int, running: asyncio.Task[None]) -> None:
    target = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    async with asyncio.timeout(_START_S):
        while not running.done():
            with suppress(ConnectionRefusedError):
                _, writer = await asyncio.open_connection(target, port)
                writer.close()
                return
            await asyncio.sleep(0.005)
    raise RuntimeError("The HTTP server did not start.") from running.exception()


async def _drain(app: App, drain_s: float) -> None:
    app.stop_accepting()
    with suppress(TimeoutError):
        async with asyncio.timeout(drain_s):
            await app.wait_idle()
            return
    app.cut()
    with suppress(TimeoutError):
        async with asyncio.timeout(_CLOSE_S):
            await app.wait_idle()


async def _end(running: asyncio.Task[None]) -> None:
    await asyncio.wait({running}, timeout=_CLOSE_S)
    if not running.done():
        running.cancel()
        await asyncio.wait({running})
