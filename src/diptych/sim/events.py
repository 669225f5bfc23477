"""What passes through the simulated world beside the core's facts."""

from __future__ import annotations

import msgspec

from diptych.core.facts import Fact
from diptych.core.ids import Attempt, RequestId
from diptych.core.recipe import Recipe
from diptych.sim.scenario import RequestPlan
from diptych.wire.session import Packet


class Violation(Exception):
    """A checker caught a machine breaking a promise; `rule` says which."""

    def __init__(self, rule: str, detail: str) -> None:
        super().__init__(f"{rule}: {detail}")
        self.rule = rule
        self.detail = detail


class Event(msgspec.Struct, frozen=True):
    """Base of the events that no machine sees."""


class Alarm(Event, frozen=True):
    """The deadline that a machine named may have come."""


class Resumed(Event, frozen=True):
    """A paused process runs again."""


class RunBorder(Event, frozen=True):
    """The last step of a run ends."""

    run: int
    steps: int


class Arrival(Event, frozen=True):
    """A client's request reaches its door."""

    plan: RequestPlan
    history: tuple[int, ...] = ()


class Departure(Event, frozen=True):
    """The client of a request hangs up."""

    request: RequestId


class Frame(Event, frozen=True):
    """Tokens from a step loop to a door; `reason` comes with the last ones of a sequence."""

    request: RequestId
    attempt: Attempt
    sequence: int
    first: int
    tokens: tuple[int, ...]
    recipe: Recipe
    reason: str | None


class PauseFrame(Event, frozen=True):
    request: RequestId
    attempt: Attempt


class ControlUp(Event, frozen=True):
    generation: int


class ControlDown(Event, frozen=True):
    generation: int


class SocketClosed(Event, frozen=True):
    """A worker's process is gone: nothing more comes from it."""

    worker: str


class DoorUp(Event, frozen=True):
    """A door that was lost is started again."""

    door: str


class FenceAsked(Event, frozen=True):
    """Control asks the agent of a host to kill a worker and reap it."""

    worker: str


class Reaped(Event, frozen=True):
    worker: str


class Started(Event, frozen=True):
    """A worker process is loaded and dials."""

    worker: str


class DrainRead(Event, frozen=True):
    """A door has read a worker's socket up to where it was asked to."""

    request: RequestId
    attempt: Attempt


class ReadUp(Event, frozen=True):
    """A slow client has read all that its door has for it."""

    request: RequestId


class PacketArrived(Event, frozen=True):
    """A packet of a session reaches the other end's machine."""

    source: str
    target: str
    packet: Packet[tuple[Fact | Event, object]]


class ResendDue(Event, frozen=True):
    """One end of a session may have waited long enough for an acknowledgement."""

    source: str
    target: str


class NoticeDue(Event, frozen=True):
    """Word of a closed socket reaches the other end's machine, unless nothing passes there."""

    dead: str
    receiver: str
    event: Fact | Event


class Injected(Event, frozen=True):
    """A planned fault strikes."""

    number: int


class Payload(msgspec.Struct, frozen=True):
    """The attachment of a request: what step loops need and machines never see."""

    salt: str
    prompt: tuple[int, ...]
    lengths: tuple[int, ...]
    tokens_max: int
    emitted: tuple[tuple[int, ...], ...]
