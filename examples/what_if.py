"""A question to the simulator: for this traffic, one prefill and one decode worker, or two of both kinds?

    python examples/what_if.py

The machines that decide here are the ones that serve; only time and the engines are simulated. So a
figure is as good as the costs given for a worker. The ones below are invented round numbers: put those
of your own workers here (`diptych status --json` prints what each measures of itself).
"""

from __future__ import annotations

import random

from diptych.core.config import SECOND_NS
from diptych.sim.scenario import MILLISECOND_NS, RequestPlan, Scenario, WorkerPlan
from diptych.sim.world import World

PROMPT_TOKENS, OUTPUT_TOKENS, REQUESTS, PER_SECOND = 512, 64, 100, 1.0


def traffic(seed: int) -> tuple[RequestPlan, ...]:
    """Requests with exponential gaps, no two prompts alike."""
    gaps = random.Random(seed)
    at_ns = SECOND_NS
    plans = []
    for number in range(REQUESTS):
        at_ns += round(gaps.expovariate(PER_SECOND) * SECOND_NS)
        plans.append(
            RequestPlan(
                request=f"request {number}",
                at_ns=at_ns,
                prompt=((f"text {number}", PROMPT_TOKENS),),
                lengths=(OUTPUT_TOKENS,),
                tokens_max=OUTPUT_TOKENS,
            )
        )
    return tuple(plans)


def fleet(*roles: str) -> tuple[WorkerPlan, ...]:
    return tuple(
        WorkerPlan(
            name=f"{role}-{number}",
            role=role,
            pages=2000,
            prefill_ns_per_token=MILLISECOND_NS,
            decode_ns_per_step=6 * MILLISECOND_NS,
            decode_ns_per_sequence=MILLISECOND_NS,
            quantum_tokens=32,
            chunk_tokens=256,
            mixed_chunk_tokens=64,
        )
        for number, role in enumerate(roles)
    )


def times_to_first_token_ms(workers: tuple[WorkerPlan, ...]) -> list[float]:
    """Of all requests, ascending."""
    world = World(Scenario(workers=workers, requests=traffic(seed=7), page_tokens=16))
    if not world.driver.run(world.idle, 3600 * SECOND_NS):
        raise RuntimeError("the traffic is more than the fleet can serve in an hour")
    times = [
        (client.first_ns - client.plan.at_ns) / MILLISECOND_NS
        for client in world.done
        if client.first_ns is not None
    ]
    return sorted(times)


def main() -> None:
    for name, roles in (
        ("1 prefill + 1 decode", ("prefill", "decode")),
        ("2 of both kinds", ("both", "both")),
    ):
        times = times_to_first_token_ms(fleet(*roles))
        median, late = times[len(times) // 2], times[len(times) * 95 // 100]
        print(f"{name:22} TTFT p50 {median:7.1f} ms, p95 {late:7.1f} ms ({len(times)} requests, simulated)")


if __name__ == "__main__":
    main()
