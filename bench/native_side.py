"""The native engine's side of `bench/native.py`: a process that runs one timed piece of work a line.

Standard input, one line each: `FORMAT prefill TOKENS` or `FORMAT decode BATCH CONTEXT TOKENS`. Standard
output: one JSON line `{"isa": ...}` when ready, then the seconds of each piece. Weights and pool lie in
memfds, as they do in a fleet.
"""

from __future__ import annotations

import json
import mmap
import sys
import time

import numpy as np

from diptych.engine.interface import Span
from diptych.engine.native import packing
from diptych.engine.native.engine import NativeEngine
from diptych.live.pool import create_pool
from diptych.live.sealed_memory import MemoryWriter
from diptych.models.resolve import load
from diptych.models.weights import Model

BATCH_MAX = 16
TOKENS_MAX = 640
"""Most tokens of one sequence, context included."""


class Side:
    """One engine with all formats, and a pool for BATCH_MAX sequences."""

    def __init__(self, model: Model) -> None:
        weights = {format: _packed(model, format) for format in packing.FORMATS}
        self.engine = NativeEngine(model.config, weights, model.fingerprint, "int4", 1)
        formats = self.engine.capabilities.formats
        self._numerics = dict(zip(formats, self.engine.capabilities.numerics, strict=True))
        kv = self.engine.kv_format
        self._pages_each = -(-TOKENS_MAX // kv.page_tokens)
        pages = BATCH_MAX * self._pages_each
        pool = mmap.mmap(create_pool(pages * kv.page_bytes), pages * kv.page_bytes)
        self.engine.attach_pool(memoryview(pool), pages)
        self._page = np.frombuffer(pool, np.uint8).reshape(pages, kv.page_bytes)
        self._page_tokens = kv.page_tokens
        self._filled: tuple[str, int, int] | None = None
        random = np.random.default_rng(1)
        self._tokens = random.integers(0, model.config.vocabulary, TOKENS_MAX, dtype=np.int32)

    @property
    def isa(self) -> str:
        return self._numerics["int4"].split("/")[2]

    def prefill(self, format: str, tokens: int) -> float:
        """Seconds to compute a prompt of `tokens` tokens, logits of its last one."""
        self._filled = None
        started_ns = time.perf_counter_ns()
        self.engine.step([self._span(format, 0, 0, tokens)])
        return (time.perf_counter_ns() - started_ns) / 1e9

    def decode(self, format: str, batch: int, context: int, tokens: int) -> float:
        """Seconds for `tokens` steps of `batch` sequences that have `context` tokens each."""
        self._fill(format, batch, context)
        self.engine.step([self._span(format, row, context, context + 1) for row in range(batch)])
        started_ns = time.perf_counter_ns()
        for position in range(context, context + tokens):
            self.engine.step([self._span(format, row, position, position + 1) for row in range(batch)])
        return (time.perf_counter_ns() - started_ns) / 1e9

    def _fill(self, format: str, batch: int, context: int) -> None:
        if self._filled == (format, batch, context):
            return
        for start in range(0, context, 512):
            self.engine.step([self._span(format, 0, start, min(start + 512, context))])
        for row in range(1, batch):
            self._page[self._table(row, context)] = self._page[self._table(0, context)]
        self._filled = (format, batch, context)

    def _table(self, row: int, tokens: int) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
        # Pages of one sequence do not lie side by side: in a used pool they do not either.
        pages = -(-tokens // self._page_tokens)
        return np.arange(pages, dtype=np.int32) * BATCH_MAX + row

    def _span(self, format: str, row: int, first: int, end: int) -> Span:
        return Span(
            first_position=first,
            tokens=self._tokens[first:end],
            pages=self._table(row, end),
            numerics=self._numerics[format],
            logits_from=end - first - 1,
        )


def _packed(model: Model, format: str) -> memoryview:
    size = packing.packed_bytes(model.config, format)
    writer = MemoryWriter(f"bench-{format}", size)
    with writer.memory as memory:
        packing.pack(model, format, memory)
    return memoryview(mmap.mmap(writer.seal(), size, prot=mmap.PROT_READ))


def main() -> None:
    side = Side(load(sys.argv[1]).model)
    print(json.dumps({"isa": side.isa}), flush=True)
    for line in sys.stdin:
        format, kind, *numbers = line.split()
        run = side.prefill if kind == "prefill" else side.decode
        print(run(format, *map(int, numbers)), flush=True)


if __name__ == "__main__":
    main()
