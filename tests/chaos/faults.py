"""What is done to fleets. Processes are named as the supervisor names them, without their incarnation."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Sequence

from episode import SOURCE, TARGET, Fault, Scene
from fleet_harness import eventually, is_alive
from moments import ARRIVAL, DECODE, EVERY, HANDOFF, PREFILL
from socket_cutting import cut
from stage import CONTROL, DOOR, SUPERVISOR, WHOLE_S, pause_s

WITHIN = 0.6
"""A pause within the lease lasts so much of it."""
BEYOND = 1.4
HOLD_S = 1.5
"""Both halves of a fleet are away for so long."""
WATCH_S = 0.01
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


class _HoldDown:
    """Stops every new incarnation of some workers as soon as it is started, until it is lifted."""

    def __init__(self, scene: Scene, names: Sequence[str]) -> None:
        self._scene = scene
        self._names = names
        self._held: dict[str, int] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._over.wait(WATCH_S):
            for process, pid in self._scene.stage.started().items():
                if process.partition("@")[0] in self._names and process not in self._held:
                    os.kill(pid, signal.SIGSTOP)
                    self._held[process] = pid

    def lift(self) -> None:
        self._over.set()
        self._thread.join()
        for pid in self._held.values():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


def lost_for_a_while(*names: str, back_in_time: bool, exact: bool = True, label: str = "") -> Fault:
    """All workers of a role die, and their successors do not come, or come only after a while."""
    holds: dict[str, _HoldDown] = {}

    def strike(scene: Scene) -> None:
        hold = holds[scene.name] = _HoldDown(scene, names)
        _signal(scene, names, signal.SIGKILL)
        if back_in_time:
            pause_s(HOLD_S)
            hold.lift()

    def lift(scene: Scene) -> None:
        holds.pop(scene.name).lift()

    return Fault(
        name=label or f"no {' and no '.join(names)}",
        strike=strike,
        lift=lift,
        moments=EVERY,
        victims=frozenset(names),
        exact=exact,
    )


def on_a_pair() -> list[Fault]:
    """Tried where only a fault of ours may run a lease out."""
    return [
        killed("prefill-0"),
        killed("decode-0"),
        killed(CONTROL),
        killed(CONTROL, "decode-0"),
        lost_for_a_while("prefill-0", back_in_time=False, label="all prefill workers lost"),
        lost_for_a_while("decode-0", back_in_time=False, label="all decode workers lost"),
        lost_for_a_while("prefill-0", "decode-0", back_in_time=True, label="all workers lost, then back"),
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
