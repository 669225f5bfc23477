"""Seats: how many sequences decode at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def test_no_more_sequences_decode_than_there_are_seats(table: Callable[..., Any]) -> None:
    """The second one's last prompt token, which samples, waits until the first has finished."""
    bench = table(running_max=1, chunk_tokens=64, mixed_chunk_tokens=64)
    for name in ("first", "second"):
        bench.ask(name)
        bench.fix(name)
    sampled = []
    for _ in range(3):
        sampled += [span.request for span in bench.run.prompts if span.sample]
        bench.ran(steps=1)
    assert sampled == ["first"]
    bench.finish("first", emitted=4)
    assert [span.request for span in bench.run.prompts if span.sample] == ["second"]
