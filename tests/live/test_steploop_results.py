"""What the step loop makes of an engine's rows: finishes, scores, log-probabilities, page hashes."""

from __future__ import annotations

import pytest
from steploop_fakes import (
    PAGE,
    PROMPT,
    ROOT,
    Bench,
    alone,
    spans,
    token_bytes,
)

from diptych.core.actions import PromptSpan
from diptych.core.ids import SHARED
from diptych.engine.interface import SamplingParameters
from diptych.live.steploop.stopping import ByteStops
from diptych.wire.hashing import page_hashes


def test_a_stop_token_is_counted_and_comes_last() -> None:
    text = alone(20)
    stop = text[6]
    bench = Bench()
    stream = bench.open(tokens_max=20, stop_tokens=(stop,))
    bench.play(stream, 32)
    count = text.index(stop) + 1
    assert bench.door.tokens("r") == text[:count]
    assert (bench.door.finish("r").finish, bench.door.finish("r").detail) == ("stop_token", "")


def test_a_stop_string_is_found_across_token_borders() -> None:
    text = bytes(alone(20))
    for start, end in ((0, 1), (3, 6), (2, 11)):
        stop = text[start:end]
        bench = Bench()
        runs = bench.play(bench.open(tokens_max=20, stop=(b"no such text", stop)), 32)
        count = text.index(stop) + len(stop)
        assert bytes(bench.door.tokens("r")) == text[:count]
        assert bench.door.finish("r").finish == "stop_string"
        assert bench.door.finish("r").detail == stop.decode()
        assert runs[-1].finished[0].reason == "stop_string"


def test_byte_stops_find_the_first_complete_and_then_the_longest() -> None:
    def found(stops: list[bytes], text: bytes, emitted: bytes = b"") -> tuple[int, bytes] | None:
        matcher = ByteStops(stops, token_bytes, emitted)
        for index, token in enumerate(text):
            stop = matcher.push(token)
            if stop is not None:
                return index, stop
        return None

    assert found([b"bc", b"abcd"], b"abcd") == (2, b"bc")
    assert found([b"bc", b"abc", b"c"], b"abcd") == (2, b"abc")
    assert found([b"\n\n"], b"a\nb\nc") is None
    assert found([b"abc"], b"c", emitted=b"xab") == (0, b"abc")
    assert found([b"abc"], b"bc", emitted=b"xxxxxa") == (1, b"abc")
    several_bytes = {1: b"one", 2: b"two three"}
    matcher = ByteStops([b"ree", b"etw", b"two t"], several_bytes.__getitem__)
    assert [matcher.push(1), matcher.push(2)] == [None, b"etw"]


def test_log_probabilities_travel_where_they_were_asked_for() -> None:
    bench = Bench()
    bench.play(bench.open(tokens_max=3, sampling=SamplingParameters(logprobs=2)))
    for frame in bench.door.frames:
        (sampled,) = frame.sampled()  # type: ignore[union-attr]
        assert sampled.logprob is not None
        assert sampled.top[0] == (sampled.token, pytest.approx(sampled.logprob))
        assert len(sampled.top) == 2
    plain = Bench()
    plain.play(plain.open(tokens_max=3))
    assert all(frame.logprobs == () for frame in plain.door.frames)  # type: ignore[union-attr]


def test_the_prompt_is_scored_once_whatever_its_chunks() -> None:
    whole = Bench()
    stream = whole.open(score_prompt=True, sequences=2, sampling=SamplingParameters(logprobs=1))
    whole.run(*spans(stream, logits_from=0), tables=whole.tables(stream))
    scores = whole.door.scores()
    assert sorted(scores) == list(range(1, len(PROMPT)))
    assert [scores[index].token for index in sorted(scores)] == list(PROMPT[1:])
    assert all(len(score.top) == 1 for score in scores.values())
    chunked = Bench()
    stream = chunked.open(score_prompt=True, sequences=1, sampling=SamplingParameters(logprobs=1))
    tables = chunked.tables(stream)
    chunked.run(PromptSpan(*stream.key, SHARED, 0, 7, "a", False, 0), tables=tables[:1])
    chunked.run(PromptSpan(*stream.key, SHARED, 7, 9, "a", False, 7))
    chunked.run(PromptSpan(*stream.key, 0, 16, 3, "a", True, 16), tables=tables[1:])
    assert chunked.door.scores() == scores
    assert chunked.door.tokens("r")[0] == whole.door.tokens("r")[0]


def test_the_last_prompt_token_alone_gives_no_scores() -> None:
    bench = Bench()
    stream = bench.open(prompt=PROMPT[:17], score_prompt=True)
    tables = bench.tables(stream)
    bench.run(PromptSpan(*stream.key, SHARED, 0, 16, "a", False, 0), tables=tables[:1])
    assert sorted(bench.door.scores()) == list(range(1, 17))
    bench.run(PromptSpan(*stream.key, 0, 16, 1, "a", True, 16), tables=tables[1:])
    assert len(bench.door.frames) == 2, "scores, then a token"


def test_scores_alone_end_a_request_without_a_token() -> None:
    bench = Bench()
    stream = bench.open(score_prompt=True, tokens_max=0)
    ran = bench.run(*spans(stream, logits_from=0), tables=bench.tables(stream), steps_max=5)
    assert ran.steps == 1
    assert sorted(bench.door.scores()) == list(range(1, len(PROMPT)))
    finish = bench.door.finish("r")
    assert (finish.finish, finish.tokens, finish.first_index) == ("length", (), 0)
    assert bench.door.frames[-1] is finish, "scores come before the finish"
    assert ran.finished[0].emitted == 0


def test_a_sequence_ends_where_the_context_does() -> None:
    bench = Bench()
    bench.context_tokens_max = len(PROMPT) + 3
    stream = bench.open(tokens_max=50)
    runs = bench.play(stream, 32)
    assert bench.door.finish("r").finish == "context"
    assert runs[-1].finished[0].emitted == 3
    assert bench.door.tokens("r") == alone(3)


def test_hashes_of_a_finished_sequence_are_those_of_its_computed_pages() -> None:
    bench = Bench()
    runs = bench.play(bench.open(tokens_max=9), 32)
    text = [*PROMPT, *bench.door.tokens("r")]
    # 28 tokens are known, 27 are computed: 6 full pages, of which the prompt's first 4 are shared.
    assert runs[-1].finished[0].page_hashes == page_hashes(ROOT, text, PAGE)[4:6]
    short = Bench()
    runs = short.play(short.open(prompt=b"ab", tokens_max=4))
    text = [*b"ab", *short.door.tokens("r")]
    assert runs[-1].finished[0].page_hashes == page_hashes(ROOT, text[:5], PAGE)
