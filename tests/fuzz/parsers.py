"""Every parser that reads bytes of others: well-formed samples, and the errors that it may answer with."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec

from diptych.core import facts
from diptych.live.hosts import words
from diptych.live.page_port import Ticket
from diptych.transport.interface import Endpoint
from diptych.transport.tcp import protocol
from diptych.transport.tcp.protocol import ProtocolError
from diptych.wire import messages
from diptych.wire.errors import UNDECODABLE, WireError
from diptych.wire.frames import FrameBuffer, TokensFrame, frame
from diptych.wire.kv import (
    announce,
    decode_announcement,
    decode_format,
    encode_announcement,
    encode_format,
    nhd,
)
from diptych.wire.payload import PromptPayload, decode_payload, encode_payload, pack_tokens
from diptych.wire.session import Packet, Session

FORMAT = nhd(model="m", layers=2, kv_heads=2, head_dim=8)
HEADER_BYTES = 4
ROUND = 5000
"""Inputs of one parser in one go."""
LENGTHS = (b"\xff" * 4, b"\xdd\xff\xff\xff\xff", b"\x91" * 40, bytes(8))
"""Giant lengths, arrays in arrays, nothing."""


class Parser(msgspec.Struct, frozen=True):
    name: str
    parse: Callable[[bytes], object]
    samples: tuple[bytes, ...]
    refusals: tuple[type[Exception], ...] = (WireError,)


def _told(fact: facts.Fact, attachment: bytes = b"") -> bytes:
    return messages.encode(messages.Told(fact, attachment, 7))[HEADER_BYTES:]


def _messages() -> tuple[bytes, ...]:
    offered = facts.PagesOffered(request="r", attempt=1, sender="p@1", first_page=0, pages=(1, 2, 3), claim=9)
    streamed = messages.Streamed((TokensFrame("r", 1, 0, 0, (5, 6), "length"),))
    arrived = facts.RequestArrived(
        request="r", door="door-0", model="m", prompt_tokens=9, page_hashes=(b"a", b"b"), tokens_max=4
    )
    return (
        _told(offered, b"ticket"),
        _told(arrived),
        _told(facts.PullConfirmed(sender="p@1", claim=3, held=True)),
        messages.encode(streamed)[HEADER_BYTES:],
        messages.encode(messages.Asked(1, "status"))[HEADER_BYTES:],
    )


def _frames(data: bytes) -> object:
    buffer = FrameBuffer(bytes_max=4096)
    return [buffer.receive(data[start : start + 7]) for start in range(0, len(data), 7)]


def _session(data: bytes) -> object:
    session: Session[object] = Session()
    return session.receive(0, words.decode_packet(data))


def _request(data: bytes) -> object:
    if len(data) < protocol.REQUEST.size:
        raise ProtocolError("short")
    request, pages = protocol.decode_request(data[: protocol.REQUEST.size])
    rest = data[protocol.REQUEST.size :][: pages * 4]
    return request, protocol.decode_pages(rest[: len(rest) // 4 * 4])


def _reply(data: bytes) -> object:
    if len(data) < protocol.REPLY.size:
        raise ProtocolError("short")
    return protocol.decode_reply(data[: protocol.REPLY.size])


def _greeting(data: bytes) -> object:
    if len(data) < 8:
        raise ProtocolError("short")
    return protocol.decode_greeting(data[8 : 8 + protocol.greeting_bytes(data)])


def _ticket(data: bytes) -> object:
    try:
        return msgspec.msgpack.decode(data, type=Ticket)
    except UNDECODABLE as error:
        raise WireError(str(error)) from error


def parsers() -> tuple[Parser, ...]:
    payload = PromptPayload(prompt=pack_tokens([1, 2, 3]), chain_root=b"root", emitted=(pack_tokens([4]),))
    nonce = bytes(range(32))
    greeting = protocol.Greeting(protocol.VERSION, "d@1", "p@1", nonce, b"format")
    replied = protocol.Reply(1, 3, True, 0)
    asked = protocol.Request(1, bytes(16), (3, 4, 5), True)
    packets = (
        Packet(1, 0, words.Data(3, b"bytes")),
        Packet(2, 0, words.Opened(1, "d@1", "control", "control", 2)),
        Packet(3, 0, words.Stated(facts.WorkerLost(worker="d@1"))),
        Packet(0, 0),
    )
    greetings = (words.Hello(1, "east", nonce), words.Welcome(1, "m", "f", 16, 10**9, nonce))
    return (
        Parser("frames", _frames, tuple(frame(body) for body in (b"", b"abc", b"x" * 99))),
        Parser("messages", messages.decode, _messages()),
        Parser("payloads", decode_payload, (encode_payload(payload),)),
        Parser("packets of hosts", _session, tuple(words.encode_packet(packet) for packet in packets)),
        Parser("greetings of hosts", words.decode_greeting, tuple(map(words.encode_greeting, greetings))),
        Parser("KV greetings", _greeting, (protocol.encode_greeting(greeting),), (ProtocolError,)),
        Parser("KV requests", _request, (protocol.encode_request(asked),), (ProtocolError,)),
        Parser("KV replies", _reply, (protocol.encode_reply(replied),), (ProtocolError,)),
        Parser("KV formats", decode_format, (encode_format(FORMAT),)),
        Parser("announcements", decode_announcement, (encode_announcement(announce(FORMAT, converts=True)),)),
        Parser(
            "tickets",
            _ticket,
            (msgspec.msgpack.encode(Ticket(Endpoint("tcp", "10.0.0.1", 7, "p@1"), bytes(16))),),
        ),
    )


def altered(random_: random.Random, parser: Parser) -> bytes:
    """A sample with some of its bytes changed, cut, doubled, or none of it left."""
    data = bytearray(random_.choice(parser.samples))
    for _ in range(random_.choice([1, 1, 2, 5])):
        place = random_.randrange(len(data) + 1)
        match random_.randrange(7):
            case 0 if data:
                data[place % len(data)] = random_.randrange(256)
            case 1 if data:
                data[place % len(data)] ^= 1 << random_.randrange(8)
            case 2:
                del data[place : place + random_.randrange(1, 9)]
            case 3:
                data[place:place] = random_.randbytes(random_.randrange(1, 9))
            case 4:
                data[place:place] = data[: random_.randrange(len(data) + 1)]
            case 5:
                data[place:place] = random_.choice(
                    [b"\xff" * 4, b"\xdd\xff\xff\xff\xff", b"\x91" * 40, bytes(8)]
                )
            case _:
                del data[place:]
    return random_.randbytes(random_.randrange(64)) if random_.random() < 0.05 else bytes(data)


def attack(parser: Parser, inputs: int, seed: int) -> dict[str, int]:
    """How many inputs were taken and refused. Raises what no refusal is, with the input in its notes."""
    random_ = random.Random(f"{parser.name} {seed}")
    counts = {"taken": 0, "refused": 0}
    for _ in range(inputs):
        data = altered(random_, parser)
        try:
            parser.parse(data)
        except parser.refusals:
            counts["refused"] += 1
        except BaseException as error:
            error.add_note(f"{parser.name}: {data.hex()}")
            raise
        else:
            counts["taken"] += 1
    return counts


def one(task: tuple[int, int]) -> tuple[str, dict[str, int], str]:
    """(parser, seed): its name, what it did with the inputs, and what was wrong; for a process of its own."""
    index, seed = task
    parser = parsers()[index]
    try:
        return parser.name, attack(parser, ROUND, seed), ""
    except Exception as error:
        notes = "; ".join(getattr(error, "__notes__", ()))
        return parser.name, {}, f"{type(error).__name__}: {error} ({notes})"
