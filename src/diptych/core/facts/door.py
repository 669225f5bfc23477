"""What a door tells control about requests, clients and streams."""

from __future__ import annotations

import msgspec

from diptych.core.facts.base import Fact, Outputs, RequestFact, SequenceStart
from diptych.core.ids import Attempt, PageHash, RequestId
from diptych.core.recipe import Recipe


class RequestArrived(Fact, frozen=True):
    request: RequestId
    door: str
    model: str
    prompt_tokens: int
    page_hashes: tuple[PageHash, ...]
    """One per full page of the prompt's tokens [0, prompt_tokens - 1)."""
    tokens_max: int
    sequences: int = 1
    adapter: str = ""
    tenant: str = ""
    priority: int = 0
    """Higher goes first."""
    logits_from: int | None = None
    """Logits of positions from here on are needed: neither split nor prefix reuse passes it."""
    seeded: bool = False
    exact: bool = False
    """Rather ended than continued, or begun, by other numerics than those of its recipe."""
    deadline_ns: int | None = None
    """A duration, counted from the arrival at control."""
    trace: str = ""


class ClientGone(Fact, frozen=True):
    request: RequestId


class StreamDrained(RequestFact, frozen=True):
    """The door has read all that the attempt's worker ever sent; this is what the client has."""

    starts: tuple[SequenceStart, ...]
    """The sequences that have not finished."""
    finished: Outputs = ()
    """Those that have, over all attempts."""


class OpenRequest(msgspec.Struct, frozen=True, array_like=True):
    """A request as a door knows it, told to a control plane that may have forgotten it."""

    arrived: RequestArrived
    attempt: Attempt | None
    """The attempt that is streaming, if the door knows of one."""
    recipe: Recipe
    starts: tuple[SequenceStart, ...]
    finished: Outputs = ()
    exact: bool = True
    """As the last `RequestRouted` said."""


class DoorJoined(Fact, frozen=True):
    door: str
    open: tuple[OpenRequest, ...] = ()


class DoorLost(Fact, frozen=True):
    door: str
