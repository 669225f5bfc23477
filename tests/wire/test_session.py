"""A session delivers once and in order whatever a link does, and goes on over the next connection."""

from __future__ import annotations

import random

import pytest

from diptych.wire.errors import MalformedMessage, SessionOverflow
from diptych.wire.session import RESEND_NS, Packet, Session


def test_messages_arrive_in_order_and_are_acknowledged() -> None:
    near, far = Session[str](), Session[str]()
    packets = [near.send(0, word) for word in ("a", "b", "c")]
    taken = []
    for packet in packets:
        due, replies = far.receive(1, packet)
        taken += due
        for reply in replies:
            assert near.receive(2, reply) == ([], [])
    assert taken == ["a", "b", "c"]
    assert near.unacknowledged == 0
    assert near.next_deadline_ns() is None


def test_a_packet_that_comes_again_is_dropped_and_acknowledged_again() -> None:
    near, far = Session[str](), Session[str]()
    packet = near.send(0, "a")
    assert far.receive(1, packet) == (["a"], [Packet(0, 1)])
    assert far.receive(2, packet) == ([], [Packet(0, 1)])
    assert far.repeats == 1


def test_what_overtakes_waits_for_what_it_follows() -> None:
    near, far = Session[str](), Session[str]()
    first, second, third = (near.send(0, word) for word in ("a", "b", "c"))
    assert far.receive(1, third) == ([], [Packet(0, 0)])
    assert far.receive(1, second) == ([], [Packet(0, 0)])
    assert far.receive(1, second) == ([], [Packet(0, 0)])
    assert far.receive(1, first) == (["a", "b", "c"], [Packet(0, 3)])
    assert (far.gaps, far.repeats) == (2, 1)


def test_what_is_not_acknowledged_is_sent_again_ever_more_patiently() -> None:
    near = Session[str]()
    near.send(0, "a")
    due_ns = near.next_deadline_ns()
    assert due_ns == RESEND_NS
    assert near.deadline_passed(due_ns - 1) == []
    waits = []
    for _ in range(6):
        assert [packet.body for packet in near.deadline_passed(due_ns)] == ["a"]
        next_ns = near.next_deadline_ns()
        assert next_ns is not None
        waits.append((next_ns - due_ns) // RESEND_NS)
        due_ns = next_ns
    assert waits == [2, 4, 8, 16, 16, 16]


def test_a_new_connection_begins_with_what_the_last_one_may_have_lost() -> None:
    near, far = Session[str](), Session[str]()
    kept, lost = near.send(0, "a"), near.send(0, "b")
    _, (reply,) = far.receive(1, kept)
    near.receive(2, reply)
    assert near.connected(3) == [Packet(2, 0, "b")] == [lost]


def test_a_peer_that_lets_too_much_wait_is_named_with_the_limit() -> None:
    near = Session[int](unacknowledged_max=2)
    near.send(0, 1)
    near.send(0, 2)
    with pytest.raises(SessionOverflow, match=r"2 messages .* the limit is 2"):
        near.send(0, 3)


def test_an_acknowledgement_of_what_was_never_sent_is_refused() -> None:
    with pytest.raises(MalformedMessage, match="`taken` is 4, of 0 messages sent"):
        Session[str]().receive(0, Packet(0, 4))


@pytest.mark.parametrize("seed", range(40))
def test_a_link_that_loses_doubles_and_reorders_changes_nothing(seed: int) -> None:
    """Both ways at once, until every message is acknowledged."""
    random_ = random.Random(seed)
    ends = (Session[int](resend_ns=10), Session[int](resend_ns=10))
    under_way: list[tuple[int, int, Packet[int]]] = []
    taken: tuple[list[int], list[int]] = ([], [])
    loss = random_.choice([0.0, 0.1, 0.6])

    def put(now_ns: int, to: int, packets: list[Packet[int]]) -> None:
        for packet in packets:
            copies = 0 if random_.random() < loss else random_.choice([1, 1, 2])
            under_way.extend((now_ns + random_.randrange(30), to, packet) for _ in range(copies))

    now_ns = 0
    while now_ns < 300 or any(end.unacknowledged for end in ends):
        assert now_ns < 100_000, "a message never arrives"
        for side, end in enumerate(ends):
            if now_ns < 300 and random_.random() < 0.3:
                put(now_ns, 1 - side, [end.send(now_ns, now_ns)])
            due_ns = end.next_deadline_ns()
            if due_ns is not None and due_ns <= now_ns:
                put(now_ns, 1 - side, end.deadline_passed(now_ns))
        for entry in [entry for entry in under_way if entry[0] <= now_ns]:
            under_way.remove(entry)
            due, replies = ends[entry[1]].receive(now_ns, entry[2])
            taken[entry[1]].extend(due)
            put(now_ns, 1 - entry[1], replies)
        now_ns += 1
    for received in taken:
        assert received == sorted(set(received))
    assert min(map(len, taken)) > 30
    sent = [end.send(now_ns, 0).number - 1 for end in ends]
    assert [len(received) for received in reversed(taken)] == sent
