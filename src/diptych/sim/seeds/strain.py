"""Scenarios from a seed in which nothing breaks and everything is late, slow or too much at once.

Drivers, workers and whole hosts stand still, sockets are slow or cut, clients read slowly or hang up, and
floods of requests fill the pools. One host.
"""

from __future__ import annotations

import random

import msgspec

from diptych.core.config import ControlConfig
from diptych.core.ids import CONTROL
from diptych.sim.scenario import MILLISECOND_NS, Fault, RequestPlan, Scenario, WorkerPlan
from diptych.sim.seeds.mixed import LEASE_NS, random_fleet, random_requests

DURATIONS_MS = (2, 30, 120, 280, 330, 900, 2000)


def strain_scenario(seed: int) -> Scenario:
    random_ = random.Random(f"strain {seed}")
    page_tokens = random_.choice([2, 4, 8])
    workers = tuple(msgspec.structs.replace(plan, host="host-0") for plan in random_fleet(random_))
    doors = ("door-0", "door-1") if random_.random() < 0.3 else ("door-0",)
    span_ns = random_.randint(50, 2000) * MILLISECOND_NS
    requests = random_requests(random_, workers, doors, span_ns, page_tokens)
    faults = [_fault(random_, workers, requests, span_ns) for _ in range(random_.choice([1, 3, 6]))]
    faults += [
        Fault(
            at_ns=plan.at_ns, kind="dawdle", target=plan.request, delay_ns=random_.choice([1, 40]) * 1000_000
        )
        for plan in random_.sample(requests, len(requests) // 3)
    ]
    return Scenario(
        seed=seed,
        workers=workers,
        requests=requests,
        faults=tuple(sorted(faults, key=lambda fault: fault.at_ns)),
        doors=doors,
        control=ControlConfig(
            lease_ns=LEASE_NS,
            overrun_ns=random_.choice([200, 500]) * MILLISECOND_NS,
            queue_max=random_.choice([8, 64]),
            exact_wait_ns=random_.choice([0, 2000]) * MILLISECOND_NS,
            unavailable_wait_ns=random_.choice([50, 3000]) * MILLISECOND_NS,
        ),
        page_tokens=page_tokens,
        latency_ns=random_.choice([10_000, 100_000, 2_000_000]),
        jitter_ns=random_.choice([0, 50_000, 5_000_000]),
        backoff_ns=random_.choice([1, 50]) * MILLISECOND_NS,
        beat_ns=LEASE_NS // 3,
        stall_ns=LEASE_NS // 15,
    )


def _fault(
    random_: random.Random,
    workers: tuple[WorkerPlan, ...],
    requests: tuple[RequestPlan, ...],
    span_ns: int,
) -> Fault:
    worker = random_.choice(workers)
    kind, target = random_.choice(
        [
            ("stall", worker.name),
            ("pause", worker.name),
            ("pause", CONTROL),
            ("freeze", "host-0"),
            ("unplug", worker.name),
            ("slow", "host-0=host-0"),
            ("delay", "host-0=host-0"),
            ("flood", random_.choice(worker.models)),
            ("leave", random_.choice(requests).request),
        ]
    )
    at_ns = random_.randrange(span_ns + 300 * MILLISECOND_NS)
    if kind == "leave":
        at_ns = next(plan.at_ns for plan in requests if plan.request == target) + random_.randrange(
            100 * MILLISECOND_NS
        )
    return Fault(
        at_ns=at_ns,
        kind=kind,
        target=target,
        duration_ns=random_.choice(DURATIONS_MS) * MILLISECOND_NS,
        delay_ns=random_.choice([1, 15, 60]) * MILLISECOND_NS,
        count=random_.choice([4, 12]),
    )
