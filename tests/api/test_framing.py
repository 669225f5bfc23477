import struct
import zlib

import pytest
from botocore.eventstream import EventStreamBuffer
from hypothesis import given
from hypothesis import strategies as st

from diptych.api.framing import encode_event, encode_exception, encode_message, encode_sse


def decode(data: bytes) -> list[tuple[dict[str, str], bytes]]:
    buffer = EventStreamBuffer()
    buffer.add_data(data)
    return [(message.headers, message.payload) for message in buffer]


@given(
    st.lists(st.tuples(st.text(min_size=1, max_size=40), st.text(max_size=200)), max_size=8),
    st.binary(max_size=2000),
)
def test_botocore_decodes_what_is_encoded(headers: list[tuple[str, str]], payload: bytes) -> None:
    unique = dict(headers)
    message = encode_message(list(unique.items()), payload)
    assert decode(message * 2) == [(unique, payload)] * 2


def test_message_bytes_are_as_the_encoding_says() -> None:
    message = encode_message([("a", "bc")], b"xyz")
    headers = b"\x01a\x07\x00\x02bc"
    prelude = struct.pack("!II", 16 + len(headers) + 3, len(headers))
    expected = prelude + struct.pack("!I", zlib.crc32(prelude)) + headers + b"xyz"
    assert message == expected + struct.pack("!I", zlib.crc32(expected))


def test_event_and_exception_headers() -> None:
    [(headers, payload)] = decode(encode_event("messageStop", {"stopReason": "end_turn"}))
    assert headers == {
        ":event-type": "messageStop",
        ":content-type": "application/json",
        ":message-type": "event",
    }
    assert payload == b'{"stopReason":"end_turn"}'
    [(headers, _)] = decode(encode_exception("throttlingException", {"message": "no"}))
    assert headers[":exception-type"] == "throttlingException"
    assert headers[":message-type"] == "exception"


@pytest.mark.parametrize("text", ["two\nlines", "\r\n\r\n", "\u2028", "data: [DONE]\n\n", "\x00"])
def test_sse_is_one_data_line(text: str) -> None:
    frame = encode_sse({"text": text})
    assert frame.startswith(b"data: ")
    assert frame.endswith(b"\n\n")
    assert b"\n" not in frame[:-2]
    assert b"\r" not in frame
