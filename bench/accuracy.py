"""How far each engine's logits are from the model's: the file's weights in float32, computed by torch.

For each prompt of `prompts.txt` the yardstick continues greedily for 64 positions; every engine is then
fed the same tokens (the prompt by prefill, the continuation token by token), so that all are compared on
one text. Reported: Kullback-Leibler divergence from the yardstick in nats, root mean square of the
difference of the logits, and how often the most likely token is the same; at the next position after the
prompt and over the generated positions.

The yardstick uses the weights of the file, quantised as they are, so the figures measure the engines and
not what quantisation did to the original model.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from diptych.engine.interface import Engine, Span
from diptych.engine.native import packing
from diptych.engine.native.engine import NativeEngine
from diptych.engine.torch import TorchEngine
from diptych.models.resolve import LoadedModel, load
from diptych.models.weights import Model
from report import Row, argument_parser, finish

PROMPTS = Path(__file__).with_name("prompts.txt")
MODEL = "smollm2-135m-instruct"
BATCH = 8
"""Prompts computed together: the logits of a batch have to fit memory, 65 rows each."""

Logits = npt.NDArray[np.float32]
MUST = {"bf16": 0.001, "int8": 0.02, "int4": 0.02, "int8 > int4": 0.02}


class Case(msgspec.Struct, frozen=True):
    """What computes the prompt's full pages, and what computes the rest."""

    name: str
    prefill: str
    decode: str


CASES = (
    Case("bf16", "bf16", "bf16"),
    Case("int8", "int8", "int8"),
    Case("int4", "int4", "int4"),
    Case("int8 > int4", "int8", "int4"),
)


class Sums:
    """Running sums of one case at one kind of position."""

    def __init__(self) -> None:
        self.rows = 0
        self.divergence = 0.0
        self.rms = 0.0
        self.same = 0

    def add(self, expected: Logits, found: Logits) -> None:
        """Adds rows [n, vocabulary] of the yardstick and of the engine."""
        reference, other = _log_softmax(expected), _log_softmax(found)
        self.rows += len(expected)
        self.divergence += float((np.exp(reference) * (reference - other)).sum())
        self.rms += float(np.sqrt(np.square(expected - found).mean(axis=1)).sum())
        self.same += int((expected.argmax(axis=1) == found.argmax(axis=1)).sum())


class Batch:
    """Several prompts in one pool, stepped together on one engine or a pair that shares the pool."""

    def __init__(self, prompts: Sequence[npt.NDArray[np.int32]], page_tokens: int, outputs: int) -> None:
        self.prompts = prompts
        self.page_tokens = page_tokens
        pages = [-(-(len(prompt) + outputs) // page_tokens) for prompt in prompts]
        ends = np.cumsum(pages)
        scattered = np.random.default_rng(0).permutation(int(ends[-1])).astype(np.int32)
        self.pages = int(ends[-1])
        self.tables = np.split(scattered, ends[:-1])

    def prefill(self, engine: Engine, numerics: str) -> list[int]:
        """Computes the full pages of every prompt but its last token; returns where each goes on."""
        starts = []
        for prompt, table in zip(self.prompts, self.tables, strict=True):
            split = (len(prompt) - 1) // self.page_tokens * self.page_tokens
            if split:
                engine.step([self._span(prompt, table, 0, split, numerics, keep=False)])
            starts.append(split)
        return starts

    def rows(
        self,
        engine: Engine,
        numerics: str,
        starts: Sequence[int],
        texts: list[npt.NDArray[np.int32]],
        at: int,
    ) -> Logits:
        """The next row of each sequence, [prompts, vocabulary]: of the prompt's last token for `at` 0,
        of output token `at` - 1 otherwise."""
        spans = []
        for index, (prompt, table) in enumerate(zip(self.prompts, self.tables, strict=True)):
            end = len(prompt) + at
            start = starts[index] if at == 0 else end - 1
            tokens = np.concatenate([prompt, texts[index][:at]])
            spans.append(self._span(tokens, table, start, end, numerics, keep=True))
        return engine.logits(engine.step(spans))

    def _span(
        self,
        tokens: npt.NDArray[np.int32],
        table: npt.NDArray[np.int32],
        start: int,
        end: int,
        numerics: str,
        *,
        keep: bool,
    ) -> Span:
        return Span(
            first_position=start,
            tokens=np.ascontiguousarray(tokens[start:end], np.int32),
            pages=np.ascontiguousarray(table[: -(-end // self.page_tokens)]),
            numerics=numerics,
            logits_from=end - start - 1 if keep else None,
        )


def yardstick(engine: Engine, batch: Batch, outputs: int) -> tuple[list[npt.NDArray[np.int32]], Logits]:
    """Greedy tokens of each prompt, [outputs], and the logits [outputs + 1, prompts, vocabulary]."""
    numerics = engine.capabilities.numerics[0]
    texts: list[npt.NDArray[np.int32]] = [np.empty(0, np.int32) for _ in batch.prompts]
    starts = batch.prefill(engine, numerics)
    rows = []
    for at in range(outputs + 1):
        rows.append(batch.rows(engine, numerics, starts, texts, at))
        chosen = rows[-1].argmax(axis=1).astype(np.int32)
        texts = [np.append(text, token) for text, token in zip(texts, chosen, strict=True)]
    return [text[:outputs] for text in texts], np.stack(rows)


def compare(
    engine: Engine,
    case: Case,
    batch: Batch,
    texts: list[npt.NDArray[np.int32]],
    expected: Logits,
    sums: tuple[Sums, Sums],
) -> None:
    """Feeds the yardstick's tokens to the case, and adds its rows to (next position, generated)."""
    numerics = dict(zip(engine.capabilities.formats, engine.capabilities.numerics, strict=True))
    starts = batch.prefill(engine, numerics[case.prefill])
    for at, rows in enumerate(expected):
        found = batch.rows(engine, numerics[case.decode], starts, texts, at)
        sums[0 if at == 0 else 1].add(rows, found)


def native_engine(model: Model) -> NativeEngine:
    """All formats in one engine, on one thread."""
    weights = {}
    for name in packing.FORMATS:
        memory = np.zeros(packing.packed_bytes(model.config, name) + 64, np.uint8)
        weights[name] = memory[-memory.ctypes.data % 64 :].data
        packing.pack(model, name, weights[name])
    return NativeEngine(model.config, weights, model.fingerprint, "int8")


def measure(
    loaded: LoadedModel, prompts: list[str], outputs: int, console: Console
) -> dict[str, tuple[Sums, Sums]]:
    """Sums of every case over all prompts."""
    reference, native = TorchEngine(loaded.model), native_engine(loaded.model)
    encoded = [np.array(loaded.tokenizer.encode_prompt(text), np.int32) for text in prompts]
    results = {case.name: (Sums(), Sums()) for case in CASES}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("prompts", total=len(encoded))
        for group in _groups(encoded, BATCH):
            batch = Batch(group, reference.kv_format.page_tokens, outputs)
            pool = _pool(batch.pages * reference.kv_format.page_bytes)
            reference.attach_pool(pool, batch.pages)
            texts, expected = yardstick(reference, batch, outputs)
            native.attach_pool(pool, batch.pages)
            for case in CASES:
                compare(native, case, batch, texts, expected, results[case.name])
            progress.advance(task, len(group))
    return results


def rows_of(results: dict[str, tuple[Sums, Sums]], against: str) -> Iterator[Row]:
    """The table: divergence is what must hold, the rest is told."""
    for name, pair in results.items():
        for where, sums in zip(("next position", "generated"), pair, strict=True):
            count = sums.rows
            label = f"{name}, {where}"
            yield Row(
                name=f"{label}: KL",
                value=sums.divergence / count,
                unit="nats",
                against=against,
                must=f"< {MUST[name]}",
            )
            yield Row(name=f"{label}: rms", value=sums.rms / count, unit="logits", against=against)
            yield Row(name=f"{label}: top-1", value=sums.same / count, unit="of rows", against=against)


def main() -> int:
    parser = argument_parser(__doc__)
    parser.add_argument("--model", default=MODEL, help="path or id (default: %(default)s)")
    parser.add_argument("--prompts", type=int, help="only the first N prompts (default: all)")
    parser.add_argument("--outputs", type=int, default=64, help="generated positions (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    prompts = PROMPTS.read_text(encoding="utf-8").strip().split("\n\n")[: arguments.prompts]
    console = Console()
    results = measure(load(arguments.model), prompts, arguments.outputs, console)
    against = f"torch {torch.__version__} float32"
    setting = {"model": arguments.model, "prompts": len(prompts), "outputs": arguments.outputs}
    console.print(
        f"{setting['prompts']} prompts, {setting['outputs']} generated positions of {setting['model']}"
    )
    return finish(
        "accuracy",
        list(rows_of(results, against)),
        arguments.json,
        packages=("torch",),
        extra={"settings": setting},
        console=console,
    )


def _groups(items: list[npt.NDArray[np.int32]], size: int) -> Iterator[list[npt.NDArray[np.int32]]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _pool(size_bytes: int) -> memoryview:
    """Page-aligned memory full of NaN patterns."""
    memory = np.full(size_bytes + 4096, 0xFF, np.uint8)
    start = -memory.ctypes.data % 4096
    return memory[start : start + size_bytes].data


def _log_softmax(logits: Logits) -> npt.NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)), np.float64)


if __name__ == "__main__":
    sys.exit(main())
