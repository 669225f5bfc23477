"""Which steps an engine may be given: the limits that every engine states in the same words."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from diptych.engine.interface import Capabilities, Span


def check_spans(
    spans: Sequence[Span], *, capabilities: Capabilities, page_tokens: int, pages: int, vocabulary: int
) -> None:
    """Raises `ValueError` naming the span, the field and the limit for a step outside the limits.

    `pages` is the number of pages in the pool. Two spans may share pages they only read; a page that
    one span writes must not be in another's table.
    """
    if not 1 <= len(spans) <= capabilities.step_spans_max:
        raise ValueError(f"spans: {len(spans)} in one step, expected 1 to {capabilities.step_spans_max}")
    tokens = sum(np.size(span.tokens) for span in spans)
    if tokens > capabilities.step_tokens_max:
        raise ValueError(f"tokens: {tokens} in one step, the limit is {capabilities.step_tokens_max}")
    for index, span in enumerate(spans):
        _check_span(span, f"spans[{index}]", capabilities, page_tokens, pages, vocabulary)
    _check_writes(spans, page_tokens)


def _check_span(
    span: Span, where: str, capabilities: Capabilities, page_tokens: int, pages: int, vocabulary: int
) -> None:
    tokens, table = span.tokens, span.pages
    if tokens.dtype != np.int32 or tokens.ndim != 1 or not len(tokens):
        raise ValueError(f"{where}.tokens: expected at least one int32 in one dimension, got {_kind(tokens)}")
    if tokens.min() < 0 or tokens.max() >= vocabulary:
        raise ValueError(f"{where}.tokens: ids must be 0 to {vocabulary - 1}")
    end = span.first_position + len(tokens)
    if span.first_position < 0 or end > capabilities.context_tokens_max:
        raise ValueError(
            f"{where}.first_position: positions {span.first_position} to {end - 1} are outside the context "
            f"of {capabilities.context_tokens_max} tokens"
        )
    if table.dtype != np.int32 or table.ndim != 1 or len(table) != -(-end // page_tokens):
        raise ValueError(
            f"{where}.pages: expected {-(-end // page_tokens)} int32 for {end} tokens, got {_kind(table)}"
        )
    if table.min() < 0 or table.max() >= pages or len(np.unique(table)) != len(table):
        raise ValueError(f"{where}.pages: expected distinct page ids 0 to {pages - 1}")
    if span.numerics not in capabilities.numerics:
        raise ValueError(f"{where}.numerics: {span.numerics!r} is none of {', '.join(capabilities.numerics)}")
    if span.logits_from is not None and not 0 <= span.logits_from < len(tokens):
        raise ValueError(
            f"{where}.logits_from: {span.logits_from} is outside the span's {len(tokens)} tokens"
        )


def _check_writes(spans: Sequence[Span], page_tokens: int) -> None:
    if len(spans) == 1:
        return
    written = [span.pages[span.first_position // page_tokens :] for span in spans]
    owners = {int(page): index for index, table in enumerate(written) for page in table}
    if len(owners) != sum(map(len, written)):
        raise ValueError("pages: two spans of one step write the same page")
    for index, span in enumerate(spans):
        for page in map(int, span.pages):
            if owners.get(page, index) != index:
                raise ValueError(f"spans[{index}].pages: page {page} is written by spans[{owners[page]}]")


def _kind(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> str:
    return f"{array.dtype} {list(array.shape)}"


def rows_kept(span: Span) -> int:
    """How many logits rows the span asks for."""
    return 0 if span.logits_from is None else len(span.tokens) - span.logits_from
