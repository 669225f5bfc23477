"""A fleet under attack: its processes by name, its logs, and whether it is whole again."""

from __future__ import annotations

import contextlib
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from asked import Size
from fleet_harness import Fleet, descendants, eventually, fleet
from logs import Logs

WHOLE_S = 90.0
"""Far above what a restart takes on a busy machine, with its longest pause before it."""
CONTROL, DOOR, SUPERVISOR = "control", "door-0", "supervisor"
"""As they are told about; of the supervisor only we speak."""
_GONE = re.compile(r"(?P<process>\S+): gone")
_ENDED = re.compile(r"(?P<process>\S+): (?P<why>(gone|killed) .*)")
_STARTED = re.compile(r"(?P<process>\S+): started, pid (?P<pid>[0-9]+)")


class Setting(msgspec.Struct, frozen=True, kw_only=True):
    """Which fleet a fault is tried on."""

    name: str
    arguments: tuple[str, ...]
    workers: tuple[str, ...]
    size: Size
    lease_s: float
    work_s_per_token: float | None = None
    """What a prompt token costs, where that is declared; else workers' own figures are taken."""


class Stage:
    def __init__(self, setting: Setting, running: Fleet, folder: Path, disk: Path | None = None) -> None:
        self.setting = setting
        self.fleet = running
        self.folder = folder
        """Of the logs, as this process sees it."""
        self.disk = disk
        """A small one that they lie on."""
        self.logs = Logs(folder)
        self.wait_ready()
        self.model = running.model()
        self.pages = running.pool_total()
        self._hearing = 0

    @property
    def workers(self) -> tuple[str, ...]:
        return self.setting.workers

    def wait_ready(self) -> None:
        count = len(self.workers)
        try:
            eventually(lambda: self.fleet.all_ready(count), f"{count} workers ready", WHOLE_S)
        except AssertionError as error:
            told = [event.get("text") for event in self.fleet.events[-8:]]
            raise AssertionError(f"{error}; {self.fleet.status()}; the supervisor told: {told}") from None

    def settle(self) -> str:
        """Waits until the fleet is whole; in words what is not, or nothing."""
        self.wait_ready()
        try:
            eventually(self._is_home, "pages", WHOLE_S)
        except AssertionError:
            return f"pages: {[(one['name'], one['pages']) for one in self.fleet.status()['workers']]}"
        return ""

    def _is_home(self) -> bool:
        status = self.fleet.status()
        pages = [one["pages"] for one in status["workers"]]
        held, total = sum(one["held"] for one in pages), sum(one["total"] for one in pages)
        return held == 0 and total == self.pages and not any(status["requests"].values())

    def pid(self, name: str) -> int:
        """Of a process that lives."""
        if name == SUPERVISOR:
            return self.fleet.pid
        if name in (CONTROL, DOOR):
            return self.fleet.pid_of(name.partition("-")[0])
        pid: int = self.fleet.worker(name)["pid"]
        return pid

    def pids(self) -> dict[str, int]:
        return {name: self.pid(name) for name in (*self.workers, CONTROL, DOOR, SUPERVISOR)}

    def rates_s(self) -> dict[str, float]:
        """Seconds a prompt token takes, by worker."""
        declared = self.setting.work_s_per_token
        return {
            one["name"].partition("@")[0]: declared or one["prefill_us_per_token"] / 1e6
            for one in self.fleet.status()["workers"]
        }

    def mark(self) -> None:
        """What the supervisor tells is heard from here on."""
        self._hearing = len(self.fleet.events)

    def gone(self) -> set[str]:
        """Names of the processes that ended since the mark."""
        return {match["process"].partition("@")[0] for match in self._told(_GONE)}

    def started(self) -> dict[str, int]:
        """Pids of those that were started since the mark, by incarnation."""
        return {match["process"]: int(match["pid"]) for match in self._told(_STARTED)}

    def why(self, name: str) -> str:
        """What the supervisor told since the mark about the ends of a process."""
        return "; ".join(
            match["why"] for match in self._told(_ENDED) if match["process"].partition("@")[0] == name
        )

    def _told(self, pattern: re.Pattern[str]) -> Iterator[re.Match[str]]:
        for event in self.fleet.events[self._hearing :]:
            match = pattern.match(event.get("text", ""))
            if match is not None:
                yield match

    def orphans(self) -> set[int]:
        return descendants(self.fleet.pid)


DISK = "/mnt"


@contextlib.contextmanager
def stage(setting: Setting, within: Sequence[str] = ()) -> Iterator[Stage]:
    """A recorded fleet of this setting, ready; its logs are deleted at the end. `within`: `small_disk`'s
    command, for a fleet that has its logs and records there."""
    with (
        tempfile.TemporaryDirectory(prefix="chaos-") as place,
        (Path(place) / "errors").open("w") as errors,
    ):
        written = Path(DISK if within else place)
        lease = ("--lease", str(setting.lease_s))
        record = ("--record", f"{written}/logs", "--records", f"{written}/records")
        with fleet(*setting.arguments, *lease, *record, within=within, errors=errors) as running:
            # The small disk is only seen by the fleet's processes, and through them.
            disk = Path(f"/proc/{running.pid}/root{DISK}") if within else None
            yield Stage(setting, running, (disk or written) / "logs", disk)


def small_disk(mebibytes: int) -> Sequence[str] | None:
    """A command that runs another one where `DISK` is a new, small disk, seen by nobody else; None where
    this process may not mount."""
    command = ("unshare", "--mount", "sh", "-c")
    mount = f"mount -t tmpfs -o size={mebibytes}m none {DISK}"
    try:
        if subprocess.run([*command, mount], capture_output=True, check=False).returncode != 0:
            return None
    except FileNotFoundError:
        return None
    return (*command, f'{mount} && exec "$@"', "sh")


def pause_s(seconds: float) -> None:
    """A fault that is held so long."""
    time.sleep(seconds)
