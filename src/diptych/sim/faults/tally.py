"""How often each kind of fault was injected, and how often it met something that it could harm."""

from __future__ import annotations

import msgspec

from diptych.core.config import ControlConfig
from diptych.core.ids import CONTROL
from diptych.sim.scenario import Fault


class Count(msgspec.Struct):
    injected: int = 0
    effective: int = 0
    touched: int = 0
    """Packets, pulls, requests or whatever else it harmed."""


class Tally:
    def __init__(self, control: ControlConfig) -> None:
        self._lease_ns = control.lease_ns
        self.counts: dict[str, Count] = {}
        self._effective: set[Fault] = set()

    def inject(self, fault: Fault) -> None:
        self._count(self.label(fault)).injected += 1

    def touch(self, fault: Fault, times: int = 1) -> None:
        """The fault met something, perhaps not for the first time."""
        if times < 1:
            return
        count = self._count(self.label(fault))
        count.touched += times
        if fault not in self._effective:
            self._effective.add(fault)
            count.effective += 1

    def note(self, label: str, *, injected: int = 0, effective: int = 0) -> None:
        """Of what comes without a fault of its own: deadlines, restarts, pools that are too small."""
        count = self._count(label)
        count.injected += injected
        count.effective += effective
        count.touched += effective

    def label(self, fault: Fault) -> str:
        longer = "longer" if fault.duration_ns > self._lease_ns else "shorter"
        match fault.kind:
            case "kill":
                return "control death" if fault.target == CONTROL else "worker death"
            case "pause" if fault.target == CONTROL:
                return "control stands still"
            case "pause" | "freeze" | "stall":
                return f"{LABELS[fault.kind]}, {longer} than the lease"
            case "cut":
                return "one-way partition" if ">" in fault.target else "link down"
            case _:
                return LABELS[fault.kind]

    def _count(self, label: str) -> Count:
        return self.counts.setdefault(label, Count())


LABELS = {
    "pause": "worker pause",
    "freeze": "whole host stands still",
    "stall": "worker's driver stands still",
    "unplug": "socket cut",
    "lose": "door death",
    "leave": "client gone",
    "dawdle": "slow client",
    "flood": "page exhaustion",
    "slow": "link slow",
    "delay": "message delay",
    "loss": "message loss",
    "double": "message duplication",
    "reorder": "message reordering",
}


def add(total: dict[str, Count], counts: dict[str, Count]) -> None:
    for label, count in counts.items():
        held = total.setdefault(label, Count())
        held.injected += count.injected
        held.effective += count.effective
        held.touched += count.touched
