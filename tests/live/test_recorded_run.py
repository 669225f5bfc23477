"""Live runs on the real model that are recorded, disturbed, and replayed."""

from __future__ import annotations

import json
import re
import resource
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from death_checks import GREEDY, SEEDED, check_whole
from fleet_harness import descendants, eventually, fleet, is_alive

from diptych.cli import main
from diptych.live.log_file import log_paths
from diptych.models.embedded import EMBEDDED_NAME
from diptych.models.resolve import load_text

MARKER = "quokka"
REQUESTS: tuple[dict[str, Any], ...] = (
    {"prompt": f"A {MARKER} met a mapmaker, and the two of them " * 12, "max_tokens": 24, **GREEDY},
    {"prompt": f"The {MARKER} had never seen a river before. " * 12, "max_tokens": 24, "n": 2, **SEEDED},
)


@pytest.fixture(scope="module")
def killed_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Logs of two streams whose decode worker is killed under them."""
    folder = tmp_path_factory.mktemp("killed") / "logs"
    with fleet("--pool-mib", "256", "--record", str(folder)) as running:
        running.wait_all_ready()
        streams = [running.stream(**request) for request in REQUESTS]
        streams[0].wait_for_chunks(4)
        running.kill(running.worker("decode-0")["pid"])
        for stream, request in zip(streams, REQUESTS, strict=True):
            check_whole(stream.result(), request)
        running.wait_epoch("decode-0", 2)
        running.wait_all_ready()
        running.send_signal(signal.SIGTERM)
        assert running.wait_exit() == 0
    return folder


@pytest.fixture
def run(killed_run: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(killed_run, tmp_path / "copy"))


def replayed(folder: Path, capsys: pytest.CaptureFixture[str], code: int) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["replay", str(folder), "--json"]) == code
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return document


def change(
    path: Path, wanted: Callable[[dict[str, Any]], bool], alter: Callable[[dict[str, Any]], None]
) -> int:
    """Alters the first step that is wanted; returns its line number."""
    lines = path.read_text().splitlines()
    for number, text in enumerate(lines[1:], start=2):
        step = json.loads(text)
        if wanted(step):
            alter(step)
            lines[number - 1] = json.dumps(step)
            path.write_text("\n".join(lines) + "\n")
            return number
    raise AssertionError("no such step")


@pytest.mark.model
def test_a_run_with_a_killed_worker_replays_exactly(
    killed_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = replayed(killed_run, capsys, 0)
    assert report["exact"] is True
    fates = {machine["name"]: machine["fate"] for machine in report["machines"]}
    assert fates == {
        "control@1": "stopped",
        "decode-0@1": "killed",
        "decode-0@2": "stopped",
        "prefill-0@1": "stopped",
    }
    assert all(machine["same_code"] for machine in report["machines"])
    assert all(machine["steps"] > 1 for machine in report["machines"]), "a new one says little before it ends"
    sent = sum(machine["sent"] for machine in report["machines"])
    lost = sum(loss["messages"] for loss in report["lost"])
    assert report["matched"] + lost == sent, "every message came once, or is named as lost"
    received = sum(machine["received"] for machine in report["machines"])
    assert report["matched"] + report["unmatched"] == received
    assert {loss["why"] for loss in report["lost"]} <= {"receiver died", "sender died", "end of run"}


@pytest.mark.model
def test_logs_hold_no_text_and_no_token_ids(killed_run: Path) -> None:
    tokens = load_text(EMBEDDED_NAME).tokenizer.encode_prompt(str(REQUESTS[0]["prompt"]))
    runs = {json.dumps(tokens[start : start + 4], separators=(",", ":"))[1:-1] for start in range(20)}
    for path in log_paths(killed_run):
        text = path.read_text()
        assert MARKER not in text
        assert not [ids for ids in runs if ids in text]
        keys = {key for line in text.splitlines()[1:] for key in json.loads(line)}
        assert keys <= {"is", "now_ns", "fact", "origin", "actions"}


@pytest.mark.model
def test_an_altered_fact_shows_which_action_it_changes(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "control@1.jsonl"

    def alter(step: dict[str, Any]) -> None:
        step["fact"][4] += 16

    line = change(path, lambda step: step["fact"][0] == "RequestArrived", alter)
    failure = replayed(run, capsys, 1)["failure"]
    assert (failure["path"], failure["line"], failure["machine"]) == (str(path), line, "control@1")
    assert "RequestArrived" in failure["fact"]
    assert "TargetRequested" in failure["expected"][0]
    assert any("fact.prompt_tokens: expected" in text for text in failure["differences"])
    assert main(["replay", str(run)]) == 1
    shown = capsys.readouterr().err
    assert f"{path}:{line}" in shown
    assert "fact.prompt_tokens: expected" in shown


@pytest.mark.model
def test_an_altered_action_is_told_field_by_field(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run_steps(step: dict[str, Any]) -> list[Any]:
        return [action for action in step["actions"] if action[0] == "RunSteps"]

    def alter(step: dict[str, Any]) -> None:
        run_steps(step)[0][2] = 77

    line = change(run / "decode-0@1.jsonl", lambda step: bool(run_steps(step)), alter)
    failure = replayed(run, capsys, 1)["failure"]
    assert (failure["line"], failure["machine"]) == (line, "decode-0@1")
    assert len(failure["differences"]) == 1
    assert re.fullmatch(r"actions\[\d+\]\.steps_max: expected 77, got \d+", failure["differences"][0])


@pytest.mark.model
def test_a_message_that_came_otherwise_than_it_was_sent_is_found(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def alter(step: dict[str, Any]) -> None:
        step["fact"][3] += 1

    change(run / "control@1.jsonl", lambda step: step["fact"][0] == "WorkerBeat", alter)
    failure = replayed(run, capsys, 1)["failure"]
    assert "did not come as it was sent" in failure["text"]
    assert failure["differences"][0].startswith("WorkerBeat.pages_held: expected ")


@pytest.mark.model
def test_a_message_left_out_or_doubled_is_found(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "control@1.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    beats = [number for number, text in enumerate(lines) if '"fact":["WorkerBeat"' in text]
    path.write_text("".join(lines[: beats[1]] + lines[beats[1] + 1 :]))
    assert "came after message" in replayed(run, capsys, 1)["failure"]["text"]
    path.write_text("".join([*lines[: beats[1]], lines[beats[1]], *lines[beats[1] :]]))
    assert "came after message" in replayed(run, capsys, 1)["failure"]["text"]


@pytest.mark.model
def test_a_torn_log_replays_and_says_so(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "prefill-0@1.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    report = replayed(run, capsys, 0)
    torn = {machine["name"]: machine["torn"] for machine in report["machines"] if machine["torn"]}
    assert torn == {"prefill-0@1": '{"is":"e'}
    (run / "decode-0@3.jsonl").write_text('{"is":"hea')
    assert replayed(run, capsys, 0)["empty"] == [str(run / "decode-0@3.jsonl")]


@pytest.mark.model
def test_messages_that_a_sender_never_logged_are_found(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = run / "decode-0@2.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:-4]))
    assert "is not in its sender's log" in replayed(run, capsys, 1)["failure"]["text"]
    path.rename(run / "decode-0@2.cut.jsonl")
    report = replayed(run, capsys, 0)
    assert {machine["name"]: machine["fate"] for machine in report["machines"]}[
        "decode-0@2"
    ] == "recording cut"


def test_a_run_whose_control_is_killed_replays_exactly(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    request = {"prompt": "the hinge joins two panels " * 20, "max_tokens": 400, **SEEDED}
    with fleet("--scripted", "--pool-mib", "64", "--record", str(tmp_path)) as running:
        running.wait_all_ready()
        stream = running.stream(**request)
        stream.wait_for_chunks(8)
        running.kill(running.pid_of("control"))
        running.wait_all_ready()
        check_whole(stream.result(), request)
        check_whole(running.stream(**request).result(), request)
        # All at once, in the middle of whatever they do.
        below = descendants(running.pid)
        running.send_signal(signal.SIGKILL)
        running.wait_exit()
        eventually(lambda: not any(map(is_alive, below)), "all of the fleet gone")
    report = replayed(tmp_path, capsys, 0)
    fates = {machine["name"]: machine["fate"] for machine in report["machines"]}
    assert fates == dict.fromkeys(("control@1", "control@2", "decode-0@1", "prefill-0@1"), "killed")
    lost = sum(loss["messages"] for loss in report["lost"])
    assert report["matched"] + lost == sum(machine["sent"] for machine in report["machines"])


def test_a_full_disk_does_not_stop_serving(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "logs"
    request = {"prompt": "the hinge joins two panels " * 20, "max_tokens": 60, **SEEDED}
    with fleet("--scripted", "--pool-mib", "64", "--record", str(folder)) as running:
        running.wait_all_ready()
        for name in ("decode-0", "prefill-0"):
            size = (folder / f"{name}@1.jsonl").stat().st_size
            resource.prlimit(running.worker(name)["pid"], resource.RLIMIT_FSIZE, (size + 700, size + 700))
        check_whole(running.stream(**request).result(), request)
        eventually(lambda: len(list(folder.glob("*.cut.jsonl"))) == 2, "both recordings stopped")
        check_whole(running.stream(**request).result(), request)
        assert {worker["epoch"] for worker in running.status()["workers"]} == {1}
        running.send_signal(signal.SIGTERM)
        assert running.wait_exit() == 0
    report = replayed(folder, capsys, 0)
    fates = [machine["fate"] for machine in report["machines"]]
    assert fates == ["stopped", "recording cut", "recording cut"]


def test_a_folder_without_logs_is_not_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(tmp_path)]) == 4
    assert "no logs there" in capsys.readouterr().err
    assert replayed(tmp_path / "nowhere", capsys, 4)["exact"] is False
