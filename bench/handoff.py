"""The local handoff, from the request records of a served default fleet: bytes moved, and time.

Every request has a prompt of its own of 512 tokens. The router may have D compute one alone now and then;
such requests are counted and left out. The time is from P's offer of its last pages to D's word that it
has taken them. Beside the records stands what the pool shows by itself: how much of it the first handoff
made resident (a copy would double that).

    python bench/handoff.py [--requests 40] [--json FILE]
"""

from __future__ import annotations

import statistics
import sys
from typing import Any

import msgspec

from client import Client, random_prompt
from fleet import Fleet, fleet
from prioritised import take_priority
from processes import POOL_NAME, Memfd, memfds
from report import Row, argument_parser, finish

PROMPT_TOKENS = 512
OUTPUT_TOKENS = 4


class Handoffs(msgspec.Struct, frozen=True):
    records: list[dict[str, Any]]
    alone: int
    """Requests that one worker served alone."""
    resident_bytes: int
    """What the first handoff's request made resident of the pool."""
    huge: bool
    """The pool is in huge pages."""


def ask(client: Client, model: str, number: int) -> dict[str, Any]:
    """The record of one request."""
    body = {"model": model, "prompt": random_prompt(PROMPT_TOKENS, number), "max_tokens": OUTPUT_TOKENS}
    return client.trace(client.complete(body | {"ignore_eos": True}).request_id)


def handoffs(running: Fleet, wanted: int) -> Handoffs:
    """Asks until `wanted` requests were handed over. Raises `RuntimeError` where most are not."""
    model = running.client.model()
    records: list[dict[str, Any]] = []
    asked = resident_bytes = 0
    while len(records) < wanted:
        before = pool_of(running)
        record = ask(running.client, model, asked)
        asked += 1
        if record["handoff"]["pages"]:
            records.append(record)
            if len(records) == 1:
                resident_bytes = pool_of(running).resident_bytes - before.resident_bytes
        elif asked > 2 * len(records) + 4:
            raise RuntimeError(f"{len(records)} of {asked} requests were handed over; {record['reasons']}")
    return Handoffs(records, asked - len(records), resident_bytes, before.huge)


def pool_of(running: Fleet) -> Memfd:
    """The pool, as the supervisor holds it."""
    (pool,) = memfds(running.pid, POOL_NAME).values()
    return pool


def rows_of(found: Handoffs, kv_bytes: int) -> list[Row]:
    records = found.records
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
        Row(name="handoffs", value=len(records), unit="requests"),
        Row(name="served by one worker alone, left out", value=found.alone, unit="requests"),
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
            name="pool made resident by the first handoff",
            value=found.resident_bytes / 2**20,
            unit="MiB",
            against=f"its KV: {kv_bytes / 2**20:.1f} MiB",
            ratio=found.resident_bytes / kv_bytes,
            must=None if found.huge else "< 1.5",
        ),
    ]


def main() -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--requests", type=int, default=40, help="handoffs, one after the other (40)")
    arguments = parser.parse_args()
    priority = take_priority()
    page_bytes, page_tokens = page_size()
    with fleet() as running:
        found = handoffs(running, arguments.requests)
    rows = rows_of(found, -(-(PROMPT_TOKENS + OUTPUT_TOKENS) // page_tokens) * page_bytes)
    settings = {"requests": arguments.requests, "prompt_tokens": PROMPT_TOKENS, "priority": priority}
    return finish("handoff", rows, arguments.json, extra={"settings": settings})


def page_size() -> tuple[int, int]:
    """Bytes and tokens of a page of the embedded model."""
    from diptych.models.embedded import EMBEDDED_NAME
    from diptych.models.resolve import load_text
    from diptych.wire.kv import panels

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
