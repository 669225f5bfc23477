"""The disk with the machines' logs and the door's records is full: recording ends, serving goes on."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from pathlib import Path

from episode import Fault, Scene
from fleet_harness import eventually
from moments import DECODE, PREFILL, RESERVED
from stage import CONTROL, WHOLE_S

FILLER = "filler"
BLOCK = bytes(1 << 16)
_RECORDED = ("prefill-0", "decode-0", CONTROL)


def disk_full() -> Fault:
    return Fault(
        name="full disk for logs",
        strike=_fill,
        moments=(RESERVED, PREFILL, DECODE),
        lift=_renew,
        renewed=frozenset(_RECORDED),
        needs_disk=True,
    )


def _fill(scene: Scene) -> None:
    """A file that takes what the small disk has left; where there is none, a limit to the size of the
    processes' files, which they meet at the next line."""
    if scene.stage.disk is None:
        for name in _RECORDED:
            log = max(_logs(scene, name), key=lambda path: path.stat().st_mtime)
            limits = resource.prlimit(scene.pids[name], resource.RLIMIT_FSIZE)
            size = (log.stat().st_size, limits[1])
            resource.prlimit(scene.pids[name], resource.RLIMIT_FSIZE, size)
        return
    with contextlib.suppress(OSError), (scene.stage.disk / FILLER).open("wb", buffering=0) as filler:
        while True:
            filler.write(BLOCK)


def _logs(scene: Scene, name: str) -> list[Path]:
    return list(scene.stage.folder.glob(f"{name}@*.jsonl"))


def _cut(scene: Scene) -> list[Path]:
    return list(scene.stage.folder.glob("*.cut.jsonl"))


def _renew(scene: Scene) -> None:
    """Waits until all recordings have ended, makes room, and has every machine begin a new one."""
    eventually(lambda: len(_cut(scene)) >= len(_RECORDED), f"recordings that end; {_cut(scene)}", WHOLE_S)
    if scene.stage.disk is not None:
        (scene.stage.disk / FILLER).unlink()
    scene.stage.logs.read()
    for path in scene.stage.folder.glob("*.jsonl"):
        path.unlink()
    for name in _RECORDED:
        with contextlib.suppress(ProcessLookupError):
            os.kill(scene.pids[name], signal.SIGKILL)
