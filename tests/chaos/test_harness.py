"""The attackers themselves: a fault that costs nothing passes, and each kind of damage is called by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import msgspec
import pytest

Tool = Callable[[str], ModuleType]


def test_an_attack_is_judged_by_what_it_does(tool: Tool) -> None:
    """On one scripted fleet: the decode worker is killed three times. Once all is well; once an answer was
    expected that is another one; once nobody was expected to die."""
    faults, moments, settings = tool("faults"), tool("moments"), tool("settings")
    play, replace = tool("episode").play, msgspec.structs.replace
    fault = faults.killed("decode-0")
    with tool("stage").stage(settings.SCRIPTED) as one:
        groups = [
            tool("asked").reference(one.fleet, one.model, number, one.setting.size) for number in range(3)
        ]
        well = play(one, fault, moments.DECODE, groups[0], "well")
        first = groups[1].answers[0]
        another = replace(first, texts={0: first.texts[0] + "?"})
        group = replace(groups[1], answers=(another, *groups[1].answers[1:]))
        differs = play(one, fault, moments.DECODE, group, "differs")
        healthy = play(one, replace(fault, victims=frozenset()), moments.RESERVED, groups[2], "healthy")
        replayed = tool("attack").replayed(one)
    for episode in (well, differs, healthy):
        assert episode.lost == []
        assert episode.touched == 5
        assert len(episode.delays_s) == 5
    assert (well.hit, well.different, well.wrong) == (True, [], [])
    assert ["text" in words for words in differs.different] == [True]
    assert healthy.different == []
    assert healthy.wrong
    assert all("decode-0" in words for words in healthy.wrong)
    assert replayed.wrong == []


@pytest.mark.parametrize(
    ("named", "changed"),
    [
        ("text", {"texts": {0: "a hinge?"}}),
        ("finish reasons", {"finishes": {0: "stop"}}),
        ("log-probabilities", {"scores": {0: [("a", -0.5), (" hinge", -0.25001)]}}),
        ("prompt tokens", {"prompt_tokens": 3}),
        ("completion tokens", {"completion_tokens": 1}),
    ],
)
def test_whatever_differs_is_named(tool: Tool, named: str, changed: dict[str, Any]) -> None:
    stream = SimpleNamespace(
        request_id="r",
        texts={0: "a hinge"},
        finishes={0: "length"},
        scores={0: [("a", -0.5), (" hinge", -0.25)]},
        usage={"prompt_tokens": 4, "completion_tokens": 2},
    )
    asked = tool("asked")
    answer = asked.Answer(
        texts=stream.texts,
        finishes=stream.finishes,
        scores=stream.scores,
        prompt_tokens=4,
        completion_tokens=2,
        gap_s=0.0,
    )
    assert asked.difference(stream, answer) == ""
    assert f"r: {named}:" in asked.difference(stream, msgspec.structs.replace(answer, **changed))


def test_a_delay_is_what_a_client_waited_beyond_its_usual_time(tool: Tool) -> None:
    stream = SimpleNamespace(sent_s=0.0, arrivals_s=(1.0, 1.1, 1.2, 3.2, 3.3))
    asked = tool("asked")
    answer = asked.Answer(texts={}, finishes={}, scores={}, prompt_tokens=1, completion_tokens=5, gap_s=0.1)
    assert asked.extra_delay_s(stream, answer, 1.15) == pytest.approx(1.9)
    assert asked.extra_delay_s(stream, answer, 0.4) == pytest.approx(1.9)
    assert asked.extra_delay_s(stream, answer, 3.25) == 0.0


def test_rows_fail_by_what_was_found(tool: Tool) -> None:
    episode = tool("episode").Episode(
        fault="f",
        setting="s",
        moment="m",
        hit=True,
        touched=5,
        lost=[],
        different=[],
        wrong=[],
        delays_s=[0.4, 0.6],
        work_s=[0.3, 0.4],
        allowed_s=0.15,
        seconds=1.0,
    )
    rows_of = tool("figures").rows_of

    def row(*, judged: bool = False, **changed: Any) -> Any:
        (found,) = rows_of([msgspec.structs.replace(episode, **changed)], frozenset("s" if judged else ""))
        return found

    assert not row().failed
    assert row().late is None
    assert row(judged=True).late == 1
    assert row(judged=True).late_ms == pytest.approx(50)
    for changed in ({"lost": ["x"]}, {"different": ["x"]}, {"wrong": ["x"]}, {"hit": False}):
        assert row(**changed).failed


def test_the_program_prints_a_table_and_writes_json(
    tool: Tool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    campaign = tool("campaign")
    path = tmp_path / "chaos.json"
    words = ["--scripted", "--times", "1", "--groups", "3", "--only", "clients vanish", "--json", str(path)]
    monkeypatch.setattr("sys.argv", ["chaos", *words])
    assert campaign.main() == 0
    assert "clients vanish" in capsys.readouterr().out
    found = json.loads(path.read_text())
    assert found["chaos"]["failed"] == 0
    rows = {row["fault"]: row for row in found["rows"]}
    assert rows["clients vanish"]["times"] == 1
    assert rows["clients vanish"]["streams"] == 5
    assert rows["replay of the logs"]["wrong"] == 0
