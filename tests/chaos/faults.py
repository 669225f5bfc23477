"""What is done to fleets. Processes are named as the supervisor names them, without their incarnation."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Sequence
from typing import Any

from episode import SOURCE, TARGET, Fault, Scene
from fleet_harness import eventually, is_alive
from hold_down import HoldDown
from moments import ARRIVAL, DECODE, EVERY, HANDOFF, PREFILL
from socket_cutting import cut
from stage import CONTROL, DOOR, SUPERVISOR, WHOLE_S, pause_s

WITHIN = 0.6
"""A pause within the lease lasts so much of it."""
BEYOND = 1.4
HOLD_S = 1.5
"""Both halves of a fleet are away for so long."""
FLIGHT = (PREFILL, HANDOFF, DECODE)


def _signal(scene: Scene, names: Sequence[str], number: signal.Signals) -> None:
    for name in names:
        with contextlib.suppress(ProcessLookupError):
            os.kill(scene.pids[scene.worker(name)], number)


def killed(*names: str) -> Fault:
    return Fault(
        name=f"kill -9: {' and '.join(names)}",
        strike=lambda scene: _signal(scene, names, signal.SIGKILL),
        moments=EVERY,
        victims=frozenset(names),
    )


def paused(*names: str) -> Fault:
    """Stopped for a part of the lease, then continued: nothing may be noticed."""

    def strike(scene: Scene) -> None:
        _signal(scene, names, signal.SIGSTOP)
        pause_s(WITHIN * scene.stage.setting.lease_s)
        _signal(scene, names, signal.SIGCONT)

    return Fault(name=f"stopped within the lease: {' and '.join(names)}", strike=strike, moments=FLIGHT)


def hung(name: str) -> Fault:
    """Stopped for ever: killed, reaped, and started as a new incarnation."""

    def lift(scene: Scene) -> None:
        """Nobody may have needed it: its lease runs out all the same."""
        pid = scene.pids[scene.worker(name)]
        eventually(lambda: not is_alive(pid), f"the end of {name}, which hangs", WHOLE_S)

    def after(scene: Scene) -> list[str]:
        told = scene.stage.why(scene.worker(name))
        return [] if "silent" in told or "overdue" in told else [f"{name} hung and ended otherwise: {told}"]

    return Fault(
        name=f"stopped beyond the lease: {name}",
        strike=lambda scene: _signal(scene, [name], signal.SIGSTOP),
        moments=FLIGHT,
        victims=frozenset([name]),
        lift=lift,
        after=after,
        hang=True,
    )


def held_still(name: str) -> Fault:
    """A process that others depend on stands still for longer than any lease: nobody dies for that."""

    def strike(scene: Scene) -> None:
        _signal(scene, [name], signal.SIGSTOP)
        pause_s(BEYOND * scene.stage.setting.lease_s)
        _signal(scene, [name], signal.SIGCONT)

    return Fault(name=f"held still beyond the lease: {name}", strike=strike, moments=FLIGHT)


def cut_off(one: str, other: str) -> Fault:
    """The socket between two processes ends while both live."""

    def strike(scene: Scene) -> None:
        if not cut(scene.pids[one], scene.pids[other]):
            raise AssertionError(f"{one} and {other} have no connection")

    return Fault(
        name=f"socket cut: {one} and {other}",
        strike=strike,
        moments=EVERY,
        victims=frozenset({one, other} - {CONTROL, DOOR}),
    )


def left_by_clients() -> Fault:
    """Clients of two streams vanish; those of the others notice nothing."""

    def strike(scene: Scene) -> None:
        for stream in scene.streams[:2]:
            if not stream.finished:
                scene.left.add(stream.request_id)
                stream.close()

    return Fault(name="clients vanish", strike=strike, moments=EVERY)


def read_slowly() -> Fault:
    return Fault(name="slow readers", moments=(ARRIVAL,), slow=(1, 4), must_hit=False)


def door_killed() -> Fault:
    return Fault(
        name="kill -9: door",
        strike=lambda scene: _signal(scene, [DOOR], signal.SIGKILL),
        moments=FLIGHT,
        victims=frozenset([DOOR]),
        may_break=True,
    )


def supervisor_killed() -> Fault:
    return Fault(
        name="kill -9: supervisor",
        strike=lambda scene: _signal(scene, [SUPERVISOR], signal.SIGKILL),
        moments=FLIGHT,
        may_break=True,
        ends_fleet=True,
    )


def lost_for_a_while(*names: str, label: str, back_in_time: bool = False, **judged: Any) -> Fault:
    """All workers of a role die, and their successors come only when all clients are served, or a while
    before."""
    holds: dict[str, HoldDown] = {}

    def strike(scene: Scene) -> None:
        hold = holds[scene.name] = HoldDown(scene.stage.fleet, *names)
        _signal(scene, names, signal.SIGKILL)
        if back_in_time:
            pause_s(HOLD_S)
            hold.lift()

    return Fault(
        name=label,
        strike=strike,
        lift=lambda scene: holds.pop(scene.name).lift(),
        victims=frozenset(names),
        **({"moments": EVERY} | judged),
    )


def on_a_pair() -> list[Fault]:
    """Tried where only a fault of ours may run a lease out."""
    return [
        killed("prefill-0"),
        killed("decode-0"),
        killed(CONTROL),
        killed(CONTROL, "decode-0"),
        lost_for_a_while("prefill-0", label="all prefill workers lost"),
        lost_for_a_while("decode-0", label="all decode workers lost"),
        lost_for_a_while("prefill-0", "decode-0", label="all workers lost, then back", back_in_time=True),
        cut_off(CONTROL, "prefill-0"),
        cut_off(CONTROL, "decode-0"),
        cut_off("prefill-0", "decode-0"),
        cut_off(DOOR, "prefill-0"),
        cut_off(DOOR, "decode-0"),
        cut_off(DOOR, CONTROL),
        left_by_clients(),
        read_slowly(),
        door_killed(),
    ]


def with_a_short_lease() -> list[Fault]:
    return [
        paused("prefill-0"),
        paused("decode-0"),
        hung("prefill-0"),
        hung("decode-0"),
        held_still(CONTROL),
        held_still(SUPERVISOR),
        held_still(DOOR),
    ]


def with_gaps_judged() -> list[Fault]:
    """On two workers of each role, by what they do for the stream aimed at."""
    return [killed(SOURCE), killed(TARGET), hung(SOURCE), hung(TARGET)]


def on_a_patient_unlike_pair() -> list[Fault]:
    """Neither worker can compute what the other does; broken streams wait for as long as it takes."""
    return [
        lost_for_a_while("prefill-0", label="only prefill numerics lost, then back", back_in_time=True),
        lost_for_a_while("decode-0", label="only decode numerics lost, then back", back_in_time=True),
    ]


def on_an_impatient_unlike_pair() -> list[Fault]:
    """They do not come back before waiting ends."""

    def goes_on(scene: Scene) -> list[str]:
        record = scene.stage.fleet.trace(scene.aimed.request_id)
        return (
            [] if record["exact"] is False else ["the record of a stream on other numerics does not say so"]
        )

    def ends(scene: Scene) -> list[str]:
        told = str(scene.aimed.error)
        return [] if "numerics" in told else [f"a stream that wanted no other numerics was told: {told}"]

    return [
        lost_for_a_while(
            "decode-0",
            label="only decode numerics lost",
            moments=(DECODE,),
            streams=1,
            exact=False,
            after=goes_on,
        ),
        lost_for_a_while(
            "decode-0",
            label="only decode numerics lost, exact asked",
            moments=(DECODE,),
            streams=1,
            fields={"exact": True},
            may_break=True,
            after=ends,
        ),
    ]
