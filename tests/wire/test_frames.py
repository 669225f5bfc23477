from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.engine.interface import SampledToken
from diptych.wire.errors import FrameTooLong, TruncatedFrame
from diptych.wire.frames import FrameBuffer, TokensFrame, frame


@given(st.lists(st.binary(max_size=40), max_size=8), st.lists(st.integers(1, 60), max_size=40))
def test_bodies_survive_any_cut_of_the_stream(bodies: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(map(frame, bodies))
    buffer = FrameBuffer()
    received: list[bytes] = []
    position = 0
    for cut in [*cuts, len(stream)]:
        received += buffer.receive(stream[position : position + cut])
        position += cut
        if position >= len(stream):
            break
    assert received == bodies
    buffer.finish()


def test_a_frame_past_the_limit_is_refused_by_its_header_alone() -> None:
    buffer = FrameBuffer(bytes_max=10)
    assert buffer.receive(frame(b"x" * 10)) == [b"x" * 10]
    with pytest.raises(FrameTooLong, match="11 bytes was announced, the limit is 10"):
        buffer.receive((11).to_bytes(4, "little"))


@pytest.mark.parametrize("kept", [1, 3, 4, 6])
def test_a_stream_that_ends_inside_a_frame_is_an_error(kept: int) -> None:
    buffer = FrameBuffer()
    assert buffer.receive(frame(b"abc")[:kept]) == []
    with pytest.raises(TruncatedFrame, match=f"{kept} bytes"):
        buffer.finish()


def test_tokens_frame_gives_the_engine_tokens_back() -> None:
    plain = TokensFrame("r", 1, 0, 5, (7, 8))
    assert plain.sampled() == (SampledToken(7), SampledToken(8))
    scored = TokensFrame("r", 1, 0, 5, (7,), logprobs=(-0.5,), tops=(((7, -0.5), (9, -1.5)),))
    assert scored.sampled() == (SampledToken(7, -0.5, ((7, -0.5), (9, -1.5))),)
