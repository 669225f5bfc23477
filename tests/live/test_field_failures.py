"""A half of the pair that restarts takes the other half with it: reported of several systems.
`docs/field-failures.md` says which test stands for which report."""

from __future__ import annotations

from typing import Any

from death_checks import undisturbed
from fleet_harness import Fleet, eventually, fleet

COSTS = ("--scripted-step-us", "1000", "--scripted-prompt-token-us", "300")
PAIR = ("prefill-0", "decode-0")


def handed_over(running: Fleet, salt: str) -> dict[str, Any]:
    """The trace of a request whose prompt one half computed and the other went on from."""
    stream = undisturbed(running, {"prompt": f"{salt} " + "two panels and one hinge " * 12, "max_tokens": 8})
    trace = running.trace(stream.request_id)
    assert (trace["prefill_worker"], trace["decode_worker"]) == PAIR
    assert trace["handoff"]["pages"] > 0
    assert trace["handoff"]["duration_ms"] > 0
    assert len(trace["attempts"]) == 1
    return trace


def test_one_half_restarts_and_the_other_lives_on() -> None:
    with fleet("--scripted", "--pool-mib", "1", *COSTS) as running:
        running.wait_all_ready()
        total = running.pool_total()
        handed_over(running, "first")
        for victim, other in (PAIR, PAIR[::-1]):
            survivor = running.worker(other)
            running.kill(running.worker(victim)["pid"])
            running.wait_epoch(victim, 2)
            running.wait_all_ready()
            handed_over(running, f"after {victim}")
            assert running.worker(other)["pid"] == survivor["pid"]
            eventually(lambda: running.pool_total() == total, f"a pool of {total} pages")
        running.wait_pages_home()
