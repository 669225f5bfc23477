"""The host link: packets with descriptors, in order, without blocking, and its end."""

from __future__ import annotations

import asyncio
import os
import socket

import msgspec
import pytest

from diptych.core.facts import DoorLost, HostStated, WorkerLost
from diptych.live.host_link import HostLink, receive_packet, send_packet, socket_pair
from diptych.live.launch import Connected, Served, StopAsked, decode_host, encode_host


def test_messages_and_facts_come_back_as_they_were() -> None:
    stated = HostStated(host="h", pool_pages=3, workers=("a@1",), shares=(("a", 3),))
    for message in (stated, WorkerLost(worker="a@1"), Served(address="x", port=1), StopAsked()):
        assert decode_host(encode_host(message)) == message


def test_only_the_supervisors_facts_travel() -> None:
    with pytest.raises(TypeError, match="DoorLost"):
        encode_host(DoorLost(door="d"))


def test_foreign_packets_are_refused() -> None:
    with pytest.raises(msgspec.DecodeError):
        decode_host(b"\x01")


def test_descriptors_arrive_and_are_not_inherited() -> None:
    ours, theirs = socket_pair()
    reading, writing = os.pipe()
    send_packet(ours, Connected(peer="p", kind="worker"), (writing,))
    message, descriptors = receive_packet(theirs)
    assert message == Connected(peer="p", kind="worker")
    assert not os.get_inheritable(descriptors[0])
    os.write(descriptors[0], b"x")
    assert os.read(reading, 1) == b"x"
    for descriptor in (reading, writing, *descriptors):
        os.close(descriptor)
    ours.close()
    with pytest.raises(EOFError):
        receive_packet(theirs)
    theirs.close()


def test_a_peer_that_does_not_read_delays_nothing_and_loses_nothing() -> None:
    async def scenario() -> None:
        ours, theirs = socket_pair()
        end = asyncio.get_running_loop().create_future()
        link = HostLink(ours, lambda message, fds: None, lambda: end.set_result(None))
        reading, writing = os.pipe()
        for number in range(5000):
            fds = (writing,) if number == 4999 else ()
            link.send(Served(address="a" * 200, port=number), fds)
        os.close(writing)
        theirs.setblocking(False)
        got, descriptors = [], []
        while len(got) < 5000:
            try:
                message, fds = receive_packet(theirs)
            except BlockingIOError:
                await asyncio.sleep(0)
                continue
            assert isinstance(message, Served)
            got.append(message.port)
            descriptors += fds
        assert got == list(range(5000))
        os.write(descriptors[0], b"x")  # it was kept open until it was sent
        os.close(descriptors[0])
        os.close(reading)
        theirs.close()
        await asyncio.wait_for(end, 5)

    asyncio.run(scenario())


def test_what_was_sent_before_the_end_is_read_first() -> None:
    async def scenario() -> None:
        ours, theirs = socket_pair()
        seen: list[object] = []
        end = asyncio.get_running_loop().create_future()
        HostLink(ours, lambda message, fds: seen.append(message), lambda: end.set_result(None))
        send_packet(theirs, StopAsked())
        send_packet(theirs, Served(port=2))
        theirs.close()
        await asyncio.wait_for(end, 5)
        assert seen == [StopAsked(), Served(port=2)]

    asyncio.run(scenario())


def test_drain_hands_over_what_is_there() -> None:
    async def scenario() -> None:
        ours, theirs = socket_pair()
        seen: list[object] = []
        link = HostLink(ours, lambda message, fds: seen.append(message), lambda: None)
        send_packet(theirs, StopAsked())
        theirs.close()
        link.drain()
        assert seen == [StopAsked()]
        link.close()

    asyncio.run(scenario())


def test_too_large_a_message_is_refused_at_the_sender() -> None:
    async def scenario() -> None:
        ours, theirs = socket_pair()
        link = HostLink(ours, lambda message, fds: None, lambda: None)
        with pytest.raises(ValueError, match="131072"):
            link.send(Served(address="a" * 200_000))
        link.close()
        theirs.close()

    asyncio.run(scenario())


def test_socket_pair_keeps_packets_apart() -> None:
    ours, theirs = socket_pair()
    assert ours.type == socket.SOCK_SEQPACKET
    ours.send(b"one")
    ours.send(b"two")
    assert theirs.recv(100) == b"one"
    ours.close()
    theirs.close()
