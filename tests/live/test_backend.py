"""The door's `Backend` against a control plane and workers played by the test, over real sockets."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from backend_stage import RECIPE, Partner, Stage, ended, request, routed, staged, tokens

from diptych.api.generation import GenerationRefused, RequestFinished, SequenceFinished
from diptych.core.facts import (
    ClientGone,
    DoorJoined,
    RequestArrived,
    RequestRejected,
    StreamDrained,
    StreamInterrupted,
)
from diptych.live.fleet_state import FleetState, encode_fleet
from diptych.wire.frames import PauseFrame
from diptych.wire.messages import Answered, Asked, Told
from diptych.wire.payload import decode_payload


@staged
async def test_a_request_from_arrival_to_record(stage: Stage) -> None:
    control = await stage.control()
    assert (await control.fact()).fact == DoorJoined(door="door-0@1")
    worker = Partner(stage, "d@1")
    reader = stage.start()
    arrived = await control.fact()
    assert isinstance(arrived.fact, RequestArrived)
    assert (arrived.fact.prompt_tokens, len(arrived.fact.page_hashes)) == (20, 1)
    assert decode_payload(arrived.attachment).sequences == 1
    control.tell(routed(1, "d@1"))
    worker.stream(tokens(0, 5), tokens(1, 6))
    worker.stream(tokens(2, 7, finish="length"))
    control.tell(ended())
    got = await reader.end()
    assert reader.tokens() == [5, 6, 7]
    assert got[-2:] == [SequenceFinished(0, "length", 3), RequestFinished(20, 7, 3)]
    trace = await stage.backend.trace("r")
    assert trace is not None
    assert trace["handoff"] == {"pages": 1, "bytes_moved": 0, "duration_ms": 0.5}
    assert (trace["output_tokens"], trace["exact"], trace["queue_ms"]) == (3, True, 1.0)
    assert trace["ttft_ms"] > 0
    assert await stage.backend.trace("other") is None


@staged
async def test_a_death_is_drained_stated_and_gone_on_from(stage: Stage) -> None:
    control = await stage.control()
    await control.fact()
    dead = Partner(stage, "d@1")
    reader = stage.start()
    await control.fact()
    control.tell(routed(1, "d@1"))
    await asyncio.sleep(0.01)
    # Sent, but not read by the door when control speaks: the frames still count.
    dead.stream(tokens(0, 5), tokens(1, 6))
    dead.connection.close()
    control.tell(StreamInterrupted(request="r", attempt=1))
    drained = await control.fact()
    assert isinstance(drained.fact, StreamDrained)
    assert (drained.fact.attempt, drained.fact.starts[0].emitted) == (1, 2)
    assert decode_payload(drained.attachment).emitted_tokens(0).tolist() == [5, 6]
    heir = Partner(stage, "p@1")
    control.tell(routed(2, "p@1"))
    heir.stream(tokens(2, 99))  # of the fenced attempt
    heir.stream(tokens(2, 7, attempt=2, finish="length"))
    control.tell(ended())
    await reader.end()
    assert reader.tokens() == [5, 6, 7]


@staged
async def test_an_interruption_is_answered_once(stage: Stage) -> None:
    control = await stage.control()
    await control.fact()
    stage.start()
    await control.fact()
    control.tell(StreamInterrupted(request="r", attempt=3))
    control.tell(StreamInterrupted(request="r", attempt=3))
    control.tell(StreamInterrupted(request="r", attempt=4))
    first, second = await control.fact(), await control.fact()
    assert [first.fact.attempt, second.fact.attempt] == [3, 4]  # type: ignore[attr-defined]


@staged
async def test_a_new_control_plane_that_knows_no_attempt_is_answered(stage: Stage) -> None:
    """It asks by attempt 0, though the door has drained far higher ones."""
    control = await stage.control()
    await control.fact()
    reader = stage.start()
    await control.fact()
    control.tell(StreamInterrupted(request="r", attempt=(1 << 20) + 3))
    await control.fact()
    for _ in range(2):
        control.connection.close()
        control = await stage.control()
        joined = (await control.fact()).fact
        assert isinstance(joined, DoorJoined)
        assert joined.open[0].attempt is None
        control.tell(StreamInterrupted(request="r", attempt=0))
        drained = (await control.fact()).fact
        assert isinstance(drained, StreamDrained)
        assert drained.attempt == 0
    worker = Partner(stage, "d@1")
    worker.stream(tokens(0, 1, attempt=5), tokens(0, 5, attempt=(3 << 20) + 1, finish="length"))
    control.tell(ended())
    await reader.end()
    assert reader.tokens() == [5]


@staged
async def test_a_pause_makes_the_door_state_where_to_resume(stage: Stage) -> None:
    control = await stage.control()
    await control.fact()
    worker = Partner(stage, "d@1")
    stage.start()
    await control.fact()
    control.tell(routed(1, "d@1"))
    await asyncio.sleep(0.01)
    worker.stream(tokens(0, 5), PauseFrame("r", 1), PauseFrame("r", 1))
    drained = (await control.fact()).fact
    assert isinstance(drained, StreamDrained)
    assert drained.starts[0].emitted == 1
    assert control.got.empty()


@staged
async def test_a_new_control_plane_hears_of_all_that_is_open(stage: Stage) -> None:
    control = await stage.control()
    await control.fact()
    worker = Partner(stage, "d@1")
    reader = stage.start()
    await control.fact()
    control.tell(routed(1, "d@1"))
    worker.stream(tokens(0, 5))
    while not reader.got:
        await asyncio.sleep(0.001)
    control.connection.close()
    worker.stream(tokens(1, 6))  # streams go on without control
    while len(reader.got) < 2:
        await asyncio.sleep(0.001)
    later = stage.start(request_id="s")
    await asyncio.sleep(0.01)
    second = await stage.control()
    joined = await second.fact()
    assert isinstance(joined.fact, DoorJoined)
    (first,) = joined.fact.open
    assert (first.attempt, first.recipe, first.starts[0].emitted) == (1, RECIPE, 2)
    payloads = [decode_payload(data) for data in msgspec.msgpack.decode(joined.attachment)]
    assert payloads[0].emitted_tokens(0).tolist() == [5, 6]
    arrived = (await second.fact()).fact  # no control plane has ever heard of this one
    assert isinstance(arrived, RequestArrived)
    assert arrived.request == "s"
    worker.stream(tokens(2, 7, finish="length"))
    second.tell(ended())
    await reader.end()
    assert reader.tokens() == [5, 6, 7]
    later.task.cancel()


@staged
async def test_a_stream_ends_while_control_is_away(stage: Stage) -> None:
    control = await stage.control()
    await control.fact()
    worker = Partner(stage, "d@1")
    reader = stage.start()
    await control.fact()
    control.tell(routed(1, "d@1"))
    await asyncio.sleep(0.01)
    control.connection.close()
    worker.stream(tokens(0, 5, finish="length"))
    got = await reader.end()
    assert got[-1] == RequestFinished(20, 0, 1)
    trace = await stage.backend.trace("r")
    assert trace is not None
    assert (trace["decode_worker"], trace["finish_reason"]) == ("d", "length")
    second = await stage.control()
    assert (await second.fact()).fact == DoorJoined(door="door-0@1")


@staged
async def test_a_client_that_leaves_is_told_to_control(stage: Stage) -> None:
    control = await stage.control()
    await control.fact()
    events = stage.backend.generate(request())
    worker = Partner(stage, "d@1")
    first = asyncio.ensure_future(anext(aiter(events)))
    await control.fact()
    worker.stream(tokens(0, 5))
    await first
    await events.aclose()  # type: ignore[attr-defined]
    assert (await control.fact()).fact == ClientGone(request="r")
    worker.stream(tokens(1, 6))
    control.tell(ended())
    await asyncio.sleep(0.02)
    trace = await stage.backend.trace("r")
    assert trace is not None
    assert trace["output_tokens"] == 1


@staged
async def test_rejections_keep_their_reasons(stage: Stage) -> None:
    control = await stage.control()
    await control.fact()
    reader = stage.start()
    await control.fact()
    control.tell(
        RequestRejected(
            request="r",
            kind="overloaded",
            message="full",
            retry_after_ns=2_000_000_000,
            field="f",
            limit=9,
        )
    )
    with pytest.raises(GenerationRefused, match="full") as caught:
        await reader.end()
    refused = caught.value
    assert (refused.kind, refused.retry_after_ms, refused.field, refused.limit) == (
        "overloaded",
        2000,
        "f",
        9,
    )


@staged
async def test_a_failure_before_the_first_token_is_a_refusal(stage: Stage) -> None:
    control = await stage.control()
    await control.fact()
    reader = stage.start()
    await control.fact()
    control.tell(ended("it kills workers"))
    with pytest.raises(GenerationRefused, match="kills"):
        await reader.end()


@staged
async def test_a_failure_later_ends_the_open_sequences(stage: Stage) -> None:
    control = await stage.control()
    await control.fact()
    worker = Partner(stage, "d@1")
    reader = stage.start(sequences=2)
    await control.fact()
    control.tell(routed(1, "d@1"))
    worker.stream(tokens(0, 5, finish="length"), tokens(0, 6, sequence=1))
    while len(reader.got) < 3:
        await asyncio.sleep(0.001)
    control.tell(ended("gave up"))
    got = await reader.end()
    assert got[-2] == SequenceFinished(1, "failed", 1, "gave up")
    assert isinstance(got[-1], RequestFinished)


@staged
async def test_last_frames_behind_the_end_of_the_request_are_read(stage: Stage) -> None:
    control = await stage.control()
    await control.fact()
    worker = Partner(stage, "d@1")
    reader = stage.start()
    await control.fact()
    control.tell(routed(1, "d@1"))
    await asyncio.sleep(0.01)
    worker.stream(tokens(0, 5, 6, finish="length"))
    stage.backend.received("control", Told(ended()))  # overtakes the frames
    await reader.end()
    assert reader.tokens() == [5, 6]


@pytest.mark.parametrize(
    ("fields", "kind", "field", "limit"),
    [
        ({"model": "other"}, "unknown_model", "model", None),
        ({"tokens_max": 493}, "too_long", "max_tokens", 492),
        # Pool: 40 pages; one page is shared, 12 pages for each of three choices.
        ({"tokens_max": 300, "sequences": 3}, "too_long", "max_tokens", 204),
    ],
)
def test_what_no_worker_could_serve_is_refused_by_field_and_limit(
    fields: dict[str, Any], kind: str, field: str, limit: int | None
) -> None:
    async def scenario() -> None:
        stage = Stage()
        with pytest.raises(GenerationRefused) as caught:
            await anext(aiter(stage.backend.generate(request(**fields))))
        assert (caught.value.kind, caught.value.field, caught.value.limit) == (kind, field, limit)

    asyncio.run(scenario())


def test_a_stated_limit_is_accepted() -> None:
    async def scenario() -> None:
        stage = Stage()
        reader = stage.start(tokens_max=204, sequences=3)
        await asyncio.sleep(0.01)
        assert not reader.task.done()
        reader.task.cancel()

    asyncio.run(scenario())


@staged
async def test_status_and_readiness_come_from_control(stage: Stage) -> None:
    assert not stage.backend.ready()
    without = await stage.backend.status()
    assert (without["workers"], without["control"]) == ([], "unreachable")
    control = await stage.control()
    await control.fact()
    changed: list[FleetState] = []
    stage.backend.on_fleet_changed = lambda: changed.append(stage.backend.fleet)
    control.connection.send(Answered(0, encode_fleet(FleetState(ready=True))))
    asking = asyncio.ensure_future(stage.backend.status())
    asked = await asyncio.wait_for(control.got.get(), 5)
    assert isinstance(asked, Asked)
    control.connection.send(Answered(asked.serial, b'{"workers": [1]}'))
    assert await asking == {"workers": [1]}
    assert stage.backend.ready()
    assert changed == [FleetState(ready=True, complete=False)]


@staged
async def test_a_question_ends_with_its_control_plane(stage: Stage) -> None:
    control = await stage.control()
    await control.fact()
    asking = asyncio.ensure_future(stage.backend.status())
    await asyncio.wait_for(control.got.get(), 5)
    control.connection.close()
    assert (await asyncio.wait_for(asking, 1))["control"] == "unreachable"
