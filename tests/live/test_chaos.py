"""Many streams at once while processes of the fleet are killed at random: every text stays what it was.

The dice are seeded; what the processes make of it is up to their timing, so each run is another one.
"""

from __future__ import annotations

import random
import time
from typing import Any

import pytest
from death_checks import check_whole
from fleet_harness import Fleet, eventually, fleet

STREAMS = 24
COSTS = ("--scripted-step-us", "2000", "--scripted-prompt-token-us", "300")


def requests(dice: random.Random) -> list[dict[str, Any]]:
    return [
        {
            "prompt": f"{number} " + "x" * dice.randrange(1, 600),
            "max_tokens": dice.randrange(1, 120),
            "temperature": dice.choice([0, 1.0]),
            "seed": dice.randrange(100),
            "n": dice.choice([1, 1, 2, 3]),
        }
        for number in range(STREAMS)
    ]


def kill_something(running: Fleet, dice: random.Random) -> None:
    name = dice.choice(["prefill-0", "decode-0", "control"])
    try:
        running.kill(running.pid_of("control") if name == "control" else running.worker(name)["pid"])
    except (LookupError, StopIteration):
        return  # it is dead already


@pytest.mark.parametrize("seed", [4, 22])
def test_streams_survive_any_order_of_deaths(seed: int) -> None:
    dice = random.Random(seed)
    with fleet("--scripted", "--pool-mib", "1", *COSTS) as running:
        running.wait_all_ready()
        total = running.pool_total()
        asked = requests(dice)
        whole = [running.stream(**request) for request in asked]
        for stream, request in zip(whole, asked, strict=True):
            check_whole(stream.result(), request)
        disturbed = []
        for number, request in enumerate(asked):
            disturbed.append(running.stream(**request))
            time.sleep(dice.random() * 0.15)
            if number % 7 == 6:  # three times: a request that meets four deaths is given up
                kill_something(running, dice)
        equal = 0
        for stream, before, request in zip(disturbed, whole, asked, strict=True):
            check_whole(stream.result(), request)
            recipes = [running.trace(one.request_id)["recipe"] for one in (stream, before)]
            # Who arrives while a half of the fleet is down is given another recipe, and may differ.
            if recipes[0] == recipes[1]:
                assert stream.texts == before.texts
                equal += 1
        assert equal > 0
        running.wait_all_ready()
        running.wait_pages_home()
        eventually(lambda: running.pool_total() == total, f"a pool of {total} pages")
