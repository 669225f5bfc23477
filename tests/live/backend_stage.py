"""A door's backend whose control plane and workers the test plays, over real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

from diptych.api.generation import GenerationEvent, GenerationRequest, TokensEmitted
from diptych.core.facts import Fact, RequestEnded, RequestRecord, RequestRouted
from diptych.core.recipe import join
from diptych.live.door.backend import FleetBackend
from diptych.live.door.records import Records
from diptych.live.launch import DoorLaunch, ModelSource
from diptych.live.peers import Peers
from diptych.live.sockets import Connection
from diptych.wire.frames import StreamFrame, TokensFrame
from diptych.wire.messages import Message, Streamed, Told

RECIPE = join(("n", 1 << 30))
LAUNCH = DoorLaunch(
    door="door-0@1",
    address="127.0.0.1",
    port=0,
    model=ModelSource(
        name="m", path="", fingerprint="f", context_max=512, page_bytes=64, kv_format=b"", config=b""
    ),
    pool_pages=40,
    page_tokens=16,
    scripted=True,
    records_path=None,
    grace_ns=0,
)


class Partner:
    """The other end of one of the door's connections."""

    def __init__(self, stage: Stage, name: str) -> None:
        ours, theirs = socket.socketpair()
        self.got: asyncio.Queue[Message] = asyncio.Queue()
        self.connection = Connection(
            ours, lambda _, message: self.got.put_nowait(message), lambda *_: None, name="door"
        )
        stage.peers.adopt(name, theirs.detach())

    async def fact(self) -> Told:
        message = await asyncio.wait_for(self.got.get(), 5)
        assert isinstance(message, Told)
        return message

    def tell(self, fact: Fact) -> None:
        self.connection.send(Told(fact))

    def stream(self, *frames: StreamFrame) -> None:
        self.connection.send(Streamed(frames))


class Stage:
    """A backend, its control and its workers."""

    def __init__(self) -> None:
        self.peers = Peers(
            lambda peer, message: self.backend.received(peer, message),  # noqa: PLW0108 (made below)
            lambda peer, why: self.backend.control_lost() if peer == "control" else None,
        )
        self.records = Records(None)
        self.backend = FleetBackend(LAUNCH, self.peers, self.records)

    async def control(self) -> Partner:
        partner = Partner(self, "control")
        self.backend.control_joined()
        return partner

    def start(self, **fields: Any) -> Reader:
        return Reader(self.backend.generate(request(**fields)))


class Reader:
    """Reads a generation in a task of its own, as the HTTP side does."""

    def __init__(self, events: AsyncIterator[GenerationEvent]) -> None:
        self.got: list[GenerationEvent] = []
        self.events = events
        self.task = asyncio.ensure_future(self._read())

    async def _read(self) -> list[GenerationEvent]:
        async for event in self.events:
            self.got.append(event)
        return self.got

    async def end(self) -> list[GenerationEvent]:
        return await asyncio.wait_for(self.task, 5)

    def tokens(self, sequence: int = 0) -> list[int]:
        return [
            sampled.token
            for event in self.got
            if isinstance(event, TokensEmitted) and event.sequence == sequence
            for sampled in event.tokens
        ]


def request(**fields: Any) -> GenerationRequest:
    return GenerationRequest(
        **{"request_id": "r", "model": "m", "prompt": tuple(range(20)), "tokens_max": 50} | fields
    )


def routed(attempt: int, target: str) -> RequestRouted:
    return RequestRouted(
        request="r",
        attempt=attempt,
        target=target,
        source="p@1",
        split=16,
        recipe=RECIPE,
        held_tokens=0,
        reasons=None,
    )


def ended(failure: str | None = None, cached: int = 7) -> RequestEnded:
    record = RequestRecord(
        request="r",
        prefill_worker="p@1",
        decode_worker="d@1",
        split=16,
        prompt_tokens=20,
        cached_tokens=cached,
        output_tokens=3,
        recipe=RECIPE,
        queue_ns=1_000_000,
        prefill_ns=2_000_000,
        prefill_tokens=16,
        handoff_pages=1,
        handoff_ns=500_000,
        bytes_moved=0,
        attempts=(),
        exact=True,
        finish_reason="length",
        reasons=None,
    )
    return RequestEnded(request="r", record=record, failure=failure)


def tokens(
    first: int, *ids: int, attempt: int = 1, sequence: int = 0, finish: str | None = None
) -> TokensFrame:
    return TokensFrame("r", attempt, sequence, first, ids, finish)


def staged(play: Callable[[Stage], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        async def inside() -> None:
            await play(Stage())

        asyncio.run(inside())

    run.__name__ = play.__name__
    run.__doc__ = play.__doc__
    return run
