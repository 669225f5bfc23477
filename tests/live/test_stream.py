"""The door's acceptance rule: every token once, in order, whatever comes late, doubled or not at all."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.api.generation import GenerationRequest, PromptScored, SequenceFinished, TokensEmitted
from diptych.core.facts import RequestRouted
from diptych.core.recipe import join
from diptych.live.door.stream import Stream, percentiles_ms
from diptych.wire.frames import PauseFrame, ScoresFrame, TokensFrame
from diptych.wire.hashing import chain_root, page_hashes
from diptych.wire.payload import decode_payload, unpack_tokens

PAGE = 4


def make_stream(prompt: tuple[int, ...] = tuple(range(10)), **fields: object) -> Stream:
    request = GenerationRequest(request_id="r", model="m", prompt=prompt, **{"tokens_max": 100, **fields})
    return Stream(request, door="door-0@1", fingerprint="f", page_tokens=PAGE, now_ns=0)


def tokens(
    first: int, *ids: int, attempt: int = 1, sequence: int = 0, finish: str | None = None
) -> TokensFrame:
    return TokensFrame("r", attempt, sequence, first, ids, finish)


def routed(attempt: int, target: str = "d@1") -> RequestRouted:
    return RequestRouted(
        request="r",
        attempt=attempt,
        target=target,
        source=None,
        split=0,
        recipe=join(("n", 100)),
        held_tokens=0,
        reasons=None,
    )


def test_hashes_cover_the_full_pages_before_the_last_prompt_token() -> None:
    root = chain_root("f", "", "")
    assert make_stream(tuple(range(9))).arrived.page_hashes == page_hashes(root, range(8), PAGE)
    assert len(make_stream(tuple(range(8))).arrived.page_hashes) == 1
    assert make_stream((7,)).arrived.page_hashes == ()


def test_tokens_are_taken_once_and_in_order() -> None:
    stream = make_stream()
    assert stream.accept(tokens(0, 5, 6), 1)[0].first_index == 0
    assert stream.accept(tokens(0, 5, 6), 2) == []  # doubled
    assert stream.accept(tokens(3, 8), 3) == []  # a gap
    assert stream.accept(tokens(1, 6, 7), 3) == []  # overlaps: its worker started elsewhere
    assert stream.accept(tokens(2, 7), 4) != []
    assert stream.logs[0].tokens == [5, 6, 7]


def test_frames_of_a_drained_attempt_are_late() -> None:
    stream = make_stream()
    stream.accept(tokens(0, 5), 1)
    drained = stream.drain(1)
    assert drained.starts[0].emitted == 1
    assert stream.accept(tokens(1, 6), 2) == []
    assert stream.accept(tokens(1, 6, attempt=2), 3) != []
    assert stream.accept(tokens(2, 7, attempt=1), 4) == []


def test_a_newer_attempt_ends_the_older_one_without_a_drain() -> None:
    stream = make_stream()
    stream.route(routed(1))
    stream.accept(tokens(0, 5, attempt=3), 1)
    assert stream.accept(tokens(1, 6, attempt=1), 2) == []
    assert stream.attempt == 3


def test_a_late_route_changes_nothing() -> None:
    stream = make_stream()
    stream.route(routed(2, "d@2"))
    stream.route(routed(1, "d@1"))
    assert stream.target == "d@2"
    stream.drain(2)
    stream.route(routed(2, "d@2"))
    assert stream.target is None
    assert stream.open_request().attempt is None
    assert stream.open_request().recipe == join(("n", 100))


def test_the_stop_token_is_counted_and_not_shown() -> None:
    stream = make_stream()
    events = stream.accept(tokens(0, 5, 257, finish="stop_token"), 1)
    assert isinstance(events[0], TokensEmitted)
    assert [sampled.token for sampled in events[0].tokens] == [5]
    assert events[1] == SequenceFinished(0, "stop_token", 2)
    assert stream.finished
    assert stream.output_tokens == 2


def test_a_lone_stop_token_emits_nothing() -> None:
    events = make_stream().accept(tokens(0, 257, finish="stop_token"), 1)
    assert events == [SequenceFinished(0, "stop_token", 1)]


def test_a_finished_sequence_takes_no_more() -> None:
    stream = make_stream(sequences=2)
    stream.accept(tokens(0, 5, finish="length"), 1)
    assert stream.accept(tokens(1, 6), 2) == []
    assert not stream.finished
    assert [start.index for start in stream.starts()] == [1]


def test_a_sequence_that_was_not_asked_for_is_dropped() -> None:
    assert make_stream().accept(tokens(0, 5, sequence=1), 1) == []
    assert make_stream().accept(tokens(0, 5, sequence=-1), 1) == []


def test_starts_hash_prompt_tail_and_output_up_to_the_last_known_token() -> None:
    stream = make_stream()  # 10 tokens: 2 shared pages, 2 tokens of tail
    stream.accept(tokens(0, 20, 21, 22), 1)
    root = chain_root("f", "", "")
    known = [*range(10), 20, 21, 22]
    assert stream.starts()[0].page_hashes == page_hashes(root, known[:-1], PAGE)[2:]
    assert len(stream.starts()[0].page_hashes) == 1
    fewer = make_stream()
    fewer.accept(tokens(0, 20, 21), 1)  # 12 known, 11 computed: the third page is not full
    assert fewer.starts()[0].page_hashes == ()


def test_the_payload_says_what_every_sequence_has_given() -> None:
    stream = make_stream(sequences=2, stop=(b"x",), stop_tokens=(3,))
    assert decode_payload(stream.payload()).emitted == ()
    stream.accept(tokens(0, 5, 6, finish="length"), 1)
    payload = decode_payload(stream.payload())
    assert unpack_tokens(payload.prompt).tolist() == list(range(10))
    assert payload.emitted_tokens(0).tolist() == [5, 6]
    assert payload.emitted_tokens(1).tolist() == []
    assert payload.chain_root == chain_root("f", "", "")
    assert (payload.stop, payload.stop_tokens, payload.sequences) == ((b"x",), (3,), 2)


def test_tenants_share_no_pages() -> None:
    ours = make_stream(tenant="ours").arrived.page_hashes
    assert not set(ours) & set(make_stream(tenant="theirs").arrived.page_hashes)


def scores(first: int, count: int, attempt: int = 1) -> ScoresFrame:
    ids = tuple(range(first, first + count))
    return ScoresFrame("r", attempt, first, ids, tuple(-float(one) for one in ids), ((),) * count)


def test_scores_come_whole_and_once_over_two_attempts() -> None:
    stream = make_stream(score_prompt=True)
    assert stream.scores_due() == []
    assert stream.accept(scores(1, 4), 1) == []
    stream.drain(1)
    assert stream.accept(scores(1, 6, attempt=2), 2) == []
    assert stream.accept(scores(8, 2, attempt=2), 2) == []  # a gap
    (event,) = stream.accept(scores(7, 3, attempt=2), 3)
    assert isinstance(event, PromptScored)
    assert [sampled.token for sampled in event.scores] == list(range(1, 10))
    assert stream.accept(scores(1, 9, attempt=2), 4) == []


def test_a_prompt_of_one_token_has_no_scores_to_wait_for() -> None:
    stream = make_stream((4,), score_prompt=True)
    assert stream.scores_due() == [PromptScored(())]
    assert make_stream((4,)).scores_due() == []


def test_a_pause_counts_for_the_current_attempt_only() -> None:
    stream = make_stream()
    stream.route(routed(2))
    assert not stream.is_current(PauseFrame("r", 1))
    assert stream.is_current(PauseFrame("r", 2))
    stream.drain(2)
    assert not stream.is_current(PauseFrame("r", 2))


def test_fail_ends_what_is_open_and_only_that() -> None:
    stream = make_stream(sequences=2)
    stream.accept(tokens(0, 5, finish="length"), 1)
    assert stream.fail("failed", "why") == [SequenceFinished(1, "failed", 0, "why")]
    assert stream.finished


def test_gaps_are_between_frames_of_one_sequence() -> None:
    stream = make_stream(sequences=2)
    stream.accept(tokens(0, 1), 1_000_000)
    stream.accept(tokens(0, 1, sequence=1), 2_000_000)
    stream.accept(tokens(1, 2, 3), 5_000_000)
    assert stream.token_gaps_ns() == [2_000_000, 2_000_000]
    assert stream.first_token_ns == 1_000_000


def test_percentiles_are_nearest_rank() -> None:
    assert percentiles_ms([]).p50 is None
    assert percentiles_ms([3_000_000]).p99 == 3.0
    hundred = percentiles_ms([one * 1_000_000 for one in range(1, 101)])
    assert (hundred.p50, hundred.p99) == (50.0, 99.0)


@given(st.integers(0, 2**32), st.integers(1, 3))
def test_any_mix_of_lost_doubled_and_late_frames_gives_the_stream(seed: int, sequences: int) -> None:
    """Attempts resume where the log says; their frames arrive with any loss after their end, any
    doubling and any lateness. The log never differs from the truth."""
    dice = random.Random(seed)
    truth = [[dice.randrange(1000) for _ in range(dice.randrange(1, 20))] for _ in range(sequences)]
    stream = make_stream(sequences=sequences)
    old: list[TokensFrame] = []
    for attempt in range(1, 60):
        places = {start.index: start.emitted for start in stream.starts()}
        if not places:
            break
        for _ in range(dice.randrange(8)):
            index = dice.choice(list(places))
            place = places[index]
            count = min(dice.randrange(1, 4), len(truth[index]) - place)
            if not count:
                continue
            last = place + count == len(truth[index])
            part = truth[index][place : place + count]
            frame = tokens(place, *part, attempt=attempt, sequence=index, finish="length" if last else None)
            places[index] = place + count
            old.append(frame)
            stream.accept(frame, 1)
            for late in dice.sample(old, min(2, len(old))):
                stream.accept(late, 1)
        for index, log in enumerate(stream.logs):
            assert log.tokens == truth[index][: len(log.tokens)]
        stream.drain(attempt)
        for late in dice.sample(old, min(3, len(old))):
            assert stream.accept(late, 1) == []
    for log, whole in zip(stream.logs, truth, strict=True):
        assert log.tokens == whole[: len(log.tokens)]
        assert (log.finish is not None) == (log.tokens == whole)


def test_a_pause_is_not_accepted_as_tokens() -> None:
    with pytest.raises(ValueError, match="drain"):
        make_stream().accept(PauseFrame("r", 1), 1)


def test_a_stream_that_lost_its_recipe_says_so_to_the_next_control() -> None:
    opened = make_stream()
    assert opened.open_request().exact
    opened.route(msgspec.structs.replace(routed(7), exact=False))
    assert not opened.open_request().exact
