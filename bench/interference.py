"""What prefill does to decode: one prefill and one decode worker against the same two, each doing both.

Two workers, one core each, int8 and int4. As a pair (1P1D) the first prefers prefill, the second decode;
aggregated, both do both. Time to first token of 512-token prompts is taken in turns on an idle system;
then streams decode one after the other while a prompt of 512 tokens arrives every second, and the gaps
between tokens are counted as the client sees them.

    python bench/interference.py [--requests 15] [--seconds 20] [--json FILE]
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from client import Answer, Client, random_prompt
from fleet import fleet
from prioritised import take_priority
from report import Row, argument_parser, finish

PROMPT_TOKENS = 512
STREAM_PROMPT = "The lighthouse keeper climbed the stairs, lit the lamp, and began to write in his book:"
STREAM_TOKENS = 256
ENDS = {"0": -100, "2": -100}
"""Logit bias that keeps the embedded model from ending its turn: an end token has no text to time."""
AGGREGATED = """\
[[worker]]
role = "both"
format = "int8"

[[worker]]
role = "both"
format = "int4"
"""


class Gaps(msgspec.Struct, frozen=True):
    """Times between tokens of the streams of one phase, in milliseconds."""

    p50: float
    p95: float
    count: int
    prefills: int
    """Prompts that came meanwhile."""
    prefills_apart: int
    """Of those, how many were computed by another worker than the one that decodes them."""


def quantile(values: list[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed. `values` must not be empty."""
    ordered = sorted(values)
    return ordered[max(0, -(-round(share * 1e6) * len(ordered) // 1_000_000) - 1)]


def first_token_ms(client: Client, model: str, number: int) -> float:
    body = {"model": model, "prompt": random_prompt(PROMPT_TOKENS, number), "max_tokens": 4}
    return 1e3 * client.complete(body | {"logit_bias": ENDS}).ttft_s


def gaps_under_load(client: Client, model: str, seconds: float, number: int, *, arrivals: bool) -> Gaps:
    """Decodes stream after stream for `seconds` while, with `arrivals`, a prompt arrives every second."""
    end_s = time.monotonic() + seconds
    stop = threading.Event()
    gaps: list[float] = []
    with ThreadPoolExecutor(8) as threads:
        prefills = threads.submit(_arrivals, client, model, number, stop, threads) if arrivals else None
        try:
            while time.monotonic() < end_s:
                body = {"model": model, "prompt": STREAM_PROMPT, "max_tokens": STREAM_TOKENS}
                gaps += client.complete(body | {"logit_bias": ENDS}).gaps_s
        finally:
            stop.set()
        answers = prefills.result() if prefills else []
    records = [client.trace(answer.request_id) for answer in answers]
    return Gaps(
        p50=1e3 * quantile(gaps, 0.5),
        p95=1e3 * quantile(gaps, 0.95),
        count=len(gaps),
        prefills=len(records),
        prefills_apart=sum(record["handoff"]["pages"] > 0 for record in records),
    )


def _arrivals(
    client: Client, model: str, number: int, stop: threading.Event, threads: ThreadPoolExecutor
) -> list[Answer]:
    """Sends a fresh prompt every second, whether the last one has been answered or not."""
    sent = []
    while not stop.wait(1.0):
        number += 1
        body = {"model": model, "prompt": random_prompt(PROMPT_TOKENS, number), "max_tokens": 1}
        sent.append(threads.submit(client.complete, body))
    return [one.result() for one in sent]


def rows_of(name: str, ttft_ms: list[float], quiet: Gaps, loaded: Gaps, must: str | None) -> list[Row]:
    arrived = f"{loaded.prefills} prompts at 1/s, {loaded.prefills_apart} prefilled by another worker"
    return [
        Row(name=f"{name}: ITL p50, no arrivals", value=quiet.p50, unit="ms"),
        Row(name=f"{name}: ITL p95, no arrivals", value=quiet.p95, unit="ms"),
        Row(name=f"{name}: ITL p50 while prompts arrive", value=loaded.p50, unit="ms", against=arrived),
        Row(
            name=f"{name}: ITL p95 while prompts arrive",
            value=loaded.p95,
            unit="ms",
            against=f"its p50, {loaded.count} gaps",
            ratio=loaded.p95 / loaded.p50,
            must=must,
        ),
        Row(name=f"{name}: TTFT best, {PROMPT_TOKENS} tokens", value=min(ttft_ms), unit="ms"),
    ]


def main() -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--requests", type=int, default=15, help="first tokens timed in each fleet (15)")
    parser.add_argument("--seconds", type=float, default=20.0, help="length of each decoding phase (20)")
    arguments = parser.parse_args()
    priority = take_priority()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "aggregated.toml"
        file.write_text(AGGREGATED, encoding="utf-8")
        with fleet() as pair, fleet("--fleet", str(file)) as aggregated:
            model = pair.client.model()
            fleets = {"1P1D": pair.client, "aggregated": aggregated.client}
            ttft: dict[str, list[float]] = {name: [] for name in fleets}
            for number in range(arguments.requests):
                for name, client in fleets.items():
                    ttft[name].append(first_token_ms(client, model, number))
            rows: list[Row] = []
            for name, client in fleets.items():
                quiet = gaps_under_load(client, model, arguments.seconds / 4, 0, arrivals=False)
                loaded = gaps_under_load(client, model, arguments.seconds, 1000, arrivals=True)
                rows += rows_of(name, ttft[name], quiet, loaded, "<= 2" if name == "1P1D" else None)
    pair_ms, other_ms = (statistics.median(ttft[name]) for name in fleets)
    rows.append(
        Row(
            name=f"1P1D: TTFT p50, {PROMPT_TOKENS} tokens",
            value=pair_ms,
            unit="ms",
            against=f"aggregated: {other_ms:.4g} ms",
            ratio=pair_ms / other_ms,
        )
    )
    settings = {"requests": arguments.requests, "seconds": arguments.seconds, "priority": priority}
    return finish("interference", rows, arguments.json, extra={"settings": settings})


if __name__ == "__main__":
    sys.exit(main())
