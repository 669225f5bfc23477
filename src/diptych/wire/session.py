"""A conversation between two processes that outlives its connections. Pure.

The machines count on every message arriving once and in order. Within a host a socket does that for as
long as both ends live. Between hosts a connection can be cut while both live, and what was under way is
lost; on the next one some of it comes twice. So each message has a number, the receiver says up to which
it has taken them, and the sender keeps the rest, to send it again. Numbers beginning at 1 belong to two
incarnations: whoever restarts has other sessions. (The sliding window of RFC 9293, section 3.4, with
whole messages for octets.)

Nothing here gives a silent peer up: leases do, on the clock of whoever waits. A peer that lets more than
`unacknowledged_max` messages wait is stuck, and `send` says so.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import Generic, TypeVar

import msgspec

from diptych.wire.errors import MalformedMessage, SessionOverflow

__all__ = ["RESEND_NS", "UNACKNOWLEDGED_MAX", "Packet", "Session"]

RESEND_NS = 200_000_000
"""Silence after which what is unacknowledged is sent again; doubled each time, up to `PATIENCE_MAX` times."""
PATIENCE_MAX = 16
RESEND_PACKETS_MAX = 64
"""Sent again at once: a peer that comes back need not be flooded."""
UNACKNOWLEDGED_MAX = 65_536
EARLY_MAX = 1024
"""Messages beyond a gap that are kept until it closes; later ones are left to be sent again."""

Body = TypeVar("Body")


class Packet(msgspec.Struct, Generic[Body], frozen=True, array_like=True):
    number: int
    """Place of `body` among all that the sender told the receiver, from 1; 0 where there is none."""
    taken: int
    """The sender has all that the receiver told it up to this number."""
    body: Body | None = None


class Session(Generic[Body]):
    """One end. Every method returns the packets to put on whatever connection there is."""

    def __init__(self, *, resend_ns: int = RESEND_NS, unacknowledged_max: int = UNACKNOWLEDGED_MAX) -> None:
        self._resend_ns = resend_ns
        self._unacknowledged_max = unacknowledged_max
        self._unacknowledged: deque[tuple[int, Body]] = deque()
        self._sent = 0
        self._taken = 0
        self._early: dict[int, Body] = {}
        self._patience = 1
        self._resend_at_ns: int | None = None
        self.repeats = 0
        """Packets that came again and were dropped."""
        self.gaps = 0
        """Packets that came before one that they follow."""
        self.resent = 0

    @property
    def unacknowledged(self) -> int:
        """Messages that the peer has not said it has."""
        return len(self._unacknowledged)

    def send(self, now_ns: int, body: Body) -> Packet[Body]:
        """Raises `SessionOverflow` where the peer lets too much wait: the session is of no more use."""
        if len(self._unacknowledged) >= self._unacknowledged_max:
            raise SessionOverflow(len(self._unacknowledged), self._unacknowledged_max)
        self._sent += 1
        self._unacknowledged.append((self._sent, body))
        if self._resend_at_ns is None:
            self._wait(now_ns)
        return Packet(self._sent, self._taken, body)

    def receive(self, now_ns: int, packet: Packet[Body]) -> tuple[list[Body], list[Packet[Body]]]:
        """Messages whose turn it is, and the acknowledgement. Raises `MalformedMessage` where the peer
        acknowledges what was never sent."""
        self._acknowledged(now_ns, packet.taken)
        if packet.number == 0:
            return [], []
        if packet.body is None or packet.number < 0:
            raise MalformedMessage(f"packet {packet.number} has no message in it")
        due: list[Body] = []
        if packet.number <= self._taken or packet.number in self._early:
            self.repeats += 1
        elif packet.number > self._taken + 1:
            self.gaps += 1
            if len(self._early) < EARLY_MAX:
                self._early[packet.number] = packet.body
        else:
            self._early[packet.number] = packet.body
            while self._taken + 1 in self._early:
                self._taken += 1
                due.append(self._early.pop(self._taken))
        return due, [Packet(0, self._taken)]

    def connected(self, now_ns: int) -> list[Packet[Body]]:
        """A new connection is there: what the last one may have lost goes first."""
        self._patience = 1
        return self._again(now_ns)

    def next_deadline_ns(self) -> int | None:
        return self._resend_at_ns

    def deadline_passed(self, now_ns: int) -> list[Packet[Body]]:
        if self._resend_at_ns is None or now_ns < self._resend_at_ns:
            return []
        self._patience = min(2 * self._patience, PATIENCE_MAX)
        return self._again(now_ns)

    def _again(self, now_ns: int) -> list[Packet[Body]]:
        self._wait(now_ns)
        held = self._unacknowledged
        again = [Packet(number, self._taken, body) for number, body in islice(held, RESEND_PACKETS_MAX)]
        self.resent += len(again)
        return again

    def _acknowledged(self, now_ns: int, taken: int) -> None:
        if taken > self._sent:
            raise MalformedMessage(f"`taken` is {taken}, of {self._sent} messages sent")
        held = self._unacknowledged
        if not held or taken < held[0][0]:
            return
        while held and held[0][0] <= taken:
            held.popleft()
        self._patience = 1
        self._wait(now_ns)

    def _wait(self, now_ns: int) -> None:
        self._resend_at_ns = now_ns + self._patience * self._resend_ns if self._unacknowledged else None
