"""`diptych simulate` and `diptych profile`: what they write, and how they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diptych.cli import main

FLEET = """
pool_mib = 64
[[worker]]
role = "prefill"
engine = "scripted"
options = { step_ns = 1000000, prompt_token_ns = 20000 }
[[worker]]
role = "decode"
engine = "scripted"
share = 3
count = 2
options = { step_ns = 2000000, prompt_token_ns = 50000, decode_row_ns = 100000 }
"""
WORK = ["--workload", "poisson:rate=10,requests=20,input=64,output=8"]


@pytest.fixture
def fleet(tmp_path: Path) -> str:
    path = tmp_path / "fleet.toml"
    path.write_text(FLEET)
    return str(path)


def test_the_default_fleet_writes_every_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = {name: tmp_path / name for name in ("json", "html", "trace")}
    options = [word for name, path in files.items() for word in (f"--{name}", str(path))]
    assert main(["simulate", *WORK, *options, "--slo-ttft", "1000", "--slo-itl", "0.001"]) == 0
    out = capsys.readouterr().out
    assert "20 of 20 requests served" in out
    assert "goodput 0 requests/s (0.0%) under TTFT <= 1000 ms and mean ITL <= 0.001 ms" in out
    document = json.loads(files["json"].read_text())
    assert document["figures"]["served"] == 20
    assert document["figures"]["itl_ms"]["count"] == 20 * 7
    assert "invented" in document["about"]["costs"]
    assert files["html"].read_text().startswith("<!doctype html>")
    assert json.loads(files["trace"].read_text())["traceEvents"]


def test_a_fleet_file_gives_workers_pages_and_scripted_costs(
    fleet: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    costs = tmp_path / "costs.json"
    costs.write_text('{"page_bytes": 65536, "workers": {}}')
    assert main(["simulate", fleet, *WORK, "--costs", str(costs), "--json", "-"]) == 0
    figures = json.loads(capsys.readouterr().out)["figures"]
    # 64 MiB are 1024 pages of 64 KiB, shared out 1 : 3 : 3.
    assert [(one["name"], one["pages"]) for one in figures["workers"]] == [
        ("prefill-0", 146),
        ("decode-0", 438),
        ("decode-1", 438),
    ]
    assert figures["itl_ms"]["p50"] >= 2.1 * (1 - 1 / 256)
    assert figures["bytes_handed_over"] == figures["pages_handed_over"] * 65536 > 0


def test_a_scripted_worker_that_declares_nothing_costs_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text(FLEET.replace("options = { step_ns = 1000000, prompt_token_ns = 20000 }", ""))
    assert main(["simulate", str(path), *WORK, "--json", "-"]) == 0
    prefill, *decode = json.loads(capsys.readouterr().out)["figures"]["workers"]
    assert prefill["busy"] < 1e-6 < min(one["busy"] for one in decode if one["steps"])


def test_the_same_command_gives_the_same_document(fleet: str, capsys: pytest.CaptureFixture[str]) -> None:
    documents = []
    for seed in ("1", "1", "2"):
        assert main(["simulate", fleet, *WORK, "--seed", seed, "--json", "-"]) == 0
        documents.append(json.loads(capsys.readouterr().out)["figures"])
    assert documents[0] == documents[1] != documents[2]


def test_page_size_is_configuration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "trace.jsonl"
    line = {"timestamp": 0, "input_length": 1600, "output_length": 20, "hash_ids": [1, 2, 3, 4]}
    trace.write_text("".join(json.dumps(line | {"timestamp": 9000 * turn}) + "\n" for turn in range(3)))
    options = ["--workload", f"mooncake:{trace}", "--page-tokens", "512", "--pages", "50", "--json", "-"]
    assert main(["simulate", *options]) == 0
    figures = json.loads(capsys.readouterr().out)["figures"]
    # The second and the third find all three full pages of the first.
    assert figures["prefix_hit_share"] == pytest.approx(2 * 3 * 512 / (3 * 1600))
    assert figures["pages_handed_over"] == 3


def test_refused_requests_end_with_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    burst = ["--workload", "bursts:size=40,every=1,requests=40,input=64,output=64"]
    assert main(["simulate", *burst, "--queue-max", "4", "--pages", "12", "--json", "-"]) == 0
    figures = json.loads(capsys.readouterr().out)["figures"]
    assert figures["failures"]["overloaded"] > 0
    assert figures["served"] + sum(figures["failures"].values()) == 40
    nothing = ["--workload", "bursts:size=1,requests=1,input=9999,output=64"]
    assert main(["simulate", *nothing, "--pages", "12"]) == 1


BAD: list[tuple[list[str], str]] = [
    (["--workload", "poisson:rate=none"], "rate"),
    (["--workload", "mooncake:/no/such/trace"], "/no/such/trace"),
    (["/no/such/fleet.toml"], "/no/such/fleet.toml"),
    (["--costs", "/no/such/costs.json"], "/no/such/costs.json"),
    (["--pages", "0"], "--pages: 0"),
    (["--chunk-tokens", "0"], "--chunk-tokens: 0"),
    (["--prefill", "warp:int8"], "warp"),
    (["--speedup", "0"], "speedup: 0"),
    (["--html", "/no/such/folder/x.html"], "no such folder"),
]


@pytest.mark.parametrize(("options", "words"), BAD, ids=[words for _, words in BAD])
def test_wrong_usage_is_named(options: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", *options]) == 2
    assert words in capsys.readouterr().err


def test_workers_come_from_the_file_or_from_options(fleet: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", fleet, "--prefill", "native:int8"]) == 2
    assert "no --prefill" in capsys.readouterr().err


def test_a_profile_is_what_simulate_reads(
    fleet: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    costs = tmp_path / "costs.json"
    assert main(["profile", fleet, "--quick", "--out", str(costs)]) == 0
    assert set(json.loads(costs.read_text())["workers"]) == {"scripted:wide", "scripted:narrow"}
    capsys.readouterr()
    given = ["--prefill", "scripted:wide", "--decode", "scripted:narrow"]
    assert main(["simulate", *given, "--costs", str(costs), *WORK, "--json", "-"]) == 0
    figures = json.loads(capsys.readouterr().out)["figures"]
    # Slept costs come out a little longer than declared, never shorter.
    assert figures["itl_ms"]["p50"] >= 2.1 * (1 - 1 / 256)


def test_profile_refuses_bad_usage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "--decode", "warp"]) == 2
    assert main(["profile", "--out", "/no/such/folder/x.json"]) == 2
    assert main(["profile", "--page-tokens", "0"]) == 2
    assert "--page-tokens: 0" in capsys.readouterr().err
    assert main(["profile", "--model", str(tmp_path / "none.gguf"), "--decode", "native:int4"]) == 1
