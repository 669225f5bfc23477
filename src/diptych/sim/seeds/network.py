"""Scenarios from a seed on hosts apart, whose links lose, double, delay, reorder and cut what passes.

Control and doors are on a machine of their own or beside the workers of the first host. Workers of two hosts
share no pool: in most scenarios they copy pages from each other, in half of them all the time, from pools so
small that pages are soon used again. Everything else that can go wrong does so as well, less often.
"""

from __future__ import annotations

import random

import msgspec

from diptych.core.config import ControlConfig
from diptych.core.ids import CONTROL
from diptych.sim.network.weather import PACKET_KINDS
from diptych.sim.scenario import MILLISECOND_NS, Fault, RequestPlan, Scenario, TransferPlan, WorkerPlan
from diptych.sim.seeds.hosts import hosts_scenario
from diptych.sim.seeds.mixed import LEASE_NS, random_fleet, random_requests

DURATIONS_MS = (5, 40, 120, 250, 700, 2500)


def network_scenario(seed: int) -> Scenario:
    makers = (_any_fleet, _copying, _any_fleet, _overwritten)
    return makers[seed % len(makers)](seed)


def _copying(seed: int) -> Scenario:
    """Hosts that hand over to each other under bad weather."""
    random_ = random.Random(f"copying {seed}")
    plain = hosts_scenario(seed)
    span_ns = max(plan.at_ns for plan in plain.requests)
    control_host = random_.choice(["host-0", "host-1", "host-c"])
    weather = [
        _link_fault(random_, plain.workers, control_host, span_ns) for _ in range(random_.choice([1, 3]))
    ]
    transfers = TransferPlan(
        page_ns=random_.choice([100_000, MILLISECOND_NS, 8 * MILLISECOND_NS]),
        one_sided=random_.random() < 0.7,
        hang_permille=random_.choice([0, 50, 200]),
        hang_ns=random_.choice([300, 1500]) * MILLISECOND_NS,
    )
    if random_.random() < 0.7:
        # Sources that are busy write over what they have lent no longer.
        at_ns = random_.randrange(span_ns) + 100 * MILLISECOND_NS
        weather.append(Fault(at_ns=at_ns, kind="flood", target="model", count=random_.choice([6, 12])))
    return msgspec.structs.replace(
        plain,
        workers=tuple(_small_source(random_, plan) for plan in plain.workers),
        faults=tuple(sorted([*plain.faults, *weather], key=lambda fault: fault.at_ns)),
        control=msgspec.structs.replace(
            plain.control, fetch_failures_max=random_.choice([3, 100]), quarantine_ns=MILLISECOND_NS
        ),
        control_host=control_host,
        transfers=transfers,
        claim_lease_ns=random_.choice([60, 150]) * MILLISECOND_NS,
        stall_ns=LEASE_NS // 15,
    )


def _overwritten(seed: int) -> Scenario:
    """A reader is cut off while it copies; meanwhile its source serves a target beside it, and writes over
    what it has lent no longer. The reads go on: they are one-sided, and know of no cut."""
    random_ = random.Random(f"overwritten {seed}")
    workers = tuple(
        WorkerPlan(
            name=name,
            role=role,
            numerics=("int8", "int4") if role == "prefill" else ("int4", "int8"),
            host=host,
            pages=pages,
            transports=("copies",),
            prefill_ns_per_token=100_000 if role == "prefill" else 4 * MILLISECOND_NS,
            chunk_tokens=random_.choice([8, 64]),
        )
        for name, role, host, pages in (
            ("prefill-0", "prefill", "host-0", random_.choice([12, 16])),
            ("decode-0", "decode", "host-1", 60),
            ("decode-1", "decode", "host-0", 40),
        )
    )
    requests = tuple(
        RequestPlan(
            request=f"r{number}",
            at_ns=(40 + random_.randrange(60)) * MILLISECOND_NS,
            prompt=((f"text {number}", random_.randint(17, 40)),),
            lengths=(random_.randint(1, 12),),
            tokens_max=12,
        )
        for number in range(random_.choice([2, 6]))
    )
    cut_ns = (50 + random_.randrange(120)) * MILLISECOND_NS
    length_ns = random_.choice([300, 900]) * MILLISECOND_NS
    flood_ns = cut_ns + random_.randrange(200) * MILLISECOND_NS
    return Scenario(
        seed=seed,
        workers=workers,
        requests=requests,
        faults=(
            Fault(at_ns=cut_ns, kind="cut", target="host-0=host-1", duration_ns=length_ns),
            Fault(at_ns=flood_ns, kind="flood", target="model", count=random_.choice([4, 10])),
        ),
        control=ControlConfig(
            lease_ns=random_.choice([300, 2000]) * MILLISECOND_NS,
            overrun_ns=5000 * MILLISECOND_NS,
            exact_wait_ns=2000 * MILLISECOND_NS,
        ),
        beat_ns=LEASE_NS // 3,
        stall_ns=LEASE_NS // 15,
        transfers=TransferPlan(page_ns=random_.choice([20, 60]) * MILLISECOND_NS, one_sided=True),
        claim_lease_ns=random_.choice([60, 150]) * MILLISECOND_NS,
    )


def _small_source(random_: random.Random, plan: WorkerPlan) -> WorkerPlan:
    """A source whose pages are soon needed again, whoever still reads them from afar."""
    pages = random_.choice([8, 12]) if plan.role == "prefill" else plan.pages
    return msgspec.structs.replace(plan, pages=pages)


def _any_fleet(seed: int) -> Scenario:
    random_ = random.Random(f"network {seed}")
    page_tokens = random_.choice([2, 4, 8])
    workers = _apart(random_, random_fleet(random_))
    doors = ("door-0", "door-1") if random_.random() < 0.3 else ("door-0",)
    span_ns = random_.randint(50, 2000) * MILLISECOND_NS
    requests = random_requests(random_, workers, doors, span_ns, page_tokens)
    control_host = random_.choice(["host-0", "host-0", "host-c"])
    faults = [_link_fault(random_, workers, control_host, span_ns) for _ in range(random_.choice([1, 2, 4]))]
    others = range(random_.choice([0, 0, 1, 3]))
    faults += [_other_fault(random_, workers, doors, control_host, span_ns) for _ in others]
    leavers = random_.sample(requests, len(requests) // 8)
    faults += [
        Fault(at_ns=r.at_ns + random_.randrange(200) * MILLISECOND_NS, kind="leave", target=r.request)
        for r in leavers
    ]
    pulling = random_.random() < 0.6
    if pulling:
        workers = tuple(msgspec.structs.replace(plan, transports=("copies",)) for plan in workers)
    return Scenario(
        seed=seed,
        workers=workers,
        requests=requests,
        faults=tuple(sorted(faults, key=lambda fault: fault.at_ns)),
        doors=doors,
        control=ControlConfig(
            lease_ns=LEASE_NS,
            overrun_ns=500 * MILLISECOND_NS,
            queue_max=random_.choice([8, 64]),
            exact_wait_ns=random_.choice([0, 100, 2000]) * MILLISECOND_NS,
            unavailable_wait_ns=random_.choice([50, 3000]) * MILLISECOND_NS,
        ),
        control_host=control_host,
        page_tokens=page_tokens,
        latency_ns=random_.choice([50_000, 500_000, 5_000_000]),
        jitter_ns=random_.choice([0, 100_000, 5_000_000]),
        backoff_ns=random_.choice([1, 50, 400]) * MILLISECOND_NS,
        reap_ns=random_.choice([10_000, MILLISECOND_NS, 20 * MILLISECOND_NS]),
        beat_ns=LEASE_NS // 3,
        stall_ns=LEASE_NS // 15,
        transfers=TransferPlan(
            page_ns=random_.choice([100_000, 4 * MILLISECOND_NS]), one_sided=random_.random() < 0.5
        ),
        claim_lease_ns=random_.choice([100, 400]) * MILLISECOND_NS,
    )


def _apart(random_: random.Random, workers: tuple[WorkerPlan, ...]) -> tuple[WorkerPlan, ...]:
    """On two hosts where the fleet is large enough, sometimes."""
    if len(workers) < 3 or random_.random() < 0.3:
        return workers
    return tuple(
        msgspec.structs.replace(plan, host="host-1" if plan.name.endswith("-1") else "host-0")
        for plan in workers
    )


def _link_fault(
    random_: random.Random, workers: tuple[WorkerPlan, ...], control_host: str, span_ns: int
) -> Fault:
    machines = sorted({plan.host for plan in workers} | {control_host})
    one = random_.choice(machines)
    other = random_.choice([machine for machine in machines if machine != one] or machines)
    kind = random_.choice([*PACKET_KINDS, "cut", "slow", "delay"])
    if one == other:
        kind = random_.choice(["slow", "delay"])
    return Fault(
        at_ns=random_.randrange(span_ns + 300 * MILLISECOND_NS),
        kind=kind,
        target=one + random_.choice("=>") + other,
        duration_ns=random_.choice(DURATIONS_MS) * MILLISECOND_NS,
        chance=random_.choice([0.05, 0.3, 0.9]) if kind in ("loss", "double", "reorder", "delay") else 1.0,
        delay_ns=random_.choice([1, 20, 90]) * MILLISECOND_NS,
    )


def _other_fault(
    random_: random.Random,
    workers: tuple[WorkerPlan, ...],
    doors: tuple[str, ...],
    control_host: str,
    span_ns: int,
) -> Fault:
    at_ns = random_.randrange(span_ns + 300 * MILLISECOND_NS)
    duration_ns = random_.choice(DURATIONS_MS) * MILLISECOND_NS
    kind, target = random_.choice(
        [
            ("kill", random_.choice(workers).name),
            ("kill", random_.choice(workers).name),
            ("kill", CONTROL),
            ("pause", random_.choice(workers).name),
            ("pause", CONTROL),
            ("freeze", random_.choice([random_.choice(workers).host, control_host])),
            ("lose", random_.choice(doors)),
        ]
    )
    return Fault(at_ns=at_ns, kind=kind, target=target, duration_ns=duration_ns)
