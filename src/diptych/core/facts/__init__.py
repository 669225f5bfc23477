"""Everything that can happen, as a machine of the core is told it. Frozen, past tense, self-contained.

A fact that one machine sends to another is the same value on a Unix socket, on a simulated link and in
a log. Facts about a request carry its attempt: one with an old attempt is a late one.

    door.py     a door tells control            host.py     the supervisor and the driver tell a machine
    worker.py   a worker tells control          orders.py   control tells workers and doors
    handoff.py  workers tell each other         base.py     what these share
    pull.py     the same between unlike pools
"""

from __future__ import annotations

from diptych.core.facts.base import Fact, Outputs, RequestFact, SequenceStart
from diptych.core.facts.door import (
    ClientGone,
    DoorJoined,
    DoorLost,
    OpenRequest,
    RequestArrived,
    StreamDrained,
)
from diptych.core.facts.handoff import (
    ClaimReleased,
    ContextLent,
    ContextNeeded,
    ContextReturned,
    OfferAnswered,
    PagesGiven,
    PagesOffered,
)
from diptych.core.facts.host import (
    ConnectionLost,
    ControlJoined,
    ControlLost,
    DeadlinePassed,
    DriverStalled,
    HostStated,
    WorkerLost,
    WorkerSpawned,
)
from diptych.core.facts.orders import (
    AttemptRecord,
    EstateSettled,
    PagesGranted,
    PeerLost,
    PrefillRequested,
    RecipeFixed,
    RequestEnded,
    RequestRecord,
    RequestRejected,
    RequestReleased,
    RequestRouted,
    RouteReasons,
    SourceLost,
    StreamInterrupted,
    TargetRequested,
)
from diptych.core.facts.pull import ClaimsRenewed, PagesPulled, PullConfirmed, PullEnded
from diptych.core.facts.worker import (
    FetchFailed,
    OwnershipStated,
    PrefillFinished,
    SequenceFinish,
    StepsRan,
    StreamEnded,
    StreamPaused,
    StreamStarted,
    TargetRefused,
    TargetReserved,
    WorkerBeat,
    WorkerJoined,
)

__all__ = [
    "WIRE_FACTS",
    "AttemptRecord",
    "ClaimReleased",
    "ClaimsRenewed",
    "ClientGone",
    "ConnectionLost",
    "ContextLent",
    "ContextNeeded",
    "ContextReturned",
    "ControlJoined",
    "ControlLost",
    "DeadlinePassed",
    "DoorJoined",
    "DoorLost",
    "DriverStalled",
    "EstateSettled",
    "Fact",
    "FetchFailed",
    "HostStated",
    "OfferAnswered",
    "OpenRequest",
    "Outputs",
    "OwnershipStated",
    "PagesGiven",
    "PagesGranted",
    "PagesOffered",
    "PagesPulled",
    "PeerLost",
    "PrefillFinished",
    "PrefillRequested",
    "PullConfirmed",
    "PullEnded",
    "RecipeFixed",
    "RequestArrived",
    "RequestEnded",
    "RequestFact",
    "RequestRecord",
    "RequestRejected",
    "RequestReleased",
    "RequestRouted",
    "RouteReasons",
    "SequenceFinish",
    "SequenceStart",
    "SourceLost",
    "StepsRan",
    "StreamDrained",
    "StreamEnded",
    "StreamInterrupted",
    "StreamPaused",
    "StreamStarted",
    "TargetRefused",
    "TargetRequested",
    "TargetReserved",
    "WorkerBeat",
    "WorkerJoined",
    "WorkerLost",
    "WorkerSpawned",
]

WIRE_FACTS: tuple[type[Fact], ...] = (
    *(fact for fact in Fact.__subclasses__() if fact is not RequestFact),
    *RequestFact.__subclasses__(),
)
