"""The fleet as the HTTP surface sees it: `Backend` over sockets to control and to the workers.

Control decides and says where; tokens come from the workers directly. A death in between is handled by
three facts: `StreamInterrupted` from control, the drained socket of the dead, `StreamDrained` back. The
client's iterator sees none of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable

import msgspec

from diptych.api.generation import (
    GenerationEvent,
    GenerationRefused,
    GenerationRequest,
    RequestFinished,
    ServedModel,
)
from diptych.core.facts import (
    ClientGone,
    DoorJoined,
    Fact,
    RequestEnded,
    RequestRecord,
    RequestRejected,
    RequestRouted,
    StreamDrained,
    StreamInterrupted,
)
from diptych.core.ids import CONTROL
from diptych.live.door.records import Records, trace_document
from diptych.live.door.stream import Stream
from diptych.live.fleet_state import FleetState, decode_fleet
from diptych.live.launch import DoorLaunch
from diptych.live.peers import Peers
from diptych.wire.frames import PauseFrame, StreamFrame
from diptych.wire.hashing import shared_pages
from diptych.wire.messages import Answered, Asked, Message, Streamed, Told

ANSWER_S = 2.0
"""How long control may take to answer a question."""
RECORD_S = 1.0
"""How long a finished stream waits for its record; the answer's usage needs its count of cached tokens."""


class _Open:
    """A stream with a client behind it, and what the client has not read yet."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.events: asyncio.Queue[GenerationEvent | GenerationRefused] = asyncio.Queue()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Control has told the end, or no control remembers the request."""
        self.record: RequestRecord | None = None
        self.failure: str | None = None

    def put(self, events: list[GenerationEvent]) -> None:
        for event in events:
            self.events.put_nowait(event)


class FleetBackend:
    """`diptych.api.generation.Backend` for one door. Not for threads: all calls on the door's loop."""

    def __init__(self, launch: DoorLaunch, peers: Peers, records: Records) -> None:
        self._launch = launch
        self._peers = peers
        self._records = records
        self._model = ServedModel(
            name=launch.model.name, context_max=launch.model.context_max, created_s=int(time.time())
        )
        self._open: dict[str, _Open] = {}
        self._closing: dict[str, _Open] = {}
        """The client is gone or served; control has not told the end yet."""
        self._fleet = FleetState()
        self._questions: dict[int, asyncio.Future[bytes]] = {}
        self._serial = 0
        self.on_fleet_changed: Callable[[], None] = lambda: None

    # ---- Backend ------------------------------------------------------------------------------

    def models(self) -> tuple[ServedModel, ...]:
        return (self._model,)

    def ready(self) -> bool:
        return self._fleet.ready

    @property
    def fleet(self) -> FleetState:
        return self._fleet

    async def generate(self, request: GenerationRequest) -> AsyncIterator[GenerationEvent]:
        self._check(request)
        stream = Stream(
            request,
            door=self._launch.door,
            fingerprint=self._launch.model.fingerprint,
            page_tokens=self._launch.page_tokens,
            now_ns=time.monotonic_ns(),
        )
        entry = _Open(stream)
        entry.put(stream.scores_due())
        self._open[request.request_id] = entry
        self._arrive(stream)
        try:
            while not (stream.finished and entry.events.empty()):
                event = await entry.events.get()
                if isinstance(event, GenerationRefused):
                    raise event
                yield event
            await self._wait_for_record(entry)
            yield RequestFinished(
                prompt_tokens=len(request.prompt),
                cached_tokens=_cached_tokens(entry),
                output_tokens=stream.output_tokens,
            )
        finally:
            self._client_done(entry)

    async def status(self) -> dict[str, object]:
        document = await self._ask("status", "")
        if document is None:
            return {
                "workers": [],
                "requests": {"queued": 0, "prefilling": 0, "transferring": 0, "decoding": 0},
                "control": "unreachable",
            }
        status: dict[str, object] = msgspec.json.decode(document)
        return status

    async def trace(self, request_id: str) -> dict[str, object] | None:
        entry = self._open.get(request_id) or self._closing.get(request_id)
        if entry is not None and entry.stream.finished:
            await self._wait_for_record(entry)
        document = self._records.get(request_id)
        if document is not None:
            return document
        if entry is not None:
            return trace_document(entry.stream, entry.record, entry.failure)
        return None

    # ---- what comes in ------------------------------------------------------------------------

    def control_joined(self) -> None:
        """A control plane is there, perhaps one that knows nothing: it is told all that is open."""
        for entry in (*self._closing.values(), *self._open.values()):
            if entry.stream.finished or entry.stream.request.request_id in self._closing:
                self._ended(entry)
        entries = [entry for entry in self._open.values() if not entry.stream.finished and entry.stream.told]
        joined = DoorJoined(
            door=self._launch.door, open=tuple(entry.stream.open_request() for entry in entries)
        )
        self._tell(joined, msgspec.msgpack.encode([entry.stream.payload() for entry in entries]))
        for entry in self._open.values():
            if not entry.stream.told:
                self._arrive(entry.stream)

    def control_lost(self) -> None:
        for answer in self._questions.values():
            answer.cancel()
        self._questions.clear()

    def received(self, peer: str, message: Message) -> None:
        match message:
            case Streamed(frames=frames):
                now_ns = time.monotonic_ns()
                for frame in frames:
                    self._frame(frame, now_ns)
            case Told(fact=fact):
                self._told(fact)
            case Answered(serial=0, document=document):
                self._fleet = decode_fleet(document)
                self.on_fleet_changed()
            case Answered(serial=serial, document=document):
                answer = self._questions.pop(serial, None)
                if answer is not None and not answer.done():
                    answer.set_result(document)
            case _:
                raise ValueError(f"{peer} sent a door {message}")

    def _frame(self, frame: StreamFrame, now_ns: int) -> None:
        entry = self._open.get(frame.request)
        if entry is None:
            return
        if not isinstance(frame, PauseFrame):
            entry.put(entry.stream.accept(frame, now_ns))
        elif entry.stream.is_current(frame):
            self._drained(entry, frame.attempt)

    def _told(self, fact: Fact) -> None:
        request: str = fact.request  # type: ignore[attr-defined]
        entry = self._open.get(request) or self._closing.get(request)
        if entry is None:
            return
        match fact:
            case RequestRouted():
                entry.stream.route(fact)
            case StreamInterrupted(attempt=attempt):
                if attempt != entry.stream.stated:
                    self._interrupted(entry, attempt)
            case RequestRejected():
                entry.events.put_nowait(_refusal(fact))
                self._ended(entry)
            case RequestEnded(record=record, failure=failure):
                entry.record, entry.failure = record, failure
                self._over(entry)
            case _:
                raise ValueError(f"control told a door {fact}")

    def _interrupted(self, entry: _Open, attempt: int) -> None:
        """Reads what the attempt's worker sent before it is fenced off: what is here need not be computed
        again."""
        if entry.stream.target is not None:
            self._peers.drain(entry.stream.target)
        self._drained(entry, attempt)

    def _drained(self, entry: _Open, attempt: int) -> None:
        drained: StreamDrained = entry.stream.drain(attempt)
        self._tell(drained, entry.stream.payload())

    def _over(self, entry: _Open) -> None:
        """Control has let go of the request. Its last frames may still lie in the worker's socket."""
        stream = entry.stream
        if not stream.finished and stream.target is not None:
            self._peers.drain(stream.target)
        if not stream.finished:
            self._cut(entry, entry.failure or "its last tokens were lost")
        self._ended(entry)

    def _cut(self, entry: _Open, why: str) -> None:
        reason = "deadline" if why == "deadline" else "failed"
        if entry.stream.output_tokens == 0:
            entry.events.put_nowait(GenerationRefused(reason, why))
        entry.put(entry.stream.fail(reason, why))

    def _ended(self, entry: _Open) -> None:
        if not entry.ended.done():
            entry.ended.set_result(None)
            self._records.add(trace_document(entry.stream, entry.record, entry.failure))
        self._closing.pop(entry.stream.request.request_id, None)

    # ---- what goes out ------------------------------------------------------------------------

    def _client_done(self, entry: _Open) -> None:
        request = entry.stream.request.request_id
        self._open.pop(request, None)
        if entry.ended.done():
            return
        if self._peers.connection(CONTROL) is None:
            self._ended(entry)
            return
        self._closing[request] = entry
        if not entry.stream.finished:
            self._tell(ClientGone(request=request))

    def _arrive(self, stream: Stream) -> None:
        """A request that finds no control waits for the next one, which takes it as a new one."""
        if self._peers.connection(CONTROL) is not None:
            stream.told = True
            self._tell(stream.arrived, stream.payload())

    async def _wait_for_record(self, entry: _Open) -> None:
        if self._peers.connection(CONTROL) is None:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(entry.ended), RECORD_S)

    async def _ask(self, subject: str, argument: str) -> bytes | None:
        if self._peers.connection(CONTROL) is None:
            return None
        self._serial += 1
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._questions[self._serial] = answer
        self._peers.send(CONTROL, Asked(self._serial, subject, argument))
        done, _ = await asyncio.wait({answer}, timeout=ANSWER_S)
        return answer.result() if done and not answer.cancelled() else None

    def _tell(self, fact: Fact, attachment: bytes = b"") -> None:
        self._peers.tell(CONTROL, fact, attachment)

    def _check(self, request: GenerationRequest) -> None:
        """Raises `GenerationRefused` for what no worker of this fleet could ever serve."""
        if request.model != self._model.name:
            raise GenerationRefused(
                "unknown_model", f"model {request.model!r} is not served here", field="model"
            )
        if request.request_id in self._open or request.request_id in self._closing:
            raise GenerationRefused("failed", f"request id {request.request_id!r} is in use", field="id")
        prompt, page = len(request.prompt), self._launch.page_tokens
        context = self._model.context_max
        if prompt + request.tokens_max > context:
            raise GenerationRefused(
                "too_long",
                f"max_tokens: {prompt} prompt tokens and {request.tokens_max} output tokens pass the "
                f"context of {context} tokens",
                field="max_tokens",
                limit=context - prompt,
            )
        shared = shared_pages(prompt, page)
        own = -(-(prompt + request.tokens_max) // page) - shared
        if shared + own * request.sequences > self._launch.pool_pages:
            limit = ((self._launch.pool_pages - shared) // request.sequences + shared) * page - prompt
            raise GenerationRefused(
                "too_long",
                f"max_tokens: {prompt} prompt tokens and {request.sequences} times {request.tokens_max} "
                f"output tokens pass the pool of {self._launch.pool_pages} pages of {page} tokens",
                field="max_tokens",
                limit=max(0, limit),
            )


def _refusal(rejected: RequestRejected) -> GenerationRefused:
    retry_ns = rejected.retry_after_ns
    return GenerationRefused(
        rejected.kind,
        rejected.message,
        retry_after_ms=None if retry_ns is None else retry_ns // 1_000_000,
        field="max_tokens" if rejected.field == "tokens_max" else rejected.field,
        limit=rejected.limit,
    )


def _cached_tokens(entry: _Open) -> int:
    if entry.record is not None:
        return entry.record.cached_tokens
    return entry.stream.routed.held_tokens if entry.stream.routed else 0
