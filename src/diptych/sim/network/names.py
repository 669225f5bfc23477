"""How the parties of a simulated world are called."""

from __future__ import annotations

from diptych.core.ids import CONTROL

AGENT = "agent "


def agent_of(host: str) -> str:
    """The party that starts, kills and reaps the workers of a host."""
    return AGENT + host


def is_control(party: str) -> bool:
    return party.partition("#")[0] == CONTROL


def generation_of(party: str) -> int:
    """`control#2` is the second; the explorer has only one."""
    return int(party.partition("#")[2] or 1)
