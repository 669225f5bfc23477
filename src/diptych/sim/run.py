"""Runs one scenario to its end under all checkers, and says how it ended."""

from __future__ import annotations

import msgspec

from diptych.core.errors import DiptychError
from diptych.sim.checkers import Checkers
from diptych.sim.events import Violation
from diptych.sim.faults.tally import Count
from diptych.sim.scenario import MILLISECOND_NS, Scenario
from diptych.sim.trace import Recorder
from diptych.sim.world import World

SETTLE_NS = 15_000 * MILLISECOND_NS
"""Time at most for the last deaths to be noticed and their estates to be granted anew."""
STILL_NS = 1_000 * MILLISECOND_NS
"""When nobody has said anything but that it is alive for so long (and a lease, a back-off and a start more),
after the last fault is over, nothing more will happen."""


BROKEN = (
    *(Violation, DiptychError, AssertionError, LookupError, ValueError, TypeError),
    *(AttributeError, RuntimeError, ArithmeticError),
)
"""What a broken promise looks like: a checker or a machine complains, or one of them falls over."""


class Outcome(msgspec.Struct, frozen=True):
    seed: int
    digest: str
    events: int
    requests: int
    whole: int
    """Streams that the client got to their end."""
    failures: dict[str, int]
    """How many ended with which failure."""
    resumed: int
    exact: int
    splits: dict[str, int]
    """Of whole streams: aggregated, partial, full."""
    cached_tokens: int
    faults: dict[str, Count]
    """By kind: how many were injected, and how many met something."""


class Failed(Exception):
    """A promise was broken; carries the seed, the reason and the last lines of the trace."""

    def __init__(self, seed: int, reason: str, lines: list[str]) -> None:
        super().__init__(f"seed {seed}: {reason}")
        self.seed = seed
        self.reason = reason
        self.lines = lines


def simulate(scenario: Scenario, check_every: int = 1) -> Outcome:
    """Raises `Failed` with the reason when a machine or a checker complains, or a request is stuck."""
    return watch(scenario, Recorder(), check_every)


def watch(scenario: Scenario, recorder: Recorder, check_every: int = 1) -> Outcome:
    """As `simulate`, with the caller's recorder."""
    world = World(scenario)
    checkers = Checkers(world, check_every)
    world.observers = [recorder, checkers]
    try:
        last_ns = max((r.at_ns for r in scenario.requests), default=0)
        last_ns = max([last_ns, *(f.at_ns + f.duration_ns for f in scenario.faults)])
        if not world.driver.run(world.idle, last_ns + scenario.horizon_ns):
            open_requests = [name for door in world.doors.values() for name in door.clients]
            raise Violation("stuck", f"open at the horizon: {open_requests}")
        settle(world)
        if not world.idle():
            raise Violation("not quiet", "something opened after the end")
        checkers.at_quiet()
    except BROKEN as error:
        reason = f"{type(error).__name__}: {error}"
        raise Failed(scenario.seed, reason, recorder.lines) from error
    return summarise(world, recorder)


def settle(world: World) -> None:
    """Lets the world come to rest."""
    scenario = world.scenario
    over_ns = max((f.at_ns + f.duration_ns for f in scenario.faults), default=0)
    world.driver.run(lambda: False, max(world.driver.now_ns, over_ns))
    load_ns = max((plan.load_ns for plan in scenario.workers), default=0)
    still_ns = STILL_NS + scenario.control.lease_ns + scenario.backoff_ns + load_ns
    until_ns = world.driver.now_ns + SETTLE_NS
    words = -1
    # A copy that hangs says nothing either.
    while (world.words != words or world.transfers.moving) and world.driver.now_ns < until_ns:
        words = world.words
        world.driver.run(lambda: False, world.driver.now_ns + still_ns)


def summarise(world: World, recorder: Recorder) -> Outcome:
    failures: dict[str, int] = {}
    splits = {"aggregated": 0, "partial": 0, "full": 0}
    whole = resumed = exact = cached = 0
    page = world.scenario.page_tokens
    timed = sum(client.plan.deadline_ns is not None for client in world.done)
    if timed:
        world.tally.note("deadline", injected=timed)
    for client in world.done:
        if client.gone or client.failure is not None:
            reason = "client gone" if client.gone else client.failure or ""
            if reason == "deadline":
                world.tally.note("deadline", effective=1)
            failures[reason] = failures.get(reason, 0) + 1
            continue
        whole += 1
        if client.record is None:
            continue
        record = client.record
        resumed += len(record.attempts) > 1
        exact += record.exact
        cached += record.cached_tokens
        last_border = (record.prompt_tokens - 1) // page * page
        full = record.split >= last_border
        splits["aggregated" if record.split == 0 else "full" if full else "partial"] += 1
    return Outcome(
        seed=world.scenario.seed,
        digest=recorder.digest(),
        events=world.driver.events,
        requests=len(world.done),
        whole=whole,
        failures=dict(sorted(failures.items())),
        resumed=resumed,
        exact=exact,
        splits=splits,
        cached_tokens=cached,
        faults=world.tally.counts,
    )
