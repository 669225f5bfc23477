"""The scripted engine: its words depend on every page, its cost is slept."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest

from diptych.engine.interface import SampleRow, SamplingParameters, Span
from diptych.engine.scripted import END_OF_TURN, ScriptedCost, ScriptedEngine
from diptych.models.scripted import scripted_text

MakePool = Callable[[int], memoryview]
PAGES = 32
PROMPT = np.frombuffer(b"tell me something that is not true, at some length, please" * 2, np.uint8)


def attached(make_pool: MakePool, **options: object) -> tuple[ScriptedEngine, memoryview]:
    engine = ScriptedEngine(**options)  # type: ignore[arg-type]
    pool = make_pool(PAGES * engine.kv_format.page_bytes)
    engine.attach_pool(pool, PAGES)
    return engine, pool


def span(start: int, tokens: np.ndarray, pages: np.ndarray, numerics: str = "scripted") -> Span:
    needed = -(-(start + len(tokens)) // 16)
    return Span(
        first_position=start,
        tokens=tokens.astype(np.int32),
        pages=pages[:needed].astype(np.int32),
        numerics=numerics,
        logits_from=len(tokens) - 1,
    )


def continue_with(
    engine: ScriptedEngine, pages: np.ndarray, count: int, numerics: str = "scripted"
) -> list[int]:
    """Greedy tokens after PROMPT, whose pages but the last token are already there."""
    sampler = engine.sampler(
        SamplingParameters(), choice=0, prompt=PROMPT.astype(np.int32), emitted=np.empty(0, np.int32)
    )
    tokens, position = [int(PROMPT[-1])], len(PROMPT) - 1
    for index in range(count):
        result = engine.step([span(position + index, np.array(tokens[-1:]), pages, numerics)])
        tokens.append(engine.sample(result, [SampleRow(row=0, sampler=sampler, output_index=index)])[0].token)
    return tokens[1:]


def test_any_change_of_a_handed_over_page_changes_the_text(make_pool: MakePool) -> None:
    engine, pool = attached(make_pool)
    pages = np.arange(PAGES)
    engine.step([span(0, PROMPT[:-1], pages)])
    expected = continue_with(engine, pages, 12)
    clean = bytes(pool)
    page_bytes = engine.kv_format.page_bytes

    def broken(change: Callable[[np.ndarray], None]) -> list[int]:
        pool[:] = clean
        change(np.frombuffer(pool, np.uint8).reshape(PAGES, page_bytes))
        return continue_with(engine, pages, 12)

    def swap(data: np.ndarray) -> None:
        data[[1, 2]] = data[[2, 1]]

    assert broken(lambda data: None) == expected
    assert broken(swap) != expected
    for page in range(len(PROMPT) // 16):
        assert broken(lambda data, page=page: data[page].fill(0)) != expected, f"page {page} is not read"
        assert broken(lambda data, page=page: data[page].fill(0xFF)) != expected


def test_two_engines_of_one_model_share_pages(make_pool: MakePool) -> None:
    prefill, pool = attached(make_pool)
    decode = ScriptedEngine()
    decode.attach_pool(pool, PAGES)
    pages = np.random.default_rng(2).permutation(PAGES)
    prefill.step([span(0, PROMPT[:-1], pages)])
    alone, _ = attached(make_pool)
    alone.step([span(0, PROMPT[:-1], pages)])
    assert continue_with(decode, pages, 20) == continue_with(alone, pages, 20)
    assert prefill.kv_format.difference(decode.kv_format) is None
    assert prefill.kv_format.difference(ScriptedEngine(model="other").kv_format) == "model"


def test_numerics_of_the_prompt_and_of_the_step_both_matter(make_pool: MakePool) -> None:
    engine, _ = attached(make_pool, numerics=("a", "b"))
    pages = np.arange(PAGES)
    texts = {}
    for prefill in "ab":
        for decode in "ab":
            engine.step([span(0, PROMPT[:-1], pages, prefill)])
            texts[prefill + decode] = tuple(continue_with(engine, pages, 12, decode))
    assert len(set(texts.values())) == 4


def test_text_is_readable_and_ends_where_asked(make_pool: MakePool) -> None:
    text = scripted_text()
    engine, _ = attached(make_pool, end_every=25)
    pages = np.arange(PAGES)
    engine.step([span(0, PROMPT[:-1], pages)])
    tokens = continue_with(engine, pages, 300)
    assert END_OF_TURN in tokens
    assert text.tokenizer.end_of_turn == (END_OF_TURN,)
    spoken = [token for token in tokens if token < 256]
    assert text.tokenizer.decode(spoken).replace(" ", "").isalpha()
    engine, _ = attached(make_pool)
    engine.step([span(0, PROMPT[:-1], pages)])
    assert END_OF_TURN not in continue_with(engine, pages, 300)


def test_words_of_the_scripted_model() -> None:
    text = scripted_text("s")
    assert text.tokenizer.encode("hé") == [*"hé".encode()]
    assert text.chat_template is not None
    prompt = text.chat_template.render([{"role": "user", "content": "hi"}])
    assert text.tokenizer.encode(prompt, special=True)[0] == 256
    assert text.tokenizer.token_bytes(7) == b"\x07"


def test_cost_is_declared_per_step_token_and_row() -> None:
    cost = ScriptedCost(step_ns=1000, prompt_token_ns=10, decode_row_ns=100)
    pages = np.arange(PAGES)
    one = span(40, np.zeros(1), pages)
    assert cost.of([span(0, np.zeros(30), pages), one, one]) == 1000 + 300 + 200


def test_cost_is_waited_for_without_cpu(make_pool: MakePool) -> None:
    engine, _ = attached(make_pool, cost=ScriptedCost(step_ns=200_000_000))
    started_ns, cpu_ns = time.monotonic_ns(), time.process_time_ns()
    engine.step([span(0, PROMPT, np.arange(PAGES))])
    assert time.monotonic_ns() - started_ns >= 200_000_000
    assert time.process_time_ns() - cpu_ns < 150_000_000


def test_limits_are_stated(make_pool: MakePool) -> None:
    with pytest.raises(ValueError, match="vocabulary: 100 is less than 258"):
        ScriptedEngine(vocabulary=100)
    engine = ScriptedEngine()
    with pytest.raises(RuntimeError, match="attach_pool"):
        engine.step([span(0, PROMPT, np.arange(PAGES))])
    with pytest.raises(ValueError, match=f"pool: 100 bytes, {PAGES} pages need"):
        engine.attach_pool(memoryview(bytearray(100)), PAGES)
    engine, _ = attached(make_pool, step_tokens_max=8, step_spans_max=1)
    with pytest.raises(ValueError, match="tokens: 9 in one step, the limit is 8"):
        engine.step([span(0, PROMPT[:9], np.arange(PAGES))])
    with pytest.raises(ValueError, match="spans: 2 in one step"):
        engine.step([span(0, PROMPT[:1], np.arange(8)), span(0, PROMPT[:1], np.arange(8, 16))])


def test_two_spans_may_not_write_one_page(make_pool: MakePool) -> None:
    engine, _ = attached(make_pool)
    with pytest.raises(ValueError, match="two spans of one step write the same page"):
        engine.step([span(0, PROMPT[:3], np.array([4])), span(0, PROMPT[:3], np.array([4]))])
    with pytest.raises(ValueError, match=r"spans\[1\]\.pages: page 4 is written by spans\[0\]"):
        engine.step([span(0, PROMPT[:3], np.array([4])), span(16, PROMPT[:3], np.array([4, 5]))])
