from __future__ import annotations

from typing import get_origin

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.core.facts import (
    WIRE_FACTS,
    Fact,
    PagesOffered,
    RequestArrived,
    RequestEnded,
    RequestRecord,
    StreamDrained,
)
from diptych.wire import messages
from diptych.wire.errors import MalformedMessage
from diptych.wire.frames import FrameBuffer, PauseFrame, ScoresFrame, TokensFrame
from diptych.wire.messages import Answered, Asked, Message, Streamed, Told


def through_the_wire(message: Message) -> Message:
    (body,) = FrameBuffer().receive(messages.encode(message))
    return messages.decode(body)


def sample(kind: type) -> object:
    """A value of `kind` with every required field filled by something of its type."""
    values: dict[type, object] = {int: 3, str: "w@1", bool: True}
    filled: dict[str, object] = {}
    for field in msgspec.structs.fields(kind):
        if not field.required:
            continue
        if field.type in values:
            filled[field.name] = values[field.type]
        elif field.type is RequestRecord:
            filled[field.name] = sample(RequestRecord)
        else:
            filled[field.name] = () if get_origin(field.type) is tuple else None
    return kind(**filled)


@pytest.mark.parametrize("kind", WIRE_FACTS, ids=lambda kind: kind.__name__)
def test_every_fact_crosses_the_wire(kind: type[Fact]) -> None:
    fact = sample(kind)
    assert isinstance(fact, Fact)
    assert through_the_wire(Told(fact, b"\x00payload")) == Told(fact, b"\x00payload")


@given(
    st.builds(
        RequestArrived,
        request=st.text(),
        door=st.text(),
        model=st.text(),
        prompt_tokens=st.integers(1, 1 << 40),
        page_hashes=st.lists(st.binary(min_size=16, max_size=16)).map(tuple),
        tokens_max=st.integers(0, 1 << 40),
        logits_from=st.none() | st.integers(0, 9),
        deadline_ns=st.none() | st.integers(0, 1 << 62),
    )
)
def test_fields_of_a_fact_come_back_as_they_were(fact: RequestArrived) -> None:
    assert through_the_wire(Told(fact)) == Told(fact)


def test_all_kinds_of_messages_cross_the_wire() -> None:
    frames = (
        TokensFrame("r", 1, 0, 0, (1, 2), finish="length"),
        ScoresFrame("r", 1, 1, (5,), (-1.0,), ((),)),
        PauseFrame("r", 1),
    )
    for message in (
        Streamed(frames),
        Asked(4, "trace", "request-1"),
        Answered(4, b"{}"),
        Told(StreamDrained(request="r", attempt=2, starts=()), b"payload"),
        Told(RequestEnded(request="r", record=sample(RequestRecord))),  # type: ignore[arg-type]
    ):
        assert through_the_wire(message) == message


def test_what_is_no_message_is_refused_with_the_field_named() -> None:
    with pytest.raises(MalformedMessage):
        messages.decode(b"")
    with pytest.raises(MalformedMessage):
        messages.decode(b"\xff" * 20)
    offered = PagesOffered(request="r", attempt=1, sender="p@1", first_page=0, pages=(1,))
    encoded = msgspec.msgpack.encode(["told", ["PagesOffered", "r", "not a number", "p@1", 0, [1]], b""])
    with pytest.raises(MalformedMessage, match=r"Expected `int`, got `str` - at `\$\[1\]\[2\]`"):
        messages.decode(encoded)
    assert isinstance(through_the_wire(Told(offered)), Told)


def test_deep_nesting_is_an_error_and_not_a_crash() -> None:
    with pytest.raises(MalformedMessage):
        messages.decode(b"\x91" * 100_000 + b"\x00")
