"""Handoff scenarios spread over hosts: every handoff copies pages, and copies fail, hang and lie.

The traffic and the faults are those of `handoff_scenario`; the workers are dealt to two hosts (sometimes
some share one), and each seed draws its own transport, with its own share of trouble.
"""

from __future__ import annotations

import random

import msgspec

from diptych.core.config import ControlConfig
from diptych.sim.scenario import MILLISECOND_NS, Fault, Scenario, TransferPlan, WorkerPlan
from diptych.sim.seeds.handoff import handoff_scenario

CLAIM_LEASE_NS = 90 * MILLISECOND_NS
"""Shorter than a worker's: a reader may stand still, or be cut off, for longer and live."""


def hosts_scenario(seed: int) -> Scenario:
    plain = handoff_scenario(seed)
    random_ = random.Random(f"hosts {seed}")
    late = random_.random() < 0.4
    return msgspec.structs.replace(
        plain,
        workers=tuple(_place(random_, plan, 1 if late else 2) for plan in plain.workers),
        control=_control(random_, plain.control),
        transfers=_late(random_) if late else _transfers(random_),
        claim_lease_ns=CLAIM_LEASE_NS,
        beat_ns=CLAIM_LEASE_NS // 3,
        faults=(*plain.faults, *_cuts(random_, plain)),
        control_host=random_.choice(["host-0", "host-1", "host-2", "host-2"]),
    )


def _cuts(random_: random.Random, plain: Scenario) -> list[Fault]:
    """Links between the hosts that pass nothing for a while, one way or both; readers that stand still."""
    faults = []
    for _ in range(random_.choice([0, 1, 2, 4])):
        at_ns = random_.choice(plain.requests).at_ns + random_.randrange(150 * MILLISECOND_NS)
        if random_.random() < 0.5:
            one, other = random_.sample(["host-0", "host-1", "host-2"], 2)
            target, kind = one + random_.choice("=>") + other, random_.choice(["cut", "loss", "slow"])
        else:
            target, kind = random_.choice(plain.workers).name, "pause"
        duration_ns = random_.choice([100, 140, 200]) * MILLISECOND_NS
        faults.append(Fault(at_ns=at_ns, kind=kind, target=target, duration_ns=duration_ns))
    return faults


def _place(random_: random.Random, plan: WorkerPlan, share: int) -> WorkerPlan:
    apart = random_.random() < 0.85
    host = "host-0" if plan.role == "prefill" or not apart else "host-1"
    return msgspec.structs.replace(plan, host=host, transports=("copies",), pages=plan.pages * share)


def _control(random_: random.Random, config: ControlConfig) -> ControlConfig:
    return msgspec.structs.replace(
        config,
        pull_page_ns=random_.choice([100_000, 2 * MILLISECOND_NS]),
        fetch_failures_max=random_.choice([1, 3]),
        quarantine_ns=random_.choice([100, 1000]) * MILLISECOND_NS,
    )


def _late(random_: random.Random) -> TransferPlan:
    """Reads that come when the page may have been written again, of memory that does not say so."""
    return TransferPlan(
        page_ns=random_.choice([MILLISECOND_NS, 8 * MILLISECOND_NS]),
        one_sided=True,
        hang_permille=random_.choice([100, 400]),
        hang_ns=random_.choice([120, 250]) * MILLISECOND_NS,
    )


def _transfers(random_: random.Random) -> TransferPlan:
    return TransferPlan(
        page_ns=random_.choice([50_000, MILLISECOND_NS, 8 * MILLISECOND_NS]),
        one_sided=random_.random() < 0.5,
        fail_permille=random_.choice([0, 0, 20, 100]),
        corrupt_permille=random_.choice([0, 0, 20, 100]),
        hang_permille=random_.choice([0, 0, 10, 50]),
        hang_ns=random_.choice([200, 600, 2000]) * MILLISECOND_NS,
    )
