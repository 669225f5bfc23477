"""A scenario from a seed: a fleet, its traffic, and what goes wrong when.

Pools are small, leases short and prompts alike, so that pages run out, workers are lost and prefixes
meet. One random stream per purpose: changing the faults of a seed leaves its traffic as it was.
"""

from __future__ import annotations

import random

from diptych.core.config import SECOND_NS, ControlConfig
from diptych.core.ids import CONTROL
from diptych.sim.scenario import MILLISECOND_NS, Fault, RequestPlan, Scenario, WorkerPlan

LEASE_NS = 300 * MILLISECOND_NS


def random_scenario(seed: int, *, faultless: bool = False) -> Scenario:
    shape = random.Random(f"shape {seed}")
    page_tokens = shape.choice([2, 4, 4, 8])
    workers = random_fleet(random.Random(f"fleet {seed}"))
    doors = ("door-0", "door-1") if shape.random() < 0.3 else ("door-0",)
    span_ns = shape.randint(50, 3000) * MILLISECOND_NS
    requests = random_requests(random.Random(f"requests {seed}"), workers, doors, span_ns, page_tokens)
    faults: tuple[Fault, ...] = ()
    if not faultless:
        faults = random_faults(random.Random(f"faults {seed}"), workers, doors, requests, span_ns)
    return Scenario(
        seed=seed,
        workers=workers,
        requests=requests,
        faults=faults,
        doors=doors,
        control=ControlConfig(
            lease_ns=LEASE_NS,
            overrun_ns=shape.choice([200, 500]) * MILLISECOND_NS,
            queue_max=shape.choice([2, 8, 64]),
            exact_wait_ns=shape.choice([0, 100, 2000]) * MILLISECOND_NS,
            unavailable_wait_ns=shape.choice([50, 3000]) * MILLISECOND_NS,
        ),
        page_tokens=page_tokens,
        latency_ns=shape.choice([10_000, 100_000, 2_000_000]),
        jitter_ns=shape.choice([0, 50_000, 5_000_000]),
        backoff_ns=shape.choice([1, 50, 800]) * MILLISECOND_NS,
        reap_ns=shape.choice([10_000, MILLISECOND_NS, 40 * MILLISECOND_NS]),
        beat_ns=LEASE_NS // 3,
    )


def random_fleet(random_: random.Random) -> tuple[WorkerPlan, ...]:
    kind = random_.choice(["pair", "pair", "one", "many", "two models", "two hosts", "unlike"])
    pages = random_.choice([12, 20, 40, 100])
    names = {
        "one": ["both-0"],
        "pair": ["prefill-0", "decode-0"],
        "many": ["prefill-0", "prefill-1", "decode-0", "decode-1"],
        "two models": ["prefill-0", "decode-0", "both-1"],
        "two hosts": ["prefill-0", "decode-0", "prefill-1", "decode-1"],
        "unlike": ["prefill-0", "decode-0"],
    }[kind]
    fleet = []
    for name in names:
        role = name.partition("-")[0]
        second = name.endswith("-1")
        both = ("int4", "int8") if role == "decode" else ("int8", "int4")
        fleet.append(
            WorkerPlan(
                name=name,
                role=role,
                numerics=both[:1] if kind == "unlike" else both,
                models=("other",) if kind == "two models" and second else ("model",),
                host="host-1" if kind == "two hosts" and second else "host-0",
                pages=pages,
                prefill_ns_per_token=random_.choice([20_000, 100_000, 1_000_000]),
                decode_ns_per_step=random_.choice([1, 3]) * MILLISECOND_NS,
                quantum_tokens=random_.choice([1, 4, 8, 16]),
                chunk_tokens=random_.choice([4, 16, 64]),
                mixed_chunk_tokens=random_.choice([2, 8, 16]),
                running_max=random_.choice([1, 2, 8]),
                load_ns=random_.choice([1, 20, 100]) * MILLISECOND_NS,
            )
        )
    return tuple(fleet)


def random_requests(
    random_: random.Random, workers: tuple[WorkerPlan, ...], doors: tuple[str, ...], span_ns: int, page: int
) -> tuple[RequestPlan, ...]:
    models = sorted({model for plan in workers for model in plan.models})
    pool_tokens = min(plan.pages for plan in workers) * page
    burst = random_.random() < 0.3
    requests = []
    for number in range(random_.choice([3, 8, 20, 40])):
        at_ns = 20 * MILLISECOND_NS if burst else random_.randrange(span_ns)
        requests.append(random_request(random_, f"r{number}", at_ns, models, doors, pool_tokens))
    return tuple(requests)


def random_request(
    random_: random.Random, name: str, at_ns: int, models: list[str], doors: tuple[str, ...], pool_tokens: int
) -> RequestPlan:
    shared = random_.choice([0, 0, 5, 12, 33])
    own = random_.randint(1, max(1, pool_tokens // random_.choice([1, 3, 8])))
    prompt = ((f"system {random_.randrange(2)}", shared), (f"text {name}", own))
    tokens_max = random_.randint(1, max(1, pool_tokens // random_.choice([2, 6])))
    choices = random_.choice([1, 1, 1, 2, 3])
    lengths = tuple(random_.randint(1, tokens_max + 3) for _ in range(choices))
    follow = None
    if random_.random() < 0.3:
        follow = RequestPlan(
            request=f"{name}+",
            at_ns=random_.choice([1, 50, 400]) * MILLISECOND_NS,
            prompt=((f"more {name}", random_.randint(1, 9)),),
            lengths=(random_.randint(1, 10),),
            tokens_max=12,
            door=random_.choice(doors),
            model=models[0],
        )
    return RequestPlan(
        request=name,
        at_ns=at_ns,
        prompt=prompt,
        lengths=lengths,
        tokens_max=tokens_max,
        door=random_.choice(doors),
        model=models[0] if follow else random_.choice(models),
        tenant=random_.choice(["", "", "tenant"]) if follow is None else "",
        priority=random_.choice([0, 0, 0, 1, -1]),
        seeded=random_.random() < 0.3,
        logits_from=random_.randrange(own) if random_.random() < 0.1 else None,
        deadline_ns=random_.choice([5, 100, 1000]) * MILLISECOND_NS if random_.random() < 0.15 else None,
        follow=follow,
    )


def random_faults(
    random_: random.Random,
    workers: tuple[WorkerPlan, ...],
    doors: tuple[str, ...],
    requests: tuple[RequestPlan, ...],
    span_ns: int,
) -> tuple[Fault, ...]:
    names = [plan.name for plan in workers]
    faults = []
    for _ in range(random_.choice([0, 1, 2, 4, 8])):
        at_ns = random_.randrange(span_ns + SECOND_NS)
        kind = random_.choice(["kill", "kill", "pause", "control", "control pause", "lose", "leave", "leave"])
        short = random_.choice([5, 40, 120]) * MILLISECOND_NS
        long = random_.choice([500, 2000]) * MILLISECOND_NS
        duration_ns = random_.choice([short, short, long])
        match kind:
            case "kill":
                faults.append(Fault(at_ns=at_ns, kind="kill", target=random_.choice(names)))
            case "pause":
                target = random_.choice(names)
                faults.append(Fault(at_ns=at_ns, kind="pause", target=target, duration_ns=duration_ns))
            case "control":
                faults.append(Fault(at_ns=at_ns, kind="kill", target=CONTROL, duration_ns=duration_ns))
            case "control pause":
                faults.append(Fault(at_ns=at_ns, kind="pause", target=CONTROL, duration_ns=duration_ns))
            case "lose":
                target = random_.choice(doors)
                faults.append(Fault(at_ns=at_ns, kind="lose", target=target, duration_ns=duration_ns))
            case _:
                request = random_.choice(requests)
                at_ns = request.at_ns + random_.choice([0, 1, 5, 20, 60, 300]) * MILLISECOND_NS
                faults.append(Fault(at_ns=at_ns, kind="leave", target=request.request))
    return tuple(sorted(faults, key=lambda fault: fault.at_ns))
