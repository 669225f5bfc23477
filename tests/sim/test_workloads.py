"""Workloads: what arrives when, which prompts share pages, and clear words for bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from diptych.sim.workloads.ask import SECOND_NS, Ask, BadWorkload, Workload
from diptych.sim.workloads.spec import Common, read_workload
from diptych.sim.workloads.text import Text, block_text
from diptych.sim.workloads.traces import azure, mooncake


def asks(text: str, **common: float) -> list[Ask]:
    return list(workload(text, **common).asks())


def workload(text: str, **common: float) -> Workload:
    return read_workload(text, Common(**common))  # type: ignore[arg-type]


def pages(one: Ask, page_tokens: int = 16) -> tuple[bytes, ...]:
    return one.text.page_hashes(page_tokens, one.text.tokens - 1)


def test_poisson_arrivals_come_at_their_rate_and_by_their_seed() -> None:
    made = asks("poisson:rate=50,requests=2000,input=100-300,output=7")
    assert [one.at_ns for one in made] == sorted(one.at_ns for one in made)
    assert made[-1].at_ns / SECOND_NS == pytest.approx(40, rel=0.1)
    assert {one.outputs for one in made} == {(7,)}
    assert (
        100 <= min(one.text.tokens for one in made) < 120 < 280 < max(one.text.tokens for one in made) <= 300
    )
    assert made[5].at_ns != asks("poisson:rate=50,requests=6", seed=1)[5].at_ns
    assert asks("poisson:rate=50,requests=6", speedup=2.0)[5].at_ns == pytest.approx(made[5].at_ns / 2, abs=1)


def test_bursts_come_together() -> None:
    made = asks("bursts:size=3,every=2,requests=7")
    assert [one.at_ns // SECOND_NS for one in made] == [0, 0, 0, 2, 2, 2, 4]


def test_log_normal_lengths_have_their_median() -> None:
    made = asks("poisson:requests=4001,input=1000~1")
    lengths = sorted(one.text.tokens for one in made)
    assert lengths[2000] == pytest.approx(1000, rel=0.1)
    assert lengths[-1] > 5000


def test_a_closed_loop_keeps_its_clients_and_its_count() -> None:
    loop = workload("closed:clients=3,think=1,requests=5")
    open_ = list(loop.asks())
    assert len(open_) == 3
    after = loop.ended(open_[0], 10 * SECOND_NS, served=True)
    assert after is not None
    assert after.at_ns > 10 * SECOND_NS
    refused = loop.ended(open_[1], 10 * SECOND_NS, served=False)
    assert refused is not None
    assert refused.at_ns >= 11 * SECOND_NS
    assert loop.ended(open_[2], 10 * SECOND_NS, served=True) is None
    assert len({one.request for one in (*open_, after, refused)}) == 5


def test_agents_share_their_system_prompt_and_repeat_their_history() -> None:
    agents = workload("agents:conversations=2,turns=3,system=64,input=32,output=16,think=0")
    first, other = list(agents.asks())
    assert pages(first)[:4] == pages(other)[:4]
    assert pages(first)[4:] != pages(other)[4:]
    second = agents.ended(first, SECOND_NS, served=True)
    assert second is not None
    # 64 + 32 + 16 + 32 tokens: the whole of the first turn and its answer lie before the new question.
    assert second.text.tokens == 144
    said = first.text.then(first.answer(0), 16)
    assert pages(second)[:7] == said.page_hashes(16, 112)
    assert agents.ended(first, SECOND_NS, served=False) is None
    third = agents.ended(second, 2 * SECOND_NS, served=True)
    assert third is not None
    assert agents.ended(third, 3 * SECOND_NS, served=True) is None


def test_texts_share_the_pages_within_their_common_pieces() -> None:
    base = Text().then("system", 40)
    one, two = base.then("a", 40), base.then("b", 40)
    hashes_one, hashes_two = one.page_hashes(16, 80), two.page_hashes(16, 80)
    assert hashes_one[:2] == hashes_two[:2]
    assert set(hashes_one[2:]).isdisjoint(hashes_two[2:])
    assert one.page_hashes(16, 80, 3) == hashes_one[3:]
    assert one.page_hashes(16, 79) == hashes_one[:4]
    assert Text().then("a", 40).page_hashes(16, 40) != Text().then("x", 8).then("a", 40).page_hashes(16, 40)


def test_an_answer_names_its_pages_as_the_whole_text_would() -> None:
    for prompt, pieces in ((31, 3), (32, 1), (33, 2), (1, 1), (64, 4)):
        text = Text()
        for number in range(pieces):
            text = text.then(f"piece {number}", prompt * (number + 1) // pieces - text.tokens)
        for tokens in (0, 1, 2, 15, 16, 17, 50):
            whole = text.then("answer", tokens)
            expected = whole.page_hashes(16, prompt + tokens - 1, (prompt - 1) // 16)
            assert text.answer_hashes("answer", tokens, 16) == expected


@pytest.mark.parametrize("page_tokens", [128, 512, 1024])
def test_block_numbers_of_a_trace_are_prefixes_at_any_page_size(page_tokens: int) -> None:
    one = block_text([7, 8, 9, 10], 512, 2048).page_hashes(page_tokens, 2048)
    two = block_text([7, 8, 11, 12], 512, 2048).page_hashes(page_tokens, 2048)
    common = 1024 // page_tokens
    assert one[:common] == two[:common]
    assert set(one[common:]).isdisjoint(two[common:])


def mooncake_line(at_ms: int, tokens: int, output: int, blocks: list[int]) -> str:
    line = {"timestamp": at_ms, "input_length": tokens, "output_length": output, "hash_ids": blocks}
    return json.dumps(line) + "\n"


def test_the_mooncake_reader(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(
        mooncake_line(0, 1100, 40, [0, 1, 2])
        + mooncake_line(3000, 1200, 0, [0, 1, 3])
        + mooncake_line(9000, 5, 1, [4])
    )
    first, second = mooncake(path, speedup=2.0, limit=2).asks()
    assert (second.at_ns, second.text.tokens, second.outputs) == (1_500_000_000, 1200, (1,))
    assert pages(first, 512) == pages(second, 512)
    assert len(pages(first, 512)) == 2
    assert asks(f"mooncake:{path}", limit=1)[0].outputs == (40,)


def test_the_azure_reader(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 23:59:59.9999999,374,44\n2023-11-17 00:00:01.5000000,396,109\n"
        "2024-05-10 00:00:00.009930+00:00,10,2\n"
    )
    first, second, third = azure(path).asks()
    assert (first.at_ns, second.at_ns) == (0, 1_500_000_100)
    assert (second.text.tokens, second.outputs) == (396, (109,))
    assert third.at_ns > 10**15
    assert set(pages(first)).isdisjoint(pages(second))


BAD: list[tuple[str, str]] = [
    ("poison:rate=1", "poison"),
    ("poisson:rat=1", "rat"),
    ("poisson:rate=0", "rate: 0"),
    ("poisson:rate=x", "rate"),
    ("poisson:rate", "not name=value"),
    ("poisson:input=5-2", "input: 5-2"),
    ("poisson:output=0", "output: 0"),
    ("poisson:input=many", "input: 'many'"),
    ("closed:clients=0", "clients: 0"),
    ("agents:think=-1", "think: -1"),
    ("mooncake:", "names the trace"),
]


@pytest.mark.parametrize(("text", "words"), BAD, ids=[text for text, _ in BAD])
def test_bad_workloads_are_named(text: str, words: str) -> None:
    with pytest.raises(BadWorkload, match=words):
        workload(text)


Reader = Callable[[Path], object]
BAD_TRACES: list[tuple[Reader, str, str]] = [
    (mooncake, "{}\n", "line 1.*timestamp"),
    (mooncake, mooncake_line(0, 1100, 4, [1, 2]), "hash_ids: 2 blocks"),
    (mooncake, mooncake_line(-5, 100, 4, [1]), "line 1.*-5000000"),
    (mooncake, "", "no requests"),
    (azure, "TIMESTAMP,GeneratedTokens\n", "no column ContextTokens"),
    (azure, "TIMESTAMP,ContextTokens,GeneratedTokens\nnow,1,1\n", "line 2"),
    (azure, "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 00:00:00,many,1\n", "line 2.*many"),
]


@pytest.mark.parametrize(("reader", "text", "words"), BAD_TRACES)
def test_bad_traces_are_named_by_line_and_field(
    reader: Reader, text: str, words: str, tmp_path: Path
) -> None:
    path = tmp_path / "trace"
    path.write_text(text)
    with pytest.raises(BadWorkload, match=words):
        reader(path)


def test_the_limits_of_the_common_options() -> None:
    with pytest.raises(BadWorkload, match="speedup: 0"):
        workload("poisson", speedup=0.0)
    with pytest.raises(BadWorkload, match="limit: 0"):
        workload("poisson", limit=0)
