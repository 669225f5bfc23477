"""Attacks live fleets with everything that may happen to one, and tells what became of their streams.

    make chaos                               everything, ten times, on the embedded model (25 minutes)
    make chaos ARGS="--times 1"              everything, once
    make chaos ARGS="--scripted --only cut"  faults with this in their name, without the model

The exit status is 1 where a stream was lost or differs, or anything else was not as it should be, and 3
where only a delay passed its limit.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from aborts import ABORT, abort_many
from attack import Attack, carry_out
from disk import disk_full
from episode import Episode, Fault
from faults import (
    on_a_pair,
    on_a_patient_unlike_pair,
    on_an_impatient_unlike_pair,
    supervisor_killed,
    with_a_short_lease,
    with_gaps_judged,
)
from figures import document, rows_of, show
from pressure import pool_exhausted
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from settings import (
    NATIVE,
    NATIVE_REFERENCE,
    NATIVE_SHORT_LEASE,
    NATIVE_SMALL_POOL,
    SCRIPTED,
    SCRIPTED_REFERENCE,
    SCRIPTED_SHORT_LEASE,
    SCRIPTED_TWO_EACH,
    UNLIKE_IMPATIENT,
    UNLIKE_PATIENT,
)
from stage import Setting, small_disk, stage
from wardrobe import Wardrobe, undisturbed

from prioritised import take_priority

GROUPS = {NATIVE_REFERENCE.name: 18, SCRIPTED_REFERENCE.name: 42}
DISK_MIB = 8
ABORTS_SCRIPTED, ABORTS_NATIVE = 1000, 40
"""For each of `--times`."""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python tests/chaos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--times", type=int, default=10, help="how often each fault is tried (10)")
    parser.add_argument("--only", default="", metavar="WORDS", help="faults with these words in their name")
    parser.add_argument("--fleet", default="", metavar="WORDS", help="fleets with these words in their name")
    parser.add_argument("--ahead", action="store_true", help="go before other programs (needs root)")
    parser.add_argument("--scripted", action="store_true", help="scripted workers only, without the model")
    parser.add_argument("--groups", type=int, help="groups of streams with known answers (18 and 42)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="of the random moments of aborts")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write rows and episodes as JSON")
    return parser.parse_args()


def plan(*, scripted: bool) -> list[Attack]:
    """The same faults on the real model and on scripted workers; the gaps are judged on the latter."""
    gaps = Attack(setting=SCRIPTED_TWO_EACH, faults=tuple(with_gaps_judged()), judged=True)
    pair, short = (SCRIPTED, SCRIPTED_SHORT_LEASE) if scripted else (NATIVE, NATIVE_SHORT_LEASE)
    attacks = [
        Attack(setting=pair, faults=(*on_a_pair(), supervisor_killed())),
        Attack(setting=short, faults=tuple(with_a_short_lease())),
        Attack(setting=pair, faults=(disk_full(),)),
        Attack(setting=UNLIKE_PATIENT, faults=tuple(on_a_patient_unlike_pair())),
        Attack(setting=UNLIKE_IMPATIENT, faults=tuple(on_an_impatient_unlike_pair())),
        gaps,
    ]
    # A pool of scripted pages, which hold a hash each, is never exhausted.
    return attacks if scripted else [*attacks, Attack(setting=NATIVE_SMALL_POOL, faults=(pool_exhausted(),))]


def main() -> int:
    options = parse()
    priority = take_priority() if options.ahead else "usual priority"
    console = Console(width=None if sys.stdout.isatty() else 150)
    attacks = [
        Attack(setting=one.setting, judged=one.judged, faults=_named(one.faults, options.only))
        for one in plan(scripted=options.scripted)
        if options.fleet in one.setting.name
    ]
    attacks = [one for one in attacks if one.faults]
    begun_s = time.monotonic()
    columns = (TextColumn("{task.description:60.60}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        run = Run(options, progress)
        run.find_answers(attacks)
        run.attack(attacks)
        run.abort()
    rows = rows_of(run.episodes, frozenset(one.setting.name for one in attacks if one.judged))
    show(console, rows)
    here = {
        "times": options.times,
        "seed": options.seed,
        "seconds": round(time.monotonic() - begun_s),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 1),
        "priority": priority,
    }
    console.print(", ".join(f"{name} {value}" for name, value in here.items()), highlight=False)
    if options.json is not None:
        options.json.write_text(json.dumps(document(rows, **here), indent=2) + "\n", encoding="utf-8")
    if any(row.failed for row in rows):
        return 1
    return 3 if any(row.late for row in rows) else 0


def _named(faults: tuple[Fault, ...], words: str) -> tuple[Fault, ...]:
    return tuple(fault for fault in faults if words in fault.name)


class Run:
    """What one invocation does, in order."""

    def __init__(self, options: argparse.Namespace, progress: Progress) -> None:
        self.options = options
        self.progress = progress
        self.begun_s = time.monotonic()
        self.episodes: list[Episode] = []
        self.wardrobes: dict[str, Wardrobe] = {}

    def find_answers(self, attacks: list[Attack]) -> None:
        """The undisturbed answers of all kinds of fleets that are attacked."""
        for setting in (NATIVE_REFERENCE, SCRIPTED_REFERENCE):
            kind = setting.name
            if not any(one.setting.name.startswith(kind) for one in attacks):
                continue
            count = self.options.groups or GROUPS[kind]
            task = self.progress.add_task(f"undisturbed answers ({kind})", total=count)
            self.wardrobes[kind] = undisturbed(setting, count, lambda task=task: self.progress.advance(task))

    def attack(self, attacks: list[Attack]) -> None:
        for one in attacks:
            task = self.progress.add_task(one.setting.name, total=len(one.faults) * self.options.times)

            def tell(words: str, counts: bool, task=task) -> None:
                self.progress.update(task, description=words, advance=1 if counts else 0)
                if self.progress.disable:
                    print(f"{time.monotonic() - self.begun_s:5.0f} s  {words}", file=sys.stderr, flush=True)

            within = (small_disk(DISK_MIB) or ()) if one.faults[0].needs_disk else ()
            wardrobe = self.wardrobes[one.setting.name.partition(",")[0]]
            for episode in carry_out(one, self.options.times, wardrobe, tell, within):
                self.episodes.append(episode)
                for words in (*episode.lost, *episode.different, *episode.wrong):
                    self.progress.console.print(
                        f"{episode.fault}, {episode.moment}: {words[:600]}", markup=False
                    )

    def abort(self) -> None:
        if self.options.only not in ABORT:
            return
        if self.options.fleet in SCRIPTED.name:
            self._abort(SCRIPTED, ABORTS_SCRIPTED * self.options.times, 0.4)
        if self.options.fleet in NATIVE.name and not self.options.scripted:
            self._abort(NATIVE, ABORTS_NATIVE * self.options.times, 3.0)

    def _abort(self, setting: Setting, count: int, longest_s: float) -> None:
        task = self.progress.add_task(f"aborts ({setting.name})", total=count)
        with stage(setting) as one:
            tell = lambda: self.progress.advance(task)  # noqa: E731
            self.episodes.append(abort_many(one, count, longest_s, self.options.seed, tell))
