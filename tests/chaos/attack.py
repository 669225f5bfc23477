"""Plays faults on fleets, each so many times at its moments in turn, and checks what is left of a fleet."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence

import msgspec
from episode import Episode, Fault, play
from moments import HANDOFF, Moment
from stage import Setting, Stage, stage
from wardrobe import Wardrobe

TRIES = 4
"""So often a moment is tried to be met, for each time it is asked for."""


class Attack(msgspec.Struct, frozen=True, kw_only=True):
    """Faults that are tried on one fleet, one after the other."""

    setting: Setting
    faults: tuple[Fault, ...]
    judged: bool = False
    """Delays have a limit."""


def carry_out(
    attack: Attack,
    times: int,
    wardrobe: Wardrobe,
    tell: Callable[[str, bool], None],
    within: Sequence[str] = (),
) -> Iterator[Episode]:
    """Episodes as they end; `tell` hears of each in words, and whether it counts."""
    name = 0
    for faults in _by_fleet(attack.faults):
        # In turns: a process that is killed over and over waits longer and longer for its next life.
        waiting = [(fault, index) for index in range(times) for fault in faults]
        while waiting:
            # Where a fleet is broken, the rest goes on with a new one.
            with stage(attack.setting, within) as one:
                broken = False
                while waiting and not broken:
                    fault, index = waiting.pop(0)
                    moment = fault.moments[index % len(fault.moments)]
                    for _ in range(TRIES):
                        name += 1
                        episode, broken = _play(one, fault, moment, wardrobe, f"c{name}")
                        tell(f"{fault.name}, {moment.name}", episode.hit or broken)
                        yield episode
                        if episode.hit or broken:
                            break
                    broken = broken or fault.ends_fleet
                if not faults[0].needs_disk:
                    yield replayed(one)


def _by_fleet(faults: Sequence[Fault]) -> list[list[Fault]]:
    """Those that leave nothing of a fleet come last, apart."""
    lasting = [fault for fault in faults if not fault.ends_fleet]
    ending = [[fault] for fault in faults if fault.ends_fleet]
    return [lasting, *ending] if lasting else ending


def _play(one: Stage, fault: Fault, moment: Moment, wardrobe: Wardrobe, name: str) -> tuple[Episode, bool]:
    group = wardrobe.take(long=moment is HANDOFF)
    try:
        return play(one, fault, moment, group, name), False
    except (AssertionError, LookupError, OSError) as error:
        return _failed(one, fault.name, moment.name, f"{type(error).__name__}: {error}"), True


def replayed(one: Stage) -> Episode:
    """The logs of all that this fleet went through, replayed through the same machines."""
    command = [sys.executable, "-m", "diptych.cli", "replay", "--json", str(one.folder)]
    replay = subprocess.run(command, capture_output=True, text=True, check=False)
    words = "" if replay.returncode == 0 else (replay.stdout or replay.stderr)[-1500:]
    return _failed(one, "replay of the logs", "at the end", words)


def _failed(one: Stage, fault: str, moment: str, words: str) -> Episode:
    return Episode(
        fault=fault,
        setting=one.setting.name,
        moment=moment,
        hit=True,
        touched=0,
        lost=[],
        different=[],
        wrong=[words] if words else [],
        delays_s=[],
        work_s=[],
        allowed_s=0.0,
        seconds=0.0,
    )
