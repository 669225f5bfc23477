"""More streams than the pool has room for: some wait, some are preempted, all are answered."""

from __future__ import annotations

from episode import Fault, Scene
from moments import DECODE


def pool_exhausted() -> Fault:
    """The group itself is too much for the pool; its moment is that somebody had to wait."""
    return Fault(name="pool exhausted", moments=(DECODE,), after=_was_short, must_hit=False)


def _was_short(scene: Scene) -> list[str]:
    scene.stage.logs.read()
    records = scene.stage.logs.records[scene.start :]
    waited = sum(
        action[0] == "Send" and action[2][0] == "TargetReserved" and record.fact[0] != "TargetRequested"
        for record in records
        for action in record.actions
    )
    paused = sum(record.fact[0] == "StreamPaused" for record in records)
    return [] if waited or paused else ["no stream had to wait or was preempted: the pool is too large"]
