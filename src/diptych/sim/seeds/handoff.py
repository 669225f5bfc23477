"""Scenarios from a seed in which most requests are handed over and most faults strike in the middle of it.

As `seeds.mixed`, but every request is worth a source: slow targets, sources whose prefill takes a
few hops of the links, pools of a few prompts, prompts that meet and conversations that go on. Clients
leave and workers die within the life of some request, where the books of pages are busiest.
"""

from __future__ import annotations

import random

from diptych.core.config import ControlConfig
from diptych.core.ids import CONTROL
from diptych.sim.scenario import MILLISECOND_NS, Fault, RequestPlan, Scenario, WorkerPlan

LEASE_NS = 300 * MILLISECOND_NS


def handoff_scenario(seed: int) -> Scenario:
    random_ = random.Random(f"handoff {seed}")
    page_tokens = random_.choice([2, 4])
    workers = _fleet(random_)
    requests = _requests(random_, min(plan.pages for plan in workers) * page_tokens)
    return Scenario(
        seed=seed,
        workers=workers,
        requests=requests,
        faults=_faults(random_, workers, requests),
        control=ControlConfig(
            lease_ns=LEASE_NS,
            overrun_ns=200 * MILLISECOND_NS,
            exact_wait_ns=random_.choice([0, 2000]) * MILLISECOND_NS,
            unavailable_wait_ns=3000 * MILLISECOND_NS,
        ),
        page_tokens=page_tokens,
        latency_ns=random_.choice([100_000, MILLISECOND_NS, 4 * MILLISECOND_NS]),
        jitter_ns=random_.choice([50_000, 5_000_000, 20_000_000]),
        between_workers_ns=random_.choice([0, 0, 30, 80]) * MILLISECOND_NS,
        backoff_ns=random_.choice([1, 50, 400]) * MILLISECOND_NS,
        reap_ns=random_.choice([10_000, MILLISECOND_NS, 20 * MILLISECOND_NS]),
        beat_ns=LEASE_NS // 3,
    )


def _fleet(random_: random.Random) -> tuple[WorkerPlan, ...]:
    names = [
        "prefill-0",
        "decode-0",
        *random_.sample(["prefill-1", "decode-1"], random_.choice([0, 1, 2, 2])),
    ]
    pages = random_.choice([12, 18, 30])
    fleet = []
    for name in names:
        prefill = name.startswith("prefill")
        fleet.append(
            WorkerPlan(
                name=name,
                role="prefill" if prefill else "decode",
                numerics=("int8", "int4") if prefill else ("int4", "int8"),
                pages=pages,
                prefill_ns_per_token=random_.choice([100_000, 500_000]) if prefill else 4 * MILLISECOND_NS,
                decode_ns_per_step=random_.choice([1, 3, 15]) * MILLISECOND_NS,
                quantum_tokens=random_.choice([2, 8]),
                chunk_tokens=random_.choice([4, 8, 16]),
                mixed_chunk_tokens=random_.choice([2, 8]),
                running_max=random_.choice([2, 8]),
                load_ns=random_.choice([1, 20]) * MILLISECOND_NS,
            )
        )
    return tuple(fleet)


def _requests(random_: random.Random, pool_tokens: int) -> tuple[RequestPlan, ...]:
    span_ms = random_.choice([100, 400, 1200])
    share = random_.choice([2, 5])
    requests = []
    for number in range(random_.choice([6, 14, 24])):
        name = f"r{number}"
        common = random_.randrange(max(2, pool_tokens // 3))
        prompt = (
            (f"system {random_.randrange(2)}", common),
            (f"text {random_.randrange(6)}", pool_tokens // 4),
        )
        follow = None
        if random_.random() < 0.4:
            follow = RequestPlan(
                request=f"{name}+",
                at_ns=random_.choice([1, 30]) * MILLISECOND_NS,
                prompt=((f"more {name}", random_.randint(1, max(2, pool_tokens // 6))),),
                lengths=(random_.randint(1, 8),),
                tokens_max=8,
            )
        tokens_max = random_.randint(1, max(2, pool_tokens // share))
        requests.append(
            RequestPlan(
                request=name,
                at_ns=(40 + random_.randrange(span_ms)) * MILLISECOND_NS,
                prompt=prompt,
                lengths=tuple(random_.randint(1, tokens_max + 2) for _ in range(random_.choice([1, 1, 2]))),
                tokens_max=tokens_max,
                priority=random_.choice([0, 0, 1]),
                seeded=random_.random() < 0.2,
                follow=follow,
            )
        )
    return tuple(requests)


def _faults(
    random_: random.Random, workers: tuple[WorkerPlan, ...], requests: tuple[RequestPlan, ...]
) -> tuple[Fault, ...]:
    leavers = random_.sample(requests, len(requests) // random_.choice([2, 4, 8]))
    faults = [Fault(at_ns=_within(random_, plan), kind="leave", target=plan.request) for plan in leavers]
    for _ in range(random_.choice([0, 1, 2, 4])):
        at_ns = _within(random_, random_.choice(requests))
        duration_ns = random_.choice([0, 120, 600]) * MILLISECOND_NS
        target = random_.choice([*(plan.name for plan in workers), CONTROL])
        kind = random_.choice(["kill", "kill", "pause"])
        faults.append(Fault(at_ns=at_ns, kind=kind, target=target, duration_ns=duration_ns))
    return tuple(sorted(faults, key=lambda fault: fault.at_ns))


def _within(random_: random.Random, plan: RequestPlan) -> int:
    """A moment in the first part of a request's life, soon ones more often."""
    return plan.at_ns + int(random_.random() ** 2 * 120 * MILLISECOND_NS)
