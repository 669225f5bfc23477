from __future__ import annotations

import msgspec
import numpy as np
import pytest

from diptych.engine.interface import SamplingParameters
from diptych.wire.errors import MalformedMessage
from diptych.wire.payload import PromptPayload, decode_payload, encode_payload, pack_tokens, unpack_tokens

PAYLOAD = PromptPayload(
    prompt=pack_tokens([1, 2, 3]),
    chain_root=b"r" * 16,
    sampling=SamplingParameters(temperature=0.7, logit_bias={5: -1.0}, logprobs=2),
    stop=(b"\n\n", "ß".encode()),
    stop_tokens=(2,),
    sequences=2,
    emitted=(pack_tokens([4, 5]), b""),
)


def test_a_payload_comes_back_as_it_was() -> None:
    again = decode_payload(encode_payload(PAYLOAD))
    assert again == PAYLOAD
    assert unpack_tokens(again.prompt).tolist() == [1, 2, 3]
    assert again.emitted_tokens(0).tolist() == [4, 5]
    assert again.emitted_tokens(1).tolist() == []
    assert msgspec.structs.replace(PAYLOAD, emitted=()).emitted_tokens(1).tolist() == []


def test_tokens_are_little_endian_int32() -> None:
    assert pack_tokens(np.array([1, 256], dtype=np.int32)) == b"\x01\0\0\0\0\x01\0\0"
    with pytest.raises(OverflowError):
        pack_tokens([1 << 31])
    with pytest.raises(MalformedMessage, match="5 bytes"):
        unpack_tokens(b"12345")


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"prompt": b""}, "`prompt` is empty"),
        ({"prompt": b"12345"}, "`prompt` is no whole number"),
        ({"emitted": (b"",)}, "`emitted` has 1 entries for 2 sequences"),
        ({"emitted": (b"", b"123")}, "`emitted` is no whole number"),
        ({"stop": (b"",)}, "`stop` holds an empty string"),
    ],
)
def test_a_payload_that_cannot_be_is_refused_by_field(change: dict[str, object], why: str) -> None:
    with pytest.raises(MalformedMessage, match=why):
        decode_payload(encode_payload(msgspec.structs.replace(PAYLOAD, **change)))
    with pytest.raises(MalformedMessage):
        decode_payload(b"\xc1")
