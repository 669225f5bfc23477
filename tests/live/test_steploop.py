from __future__ import annotations

import numpy as np
import pytest
from steploop_fakes import (
    ALL_A,
    PAGE,
    PROMPT,
    Bench,
    FakeDoor,
    alone,
    engine,
    request_facts,
    spans,
)

from diptych.core.actions import PromptSpan, TablePart
from diptych.core.facts import PrefillRequested
from diptych.core.ids import SHARED
from diptych.core.recipe import OPEN_END, join
from diptych.engine.interface import SamplingParameters
from diptych.live.steploop.stream import Stream, WrongOrder

SEEDED = SamplingParameters(temperature=1.0, seed=7)


def test_a_request_runs_from_prompt_to_length_and_every_token_is_streamed_once() -> None:
    bench = Bench()
    stream = bench.open(tokens_max=8)
    first = bench.start(stream)
    assert (first.steps, first.finished) == (1, ())
    assert bench.door.tokens("r") == alone()[:1]
    rest = bench.run(steps_max=32)
    assert rest.steps == 7
    assert bench.door.tokens("r") == alone()
    assert len(bench.door.messages) == 8, "one message to the door each step"
    assert bench.door.finish("r").finish == "length"
    (finish,) = rest.finished
    assert (finish.request, finish.attempt, finish.sequence) == ("r", 1, 0)
    assert (finish.reason, finish.emitted) == ("length", 8)
    with pytest.raises(WrongOrder, match="nothing to do"):
        bench.run()


def test_shared_part_and_tail_of_one_sequence_are_one_span_for_the_engine() -> None:
    bench = Bench()
    bench.start(bench.open())
    assert [[len(span.tokens) for span in step] for step in bench.engine.steps] == [[len(PROMPT)]]


def test_spans_in_unlike_pages_are_not_joined() -> None:
    bench = Bench()
    stream = bench.open()
    shared, own = bench.tables(stream)
    elsewhere = TablePart(*stream.key, 0, 0, own.pages[::-1])
    bench.run(*spans(stream), tables=(shared, elsewhere))
    assert [len(span.tokens) for step in bench.engine.steps for span in step] == [16, 3]


def test_a_prompt_in_chunks_and_with_two_numerics_reads_what_it_wrote() -> None:
    reference = Bench()
    recipe = join(("b", 8), ("a", OPEN_END))
    one_go = reference.open(recipe=recipe)
    reference.run(
        PromptSpan(*one_go.key, SHARED, 0, 8, "b", False),
        PromptSpan(*one_go.key, SHARED, 8, 8, "a", False),
        PromptSpan(*one_go.key, 0, 16, 3, "a", True),
        tables=reference.tables(one_go),
    )
    assert [[len(s.tokens) for s in step] for step in reference.engine.steps] == [[8], [11]]
    chunked = Bench()
    stream = chunked.open(recipe=recipe)
    tables = chunked.tables(stream)
    chunked.run(PromptSpan(*stream.key, SHARED, 0, 3, "b", False), tables=tables[:1])
    chunked.run(PromptSpan(*stream.key, SHARED, 3, 5, "b", False))
    chunked.run(PromptSpan(*stream.key, SHARED, 8, 8, "a", False))
    chunked.run(PromptSpan(*stream.key, 0, 16, 3, "a", True), tables=tables[1:])
    for bench in (reference, chunked):
        bench.run(steps_max=32)
    assert chunked.door.tokens("r") == reference.door.tokens("r")
    assert chunked.door.tokens("r") != alone(), "numerics matter"


def test_decoding_goes_by_the_recipe_position_by_position() -> None:
    bench = Bench()
    recipe = join(("a", 20), ("b", OPEN_END))
    stream = bench.open(recipe=recipe, tokens_max=4)
    bench.start(stream)
    bench.run(steps_max=32)
    assert [step[0].numerics for step in bench.engine.steps] == ["a", "a", "b", "b"]


def test_two_sequences_share_the_prompt_and_draw_their_own_tokens() -> None:
    bench = Bench()
    stream = bench.open(sequences=2, sampling=SEEDED)
    bench.play(stream, steps_max=4)
    assert bench.door.tokens("r", 0) == alone(sampling=SEEDED)
    assert bench.door.tokens("r", 1) != bench.door.tokens("r", 0)
    assert len(bench.door.tokens("r", 1)) == 8
    # The first call has the shared part, joined to the first sequence's tail; only then can the second
    # sequence read it.
    assert [len(step) for step in bench.engine.steps[:3]] == [1, 1, 2]
    assert [len(bench.engine.steps[0][0].tokens), len(bench.engine.steps[1][0].tokens)] == [19, 3]


def test_a_finish_ends_the_run_for_all_and_the_others_go_on() -> None:
    bench = Bench()
    short = bench.open("short", tokens_max=3)
    long = bench.open("long", prompt=b"another story", tokens_max=9)
    bench.run(*spans(short), *spans(long), tables=bench.tables(short) + bench.tables(long))
    ran = bench.run(steps_max=32)
    assert (ran.steps, [finish.request for finish in ran.finished]) == (2, ["short"])
    bench.stepper.drop(short.key)
    ran = bench.run(steps_max=32)
    assert (ran.steps, [finish.request for finish in ran.finished]) == (6, ["long"])
    assert bench.door.tokens("short") == alone(3)
    assert bench.door.tokens("long") == alone(9, prompt=b"another story")
    assert [len(step) for step in bench.engine.steps] == [2, 2, 2, 1, 1, 1, 1, 1, 1]
    assert len(bench.door.messages) == 9, "frames of both sequences go in one message"


def test_newcomers_and_decoding_sequences_share_a_step() -> None:
    bench = Bench()
    first = bench.open("first")
    bench.start(first)
    second = bench.open("second", prompt=b"another story")
    bench.start(second)
    assert [len(span.tokens) for span in bench.engine.steps[1]] == [1, 13]
    bench.run(steps_max=32)
    assert bench.door.tokens("first") == alone()
    bench.run(steps_max=32)
    assert bench.door.tokens("second") == alone(prompt=b"another story")


def test_a_run_ends_behind_the_step_in_hand_when_asked_to() -> None:
    bench = Bench()
    bench.start(bench.open(tokens_max=20))
    answers = iter([False, False, True])
    assert bench.run(steps_max=10, ended=lambda: next(answers)).steps == 3
    assert len(bench.door.tokens("r")) == 4
    assert bench.run(steps_max=10, ended=lambda: True).steps == 1, "what was ended early still does a step"
    bench.run(steps_max=32)
    assert bench.door.tokens("r") == alone(20)


def test_a_resumed_stream_goes_on_where_it_was() -> None:
    sampling = SamplingParameters(
        temperature=1.2, seed=11, frequency_penalty=0.5, repetition_penalty=1.2, logprobs=1
    )
    text = alone(16, sampling=sampling)
    stop = bytes(text[4:7])
    for known in (1, 5, 6):
        bench = Bench()
        emitted = (tuple(text[:known]),)
        stream = bench.open(attempt=2, tokens_max=16, sampling=sampling, emitted=emitted, stop=(stop,))
        runs = bench.play(stream, 32)
        frames = bench.door.frames
        assert frames[0].first_index == known  # type: ignore[union-attr]
        assert bench.door.tokens("r", attempt=2) == text[known:7]
        assert bench.door.finish("r").detail == stop.decode(), "a stop string may straddle the resumption"
        assert runs[-1].finished[0].emitted == 7


def test_replayed_positions_follow_the_recipe_of_the_stream() -> None:
    recipe = join(("b", 16), ("a", OPEN_END))
    bench = Bench()
    whole = bench.open(recipe=recipe, tokens_max=12)
    bench.run(
        PromptSpan(*whole.key, SHARED, 0, 16, "b", False),
        PromptSpan(*whole.key, 0, 16, 3, "a", True),
        tables=bench.tables(whole),
    )
    bench.run(steps_max=32)
    text = bench.door.tokens("r")
    again = Bench()
    stream = again.open(recipe=recipe, attempt=2, tokens_max=12, emitted=(tuple(text[:7]),))
    again.run(
        PromptSpan(*stream.key, SHARED, 0, 16, "b", False),
        PromptSpan(*stream.key, 0, 16, 10, "a", True),
        tables=again.tables(stream),
    )
    again.run(steps_max=32)
    assert again.door.tokens("r", attempt=2) == text[7:]


def test_a_pause_comes_behind_the_tokens_and_a_dropped_stream_is_gone() -> None:
    bench = Bench()
    stream = bench.open(tokens_max=20)
    bench.start(stream)
    bench.run(steps_max=3)
    bench.stepper.pause(stream.key)
    bench.stepper.drop(stream.key)
    assert bench.door.frames[-1] is bench.door.pauses()[0]
    assert len(bench.door.tokens("r")) == 4
    bench.stepper.pause(stream.key)
    bench.stepper.drop(stream.key)
    assert len(bench.door.pauses()) == 1
    with pytest.raises(WrongOrder, match="nothing to do"):
        bench.run()
    with pytest.raises(WrongOrder, match="no such sequence"):
        bench.run(*spans(stream))


def test_a_prefill_worker_computes_pages_and_streams_nothing() -> None:
    reference, bench = Bench(), Bench()
    _, payload = request_facts()
    fact = PrefillRequested(
        request="r", attempt=1, model="m", page_hashes=(), held_tokens=0, split=16, recipe=ALL_A, target="d@1"
    )
    source = Stream(fact, payload, ALL_A, None, page_tokens=PAGE, context_tokens_max=100)
    bench.stepper.open(source)
    shared = tuple(range(4))
    ran = bench.run(
        PromptSpan(*source.key, SHARED, 0, 16, "a", False),
        tables=(TablePart(*source.key, SHARED, 0, shared),),
        steps_max=4,
    )
    assert (ran.steps, bench.door.frames) == (1, [])
    bench.stepper.drop(source.key)
    target = bench.open()
    table = TablePart(*target.key, 0, 0, (*shared, 90, 91, 92, 93, 94))
    bench.run(PromptSpan(*target.key, 0, 16, 3, "a", True), tables=(table,))
    bench.run(steps_max=32)
    reference.play(reference.open())
    assert bench.door.tokens("r") == reference.door.tokens("r")


def test_steps_larger_than_the_engine_takes_are_cut_into_calls() -> None:
    bench = Bench(engine(step_tokens_max=8, step_spans_max=2))
    streams = [bench.open(f"r{index}") for index in range(3)]
    for stream in streams:
        bench.start(stream)
    assert all(sum(len(s.tokens) for s in step) <= 8 and len(step) <= 2 for step in bench.engine.steps)
    assert [len(span.tokens) for step in bench.engine.steps[:3] for span in step] == [8, 8, 3]
    for _ in range(8):
        if any(len(bench.door.tokens(stream.request)) < 8 for stream in streams):
            bench.run(steps_max=1)
    for stream in streams:
        assert bench.door.tokens(stream.request) == alone()


def test_frames_go_to_the_door_of_their_own_request() -> None:
    bench = Bench()
    other = FakeDoor()
    first = bench.open("first", tokens_max=3)
    second = bench.open("second", tokens_max=3)
    second.door = other
    bench.run(*spans(first), *spans(second), tables=bench.tables(first) + bench.tables(second), steps_max=9)
    assert bench.door.tokens("first") == other.tokens("second") == alone(3)
    assert {frame.request for frame in bench.door.frames} == {"first"}
    assert {frame.request for frame in other.frames} == {"second"}


def test_what_the_machine_must_not_ask_is_refused_by_name() -> None:
    bench = Bench()
    stream = bench.open()
    shared, own = bench.tables(stream)
    with pytest.raises(WrongOrder, match="19 tokens are known"):
        bench.run(PromptSpan(*stream.key, 0, 0, 20, "a", False), tables=(shared, own))
    with pytest.raises(WrongOrder, match="19 tokens are known"):
        bench.run(PromptSpan(*stream.key, 0, 0, 18, "a", True))
    with pytest.raises(WrongOrder, match="table part at page 30, 15 pages are known"):
        bench.run(tables=(TablePart(*stream.key, 0, 30, (1,)),))
    with pytest.raises(WrongOrder, match="position 18 is past its 4 pages"):
        bench.run(
            PromptSpan(*stream.key, 0, 0, 19, "a", True),
            tables=(TablePart(*stream.key, 0, 0, own.pages[:4]),),
        )
    fact, payload = request_facts(emitted=((1, 2),))
    _, other = request_facts()
    with pytest.raises(WrongOrder, match="sequence 0: 0 emitted tokens came, not 2 as announced"):
        Stream(fact, other, ALL_A, None, page_tokens=PAGE, context_tokens_max=100)
    _, longer = request_facts(prompt=b"longer than it was said to be")
    with pytest.raises(WrongOrder, match="29 prompt tokens came"):
        Stream(fact, longer, ALL_A, None, page_tokens=PAGE, context_tokens_max=100)
    assert payload.emitted_tokens(0).tolist() == [1, 2]


def test_a_table_grows_from_any_page_on() -> None:
    bench = Bench()
    stream = bench.open(tokens_max=30)
    shared, own = bench.tables(stream)
    bench.run(*spans(stream), tables=(shared, TablePart(*stream.key, 0, 0, own.pages[:5])))
    bench.run(steps_max=1)
    bench.run(steps_max=4, tables=(TablePart(*stream.key, 0, 5, own.pages[5:6]),))
    with pytest.raises(WrongOrder, match="position 24 is past its 6 pages"):
        bench.run(steps_max=4)
    assert bench.door.tokens("r") == alone(30)[:6]
    assert np.array_equal(bench.engine.steps[-1][0].pages, own.pages[:6])
    track = stream.tracks[0]
    track.set_table(1, tuple(range(300, 350)))
    assert track.pages(9).tolist() == [own.pages[0], 300, 301]
    assert track.pages(40).tolist() == [own.pages[0], *range(300, 309)]
