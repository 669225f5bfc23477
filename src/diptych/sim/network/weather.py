"""What befalls a link between two machines for a while, packet by packet, as a seed decides.

A link is named `host-0>host-1` (one way) or `host-0=host-1` (both). Sockets inside a machine
(`host-0=host-0`) can be slow and late; they lose, double and reorder nothing.
"""

from __future__ import annotations

import random

import msgspec

from diptych.sim.faults.tally import Tally
from diptych.sim.scenario import Fault

SOCKET_KINDS = ("slow", "delay")
"""What may befall any link; order is kept."""
PACKET_KINDS = ("cut", "loss", "double", "reorder")
"""What only a link between machines knows: packets vanish, come twice, or overtake each other."""
LINK_KINDS = SOCKET_KINDS + PACKET_KINDS


class Passage(msgspec.Struct):
    """How one packet crosses a link."""

    later_ns: int = 0
    """In order with all others of its link."""
    copies: tuple[int, ...] = (0,)
    """Further delay of each copy, which may put it behind later packets; none where it is lost."""


class Weather:
    def __init__(self, seed: int, tally: Tally) -> None:
        self._random = random.Random(f"weather {seed}")
        self._tally = tally
        self._faults: list[Fault] = []
        self._over: list[Fault] = []

    def begin(self, fault: Fault) -> None:
        self._faults.append(fault)

    def passage(self, now_ns: int, source: str, target: str) -> Passage:
        passage = Passage()
        for fault in self._blowing(now_ns, source, target):
            if fault.kind != "cut" and self._random.random() >= fault.chance:
                continue
            if source == target and fault.kind in PACKET_KINDS:
                continue
            self._tally.touch(fault)
            match fault.kind:
                case "cut" | "loss":
                    passage.copies = ()
                case "double":
                    passage.copies *= 2
                case "reorder":
                    passage.copies = tuple(
                        delay_ns + self._random.randrange(fault.delay_ns) for delay_ns in passage.copies
                    )
                case "delay":
                    passage.later_ns += self._random.randrange(fault.delay_ns)
                case _:
                    passage.later_ns += fault.delay_ns
        return passage

    def cut(self, now_ns: int, one: str, other: str) -> bool:
        """Nothing passes, one way or the other: not even word of a closed socket."""
        blowing = (*self._blowing(now_ns, one, other), *self._blowing(now_ns, other, one))
        return any(fault.kind == "cut" for fault in blowing)

    def disturbed(self, since_ns: int, machine: str) -> bool:
        """Whether any link of the machine had its troubles since then."""
        return any(
            fault.at_ns + fault.duration_ns >= since_ns and machine in ends(fault.target)
            for fault in (*self._faults, *self._over)
        )

    def _blowing(self, now_ns: int, source: str, target: str) -> list[Fault]:
        if not self._faults:
            return []
        past = [fault for fault in self._faults if fault.at_ns + fault.duration_ns <= now_ns]
        for fault in past:
            self._faults.remove(fault)
            self._over.append(fault)
        return [fault for fault in self._faults if on_link(fault.target, source, target)]


def ends(link: str) -> tuple[str, str]:
    one, _, other = link.replace(">", "=").partition("=")
    return one, other


def on_link(link: str, source: str, target: str) -> bool:
    one, other = ends(link)
    return (one, other) == (source, target) or ("=" in link and (other, one) == (source, target))
