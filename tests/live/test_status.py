"""What doors are told of the fleet: it is ready as long as one worker serves."""

from __future__ import annotations

from diptych.core import facts
from diptych.core.config import ControlConfig
from diptych.core.control import ControlPlane
from diptych.live.fleet_state import FleetState
from diptych.live.status import fleet_state

P, D = "prefill-0@1", "decode-0@1"


def joined(worker: str, role: str) -> facts.WorkerJoined:
    return facts.WorkerJoined(
        worker=worker, host="host", role=role, engine="scripted", models=("model",), numerics=("int8",),
        formats=("int8",), page_tokens=16, context_tokens_max=512, prefill_ns_per_token=1,
        decode_ns_per_step=1, room=32,
    )  # fmt: skip


def told(machine: ControlPlane) -> FleetState:
    return fleet_state(machine.status(), ("prefill-0", "decode-0"))


def test_a_dead_worker_takes_readiness_from_nobody_else() -> None:
    machine = ControlPlane(ControlConfig())
    assert told(machine) == FleetState(ready=False, complete=False)
    machine.step(0, joined(P, "prefill"))
    machine.step(0, joined(D, "decode"))
    assert told(machine) == FleetState(ready=True, complete=True)
    machine.step(1, facts.WorkerLost(worker=P))
    assert told(machine) == FleetState(ready=True, complete=False)
    machine.step(2, facts.WorkerLost(worker=D))
    assert told(machine) == FleetState(ready=False, complete=False)
