"""What a client sees when a worker is killed (kill -9) on the real model: the gap, and the same text.

Each round kills the decode worker in mid-stream, the prefill worker in mid-stream, and the prefill worker
while it computes the prompt. Beside the gaps stands the re-prefill time: how long a fresh prompt as long
as what had to be computed anew takes to its first token on the undisturbed fleet. Afterwards every prompt
is run again undisturbed: the text must be the same.

    python bench/recovery.py [--rounds 3] [--json FILE]
"""

from __future__ import annotations

import os
import signal
import statistics
import sys
import threading
import time
from typing import Any

import msgspec

from client import Answer, random_prompt
from fleet import Fleet, fleet, wait_until
from prioritised import take_priority
from report import Row, argument_parser, finish

PROMPT_TOKENS = 512
OUTPUT_TOKENS = 96
KILL_AFTER_PIECES = 32
PREFILL_SHARE = 0.3
"""The prefill worker is killed after this share of an undisturbed time to first token."""


class Disturbed(msgspec.Struct, frozen=True):
    answer: Answer
    body: dict[str, Any]
    killed_s: float
    attempts: int

    @property
    def gap_s(self) -> float:
        """Longest wait between two pieces, the first of which had come before the kill was felt."""
        return max(self.answer.gaps_s)


def body_of(fleet_model: str, number: int) -> dict[str, Any]:
    """Greedy and with a seed: its recipe, so its text, is the fleet's canonical one."""
    return {
        "model": fleet_model,
        "prompt": random_prompt(PROMPT_TOKENS, number),
        "max_tokens": OUTPUT_TOKENS,
        "ignore_eos": True,
        "seed": 1,
    }


def kill_in_stream(running: Fleet, role: str, body: dict[str, Any]) -> Disturbed:
    """Kills the worker of `role` when some text has come."""
    pid = running.worker(role)["pid"]
    killed_s: list[float] = []

    def on_piece(count: int) -> None:
        if count == KILL_AFTER_PIECES:
            killed_s.append(time.monotonic())
            os.kill(pid, signal.SIGKILL)

    answer = running.client.complete(body, on_piece)
    return _disturbed(running, answer, body, killed_s[0])


def kill_in_prefill(running: Fleet, body: dict[str, Any], after_s: float) -> Disturbed:
    """Kills the prefill worker while it computes the prompt. Raises `RuntimeError` where it was done."""
    pid = running.worker("prefill")["pid"]
    killed_s: list[float] = []

    def kill() -> None:
        killed_s.append(time.monotonic())
        os.kill(pid, signal.SIGKILL)

    timer = threading.Timer(after_s, kill)
    timer.start()
    answer = running.client.complete(body)
    timer.join()
    if killed_s[0] > answer.pieces_s[0]:
        raise RuntimeError("the kill came after the prompt was done")
    return _disturbed(running, answer, body, killed_s[0])


def _disturbed(running: Fleet, answer: Answer, body: dict[str, Any], killed_s: float) -> Disturbed:
    attempts = len(running.client.trace(answer.request_id)["attempts"])
    wait_restarted(running)
    return Disturbed(answer, body, killed_s, attempts)


def wait_restarted(running: Fleet) -> None:
    """Returns when both workers serve again."""

    def serving() -> bool:
        states = [worker["state"] for worker in running.client.status()["workers"]]
        return states == ["ready", "ready"]

    wait_until(serving, "the killed worker serves again")


def fresh_ttft_s(running: Fleet, model: str, tokens: int, number: int) -> float:
    """Time to first token of a prompt that nobody has seen."""
    body = body_of(model, number) | {"prompt": random_prompt(tokens, number), "max_tokens": 4}
    return running.client.complete(body).ttft_s


def main() -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="rounds of three kills (3)")
    arguments = parser.parse_args()
    priority = take_priority()
    found: dict[str, list[Disturbed]] = {"D in stream": [], "P in stream": [], "P in prefill": []}
    known = PROMPT_TOKENS + KILL_AFTER_PIECES
    prefill_s: list[float] = []
    again_s: list[float] = []
    with fleet() as running:
        model = running.client.model()
        for number in range(0, 10 * arguments.rounds, 10):
            prefill_s.append(fresh_ttft_s(running, model, PROMPT_TOKENS, number))
            again_s.append(fresh_ttft_s(running, model, known, number + 1))
            found["D in stream"].append(kill_in_stream(running, "decode", body_of(model, number + 2)))
            found["P in stream"].append(kill_in_stream(running, "prefill", body_of(model, number + 3)))
            after_s = PREFILL_SHARE * prefill_s[-1]
            found["P in prefill"].append(kill_in_prefill(running, body_of(model, number + 4), after_s))
        equal = {
            name: [running.client.complete(one.body).text == one.answer.text for one in kills]
            for name, kills in found.items()
        }
    rows = rows_of(found, statistics.median(prefill_s), statistics.median(again_s), equal)
    settings = {"rounds": arguments.rounds, "prompt_tokens": PROMPT_TOKENS, "priority": priority}
    return finish("recovery", rows, arguments.json, extra={"settings": settings})


def rows_of(
    found: dict[str, list[Disturbed]], prefill_s: float, again_s: float, equal: dict[str, list[bool]]
) -> list[Row]:
    """Milliseconds: median gaps, what a re-prefill takes, and whether the texts are equal."""
    rows: list[Row] = []
    for name in ("D in stream", "P in stream"):
        kills = found[name]
        gap_s = statistics.median(one.gap_s for one in kills)
        usual_s = statistics.median(gap for one in kills for gap in one.answer.gaps_s)
        attempts = max(one.attempts for one in kills)
        rows.append(
            Row(
                name=f"kill -9 of {name}: longest gap, median of {len(kills)}",
                value=1e3 * gap_s,
                unit="ms",
                against=f"re-prefill {1e3 * again_s:.4g} ms; usual gap {1e3 * usual_s:.3g} ms; "
                f"{attempts} attempts",
                ratio=gap_s / again_s,
            )
        )
    ttft_s = statistics.median(one.answer.ttft_s for one in found["P in prefill"])
    rows.append(
        Row(
            name=f"kill -9 of P in prefill: TTFT, median of {len(found['P in prefill'])}",
            value=1e3 * ttft_s,
            unit="ms",
            against=f"undisturbed {1e3 * prefill_s:.4g} ms, killed at {PREFILL_SHARE:.0%} of it",
            ratio=ttft_s / prefill_s,
        )
    )
    rows += [
        Row(
            name=f"kill -9 of {name}: same text as undisturbed",
            value=sum(same) / len(same),
            unit="of runs",
            must="== 1",
        )
        for name, same in equal.items()
    ]
    return rows


if __name__ == "__main__":
    sys.exit(main())
