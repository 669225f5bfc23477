"""The local handoff, from the request records of a served default fleet: bytes moved, and time.

Every request has a prompt of its own of 512 tokens and a seed, so that its route is the canonical one:
P computes up to the last page border, D the rest. The time is from P's offer of its last pages to D's
word that it has taken them. Beside the records stands what the pool shows by itself: how much of it the
first request made resident (a copy would double that).

    python bench/handoff.py [--requests 40] [--json FILE]
"""

from __future__ import annotations

import statistics
import sys
from typing import Any

from client import Client, random_prompt
from fleet import Fleet, fleet
from prioritised import take_priority
from processes import POOL_NAME, Memfd, memfds
from report import Row, argument_parser, finish

PROMPT_TOKENS = 512
OUTPUT_TOKENS = 4


def ask(client: Client, model: str, number: int) -> dict[str, Any]:
    """The record of one request. Raises `RuntimeError` where it took another route."""
    answer = client.complete(
        {
            "model": model,
            "prompt": random_prompt(PROMPT_TOKENS, number),
            "max_tokens": OUTPUT_TOKENS,
            "ignore_eos": True,
            "seed": number,
        }
    )
    record = client.trace(answer.request_id)
    if not record["handoff"]["pages"]:
        raise RuntimeError(f"{answer.request_id}: no handoff; {record['reasons']}")
    return record


def pool_of(running: Fleet) -> Memfd:
    """The pool, as the supervisor holds it."""
    (pool,) = memfds(running.pid, POOL_NAME).values()
    return pool


def rows_of(records: list[dict[str, Any]], resident_bytes: int, kv_bytes: int, *, huge: bool) -> list[Row]:
    durations = sorted(record["handoff"]["duration_ms"] for record in records)
    last = durations[min(len(durations) - 1, round(0.95 * len(durations)))]
    return [
        Row(
            name="bytes moved, all handoffs",
            value=sum(record["handoff"]["bytes_moved"] for record in records),
            unit="bytes",
            must="== 0",
        ),
        Row(name="handoff p50", value=statistics.median(durations), unit="ms", must="< 1"),
        Row(name="handoff p95", value=last, unit="ms"),
        Row(
            name="pages of a handoff",
            value=statistics.median(record["handoff"]["pages"] for record in records),
            unit="pages",
        ),
        Row(
            name="prefill p50",
            value=statistics.median(record["prefill"]["duration_ms"] for record in records),
            unit="ms",
        ),
        Row(
            name="pool made resident by the first request",
            value=resident_bytes / 2**20,
            unit="MiB",
            against=f"its KV: {kv_bytes / 2**20:.1f} MiB",
            ratio=resident_bytes / kv_bytes,
            must=None if huge else "< 1.5",
        ),
    ]


def main() -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--requests", type=int, default=40, help="requests, one after the other (40)")
    arguments = parser.parse_args()
    priority = take_priority()
    with fleet() as running:
        client = running.client
        model = client.model()
        page_bytes, page_tokens = page_size()
        before = pool_of(running)
        records = [ask(client, model, 1)]
        resident_bytes = pool_of(running).resident_bytes - before.resident_bytes
        records += [ask(client, model, number) for number in range(2, arguments.requests + 1)]
    kv_bytes = -(-(PROMPT_TOKENS + OUTPUT_TOKENS) // page_tokens) * page_bytes
    rows = rows_of(records, resident_bytes, kv_bytes, huge=before.huge)
    settings = {"requests": arguments.requests, "prompt_tokens": PROMPT_TOKENS, "priority": priority}
    return finish("handoff", rows, arguments.json, extra={"settings": settings})


def page_size() -> tuple[int, int]:
    """Bytes and tokens of a page of the embedded model."""
    from diptych.models.embedded import EMBEDDED_NAME
    from diptych.models.resolve import load_text
    from diptych.wire.kv_format import panels

    config = load_text(EMBEDDED_NAME).config
    kv = panels(
        model=EMBEDDED_NAME,
        layers=config.layers,
        kv_heads=config.kv_heads,
        head_dim=config.head_dim,
    )
    return kv.page_bytes, kv.page_tokens


if __name__ == "__main__":
    sys.exit(main())
