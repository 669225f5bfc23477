"""What every engine keeps: rows that depend on nothing but their context, and pages left alone."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from diptych.engine.interface import Span
from diptych.testing.trial import (
    NAN_BYTE,
    NO_TOKENS,
    POOL_PAGES,
    EngineProperty,
    EngineTrial,
    chunks_of,
    require,
)


def check_capabilities(trial: EngineTrial) -> None:
    """The promises are complete and the limits are limits."""
    capabilities = trial.engine.capabilities
    require(capabilities.engine, "capabilities.engine is empty")
    require(capabilities.numerics, "capabilities.numerics is empty")
    require(
        len(set(capabilities.numerics)) == len(capabilities.numerics), "capabilities.numerics repeats an id"
    )
    require(
        len(capabilities.formats) == len(capabilities.numerics),
        f"capabilities.formats {capabilities.formats} does not match numerics {capabilities.numerics}",
    )
    for field in ("context_tokens_max", "step_tokens_max", "step_spans_max"):
        require(getattr(capabilities, field) > 0, f"capabilities.{field} is not positive")
    require(capabilities == trial.engine.capabilities, "capabilities change between two reads")
    require(trial.engine.kv_format == trial.engine.kv_format, "kv_format changes between two reads")


def check_stale_memory(trial: EngineTrial) -> None:
    """Whatever lay in the pages before, and lies beyond the span's end, changes nothing."""
    tokens = trial.prompt()
    table = trial.table(len(tokens))
    trial.pages.fill(0)
    expected = trial.run(tokens, table)
    for fill, name in ((NAN_BYTE, "NaN"), (0x7F, "huge values")):
        trial.pages.fill(fill)
        trial.assert_same(trial.run(tokens, table), expected, f"over pages full of {name}")
    trial.dirty()
    trial.assert_same(trial.run(tokens, table), expected, "over another tenant's pages")


def check_chunking(trial: EngineTrial) -> None:
    """A prompt gives the same rows in one step, in chunks, and token by token."""
    tokens = trial.prompt()
    table = trial.table(len(tokens))
    expected = trial.run(tokens, table)
    limits = (1, 3, trial.page_tokens, trial.page_tokens + 1)
    for limit in [limit for limit in limits if limit <= trial.step_tokens]:
        trial.dirty()
        chunks = chunks_of(len(tokens), limit)
        trial.assert_same(trial.run(tokens, table, chunks=chunks), expected, f"in chunks of {limit}")
    trial.dirty()
    ragged = _ragged(trial, len(tokens))
    trial.assert_same(trial.run(tokens, table, chunks=ragged), expected, f"in chunks of {ragged}")


def check_pages(trial: EngineTrial) -> None:
    """Which physical pages a sequence lies in changes nothing."""
    tokens = trial.prompt()
    expected = trial.run(tokens, np.arange(POOL_PAGES, dtype=np.int32))
    for _ in range(3):
        table = trial.table(len(tokens))
        trial.dirty()
        trial.assert_same(trial.run(tokens, table), expected, f"in pages {table.tolist()}")


def check_batching(trial: EngineTrial) -> None:
    """A row is the same alone and in every company: other decodes, other prefills, any order."""
    lengths = _batch_lengths(trial)
    prompts = [trial.prompt(length) for length in lengths]
    pages = trial.random.permutation(POOL_PAGES).astype(np.int32)
    share = POOL_PAGES // len(lengths)
    tables = [pages[index * share : (index + 1) * share] for index in range(len(lengths))]
    alone = [trial.run(*pair)[-1:] for pair in zip(prompts, tables, strict=True)]
    trial.dirty()
    for index, (prompt, table) in enumerate(zip(prompts, tables, strict=True)):
        if (
            index % 2 == 0 and len(prompt) > 1
        ):  # these decode their last token beside the prefill of the others
            trial.run(prompt[:-1], table, keep=False)
    order = trial.random.permutation(len(lengths))
    spans = []
    for index in order:
        count = 1 if index % 2 == 0 else lengths[index]
        start = lengths[index] - count
        spans.append(trial.span(prompts[index], tables[index], start, count, count - 1))
    result = trial.engine.step(spans)
    require(
        result.rows == len(spans), f"a step of {len(spans)} spans that keep a row each has {result.rows} rows"
    )
    logits = trial.engine.logits(result)
    for row, index in enumerate(order):
        what = f"sequence {index} of {lengths[index]} tokens in a mixed batch of {len(lengths)}"
        trial.assert_same(logits[row : row + 1], alone[index], what)


def check_shared_prefix(trial: EngineTrial) -> None:
    """Two sequences may read the same pages in one step."""
    shared = 2 * trial.page_tokens
    prefix, endings = trial.prompt(shared), [trial.prompt(3), trial.prompt(3)]
    if trial.step_tokens < 6 or trial.engine.capabilities.step_spans_max < 2:
        return
    pages = trial.random.permutation(POOL_PAGES).astype(np.int32)
    tokens = [np.concatenate([prefix, ending]) for ending in endings]
    expected = [trial.run(whole, pages[8 * index :])[-1:] for index, whole in enumerate(tokens)]
    trial.dirty()
    trial.run(prefix, pages, keep=False)
    tables = [np.append(pages[:2], pages[10 + index]) for index in range(2)]
    spans = [trial.span(whole, table, shared, 3, 2) for whole, table in zip(tokens, tables, strict=True)]
    logits = trial.engine.logits(trial.engine.step(spans))
    for row in range(2):
        trial.assert_same(logits[row : row + 1], expected[row], f"sequence {row} over a shared prefix")


def check_writes(trial: EngineTrial) -> None:
    """A step writes the pages of its own positions and no other byte."""
    tokens = trial.prompt()
    table = trial.table(len(tokens))
    start = 2 * trial.page_tokens + 1
    trial.run(tokens[:start], table, keep=False)
    before = trial.pages.copy()
    count = min(len(tokens) - start, trial.step_tokens)
    trial.engine.step([trial.span(tokens, table, start, count, None)])
    changed = set(np.flatnonzero((trial.pages != before).any(axis=1)).tolist())
    page_after = -(-(start + count) // trial.page_tokens)
    allowed = set(table[start // trial.page_tokens : page_after].tolist())
    require(
        changed <= allowed, f"pages {sorted(changed - allowed)} were written, allowed are {sorted(allowed)}"
    )
    require(changed == allowed, f"pages {sorted(allowed - changed)} should hold new tokens and are unchanged")
    require(trial.guards_intact(), "bytes outside the pool were written")


def check_kept_rows(trial: EngineTrial) -> None:
    """`logits_from` keeps exactly the rows it names, in span order."""
    tokens = trial.prompt(min(trial.prompt_tokens, trial.step_tokens))
    table = trial.table(len(tokens))
    everything = trial.run(tokens, table)
    for first in (0, len(tokens) // 2, len(tokens) - 1, None):
        result = trial.engine.step([trial.span(tokens, table, 0, len(tokens), first)])
        expected = everything[len(tokens) if first is None else first :]
        require(
            result.rows == len(expected), f"logits_from {first}: {result.rows} rows, expected {len(expected)}"
        )
        if len(expected):
            trial.assert_same(trial.engine.logits(result), expected, f"with logits_from {first}")


def check_bad_spans(trial: EngineTrial) -> None:
    """A span outside the limits raises `ValueError` naming the field, and writes nothing."""
    count = min(trial.prompt_tokens, trial.step_tokens)
    good = trial.span(trial.prompt(count), trial.table(count), 0, count)
    change = msgspec.structs.replace
    limit = trial.engine.capabilities.context_tokens_max
    negative = good.pages.copy()
    negative[0] = -1
    bad = [
        ("tokens", change(good, tokens=NO_TOKENS)),
        ("tokens", change(good, tokens=good.tokens + np.int32(trial.vocabulary))),
        ("tokens", change(good, tokens=-good.tokens - np.int32(1))),
        ("first_position", change(good, first_position=-1)),
        ("first_position", change(good, first_position=limit)),
        ("pages", change(good, pages=good.pages[:-1].copy())),
        ("pages", change(good, pages=good.pages + np.int32(POOL_PAGES))),
        ("pages", change(good, pages=negative)),
        ("numerics", change(good, numerics="no such numerics")),
        ("logits_from", change(good, logits_from=len(good.tokens))),
        ("logits_from", change(good, logits_from=-1)),
    ]
    before = trial.pages.copy()
    for field, span in bad:
        _assert_refused(trial, [span], field, msgspec.structs.asdict(span)[field])
    require(np.array_equal(trial.pages, before), "a refused step wrote into the pool")


def _assert_refused(trial: EngineTrial, spans: Sequence[Span], field: str, value: object) -> None:
    try:
        trial.engine.step(spans)
    except ValueError as error:
        message = str(error)
    else:
        raise AssertionError(f"a step with {field} = {value!r} was not refused")
    require(field in message, f"the error for a bad {field} does not name it: {message}")


def _ragged(trial: EngineTrial, total: int) -> list[int]:
    """Random chunk sizes of that sum, none over a step."""
    sizes: list[int] = []
    while (rest := total - sum(sizes)) > 0:
        sizes.append(min(rest, int(trial.random.integers(1, min(total // 2, trial.step_tokens) + 1))))
    return sizes


def _batch_lengths(trial: EngineTrial) -> list[int]:
    """Ragged prompts that fit the pool and one step."""
    share = POOL_PAGES // 8 * trial.page_tokens
    limits = trial.engine.capabilities
    lengths = [1, 2, trial.page_tokens, trial.page_tokens + 1, 2 * trial.page_tokens - 1, 40, 7, 33]
    fitting, total = [], 0
    for length in lengths[: limits.step_spans_max]:
        possible = min(length, share, limits.context_tokens_max)
        if total + possible <= limits.step_tokens_max:
            fitting.append(possible)
            total += possible
    return fitting


ENGINE_PROPERTIES: tuple[EngineProperty, ...] = (
    check_capabilities,
    check_stale_memory,
    check_chunking,
    check_pages,
    check_batching,
    check_shared_prefix,
    check_writes,
    check_kept_rows,
    check_bad_spans,
)
"""What every engine keeps."""
