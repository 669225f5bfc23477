"""Readers of public traces: Mooncake's JSON lines and the Azure LLM inference CSV.

Mooncake (FAST '25, github.com/kvcache-ai/Mooncake): a line for each request with `timestamp` in ms,
`input_length` and `output_length` in tokens, and `hash_ids`, a number for each block of 512 prompt
tokens; a number stands for all tokens up to the end of its block, so equal numbers are equal prefixes.

Azure (github.com/Azure/AzurePublicDataset, LLM inference 2023 and 2024): columns `TIMESTAMP` (date and
time with up to seven decimals), `ContextTokens`, `GeneratedTokens`. It says nothing of shared prefixes.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import msgspec

from diptych.sim.workloads.ask import SECOND_NS, Ask, BadWorkload, Listed
from diptych.sim.workloads.text import Text, block_text

MILLISECOND_NS = 1_000_000
MOONCAKE_BLOCK_TOKENS = 512
_AZURE_COLUMNS = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")


class MooncakeLine(msgspec.Struct, frozen=True):
    timestamp: float
    input_length: int
    output_length: int
    hash_ids: tuple[int, ...]


def mooncake(
    path: Path, *, speedup: float = 1.0, limit: int | None = None, block_tokens: int = MOONCAKE_BLOCK_TOKENS
) -> Listed:
    """The first `limit` requests, arriving `speedup` times as fast; an answer of no token gets one.

    Raises `BadWorkload` naming the file, the line and the field, and `OSError`."""
    _check(speedup, limit)
    if block_tokens < 1:
        raise BadWorkload(f"block: {block_tokens}; at least 1 token")
    decoder = msgspec.json.Decoder(MooncakeLine)
    asks = []
    with path.open("rb") as lines:
        for number, line in enumerate(islice(lines, limit)):
            try:
                one = decoder.decode(line)
                text = block_text(one.hash_ids, block_tokens, one.input_length)
                output = max(1, one.output_length)
                at_ns = round(one.timestamp * MILLISECOND_NS / speedup)
                asks.append(_ask(number, at_ns, text, output))
            except (msgspec.DecodeError, msgspec.ValidationError, ValueError, OverflowError) as error:
                raise BadWorkload(f"{path}, line {number + 1}: {error}") from error
    return _listed(path, asks)


def azure(path: Path, *, speedup: float = 1.0, limit: int | None = None) -> Listed:
    """As `mooncake`; no two requests share a prefix."""
    _check(speedup, limit)
    asks = []
    with path.open(newline="", encoding="utf-8") as lines:
        for number, (at_ns, prompt, output) in enumerate(islice(_azure_rows(path, lines), limit)):
            text = Text().then(f"prompt {number}", prompt)
            asks.append((at_ns, text, max(1, output)))
    start_ns = min((at_ns for at_ns, _, _ in asks), default=0)
    return _listed(
        path,
        [
            _ask(number, round((at_ns - start_ns) / speedup), text, output)
            for number, (at_ns, text, output) in enumerate(asks)
        ],
    )


def _azure_rows(path: Path, lines: Iterator[str]) -> Iterator[tuple[int, int, int]]:
    """(ns since 1970, prompt tokens, output tokens) of each row."""
    rows = csv.DictReader(lines)
    missing = [name for name in _AZURE_COLUMNS if name not in (rows.fieldnames or ())]
    if missing:
        raise BadWorkload(f"{path}: no column {missing[0]}")
    for number, row in enumerate(rows):
        try:
            yield _timestamp_ns(row["TIMESTAMP"]), int(row["ContextTokens"]), int(row["GeneratedTokens"])
        except (ValueError, TypeError) as error:
            raise BadWorkload(f"{path}, line {number + 2}: {error}") from error


def _timestamp_ns(text: str) -> int:
    """Seven decimals are more than datetime knows, so the fraction is read apart."""
    whole, _, fraction = text.partition("+")[0].partition(".")
    seconds = int(datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp())
    return seconds * SECOND_NS + int((fraction or "0").ljust(9, "0")[:9])


def _ask(number: int, at_ns: int, text: Text, output: int) -> Ask:
    return Ask(request=f"r{number}", at_ns=at_ns, text=text, outputs=(output,), tokens_max=output)


def _listed(path: Path, asks: list[Ask]) -> Listed:
    if not asks:
        raise BadWorkload(f"{path}: it has no requests")
    return Listed(asks)


def _check(speedup: float, limit: int | None) -> None:
    if not 0 < speedup <= 1e6:
        raise BadWorkload(f"speedup: {speedup:g}; more than 0, at most 1e6")
    if limit is not None and limit < 1:
        raise BadWorkload(f"limit: {limit}; at least 1")
