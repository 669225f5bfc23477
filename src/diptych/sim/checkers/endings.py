"""Every request ends once, in time, as a whole or with a failure that has a name."""

from __future__ import annotations

from diptych.core.control import ControlPlane
from diptych.core.facts import DeadlinePassed, Fact
from diptych.sim.door import Client
from diptych.sim.events import Violation

REJECTIONS = frozenset({"overloaded", "too_long", "unknown_model", "unavailable"})
FAILURES = (
    "client_gone",
    "deadline",
    "door_lost",
    "no worker could take the request in time",
    "workers died under this request",
    "needs KV for",
)


def check_in_time(control: ControlPlane, clock_ns: int, fact: Fact) -> None:
    """No deadline is passed over, and none of those that are to come would be. `clock_ns` is control's."""
    due_ns = control.next_deadline_ns()
    for request in control.requests.open.values():
        if request.deadline_ns is None:
            continue
        if isinstance(fact, DeadlinePassed) and request.deadline_ns <= clock_ns:
            raise Violation("past its deadline", request.arrived.request)
        if due_ns is None or due_ns > request.deadline_ns:
            raise Violation("deadline forgotten", f"{request.arrived.request}, next is {due_ns}")


def check_ends(clients: list[Client]) -> None:
    """At quiet, over all requests whose door lived to see their end."""
    ended: set[str] = set()
    for client in clients:
        name = client.plan.request
        if name in ended:
            raise Violation("ended twice", name)
        ended.add(name)
        if client.gone or client.complete():
            continue
        failure = client.failure
        if failure is None:
            raise Violation("ended without a name", f"{name}: {client.reasons}")
        if failure not in REJECTIONS and not any(known in failure for known in FAILURES):
            raise Violation("ended without a name", f"{name}: {failure}")
        if failure == "deadline" and client.plan.deadline_ns is None:
            raise Violation("deadline of its own", name)
