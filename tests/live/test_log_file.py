"""Logs of machines on disk: what is torn, what is broken, what a full disk does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from diptych.core.actions import DropRequest, EndRun, FenceWorker, PauseStream, RunSteps, Send
from diptych.core.config import ControlConfig
from diptych.core.facts import ClientGone, RequestArrived
from diptych.live.log_file import (
    LogBroken,
    LogReader,
    Origin,
    Recorder,
    code_digest,
    decode_actions,
    encode_actions,
    log_paths,
)

GONE = ClientGone(request="r")


def write(folder: Path, steps: int = 3, *, end: bool = False) -> Path:
    recorder = Recorder(folder, "control", "control@1", ControlConfig(epoch=1))
    for number in range(1, steps + 1):
        recorder.record(number, GONE, Origin("door-0@1", number), (EndRun(run=number),))
    if end:
        recorder.close()
    return folder / "control@1.jsonl"


def read(path: Path) -> tuple[LogReader, list[int]]:
    reader = LogReader(path)
    times = []
    while (step := reader.next_step()) is not None:
        times.append(step.now_ns)
    return reader, times


def test_a_log_comes_back_as_it_was_written(tmp_path: Path) -> None:
    reader = LogReader(write(tmp_path, end=True))
    assert reader.header is not None
    assert (reader.header.machine, reader.header.incarnation) == ("control", "control@1")
    assert reader.header.code == code_digest()
    assert b'"epoch":1' in bytes(reader.header.config)
    step = reader.next_step()
    assert step is not None
    assert (step.fact, step.origin, step.now_ns) == (GONE, Origin("door-0@1", 1), 1)
    assert decode_actions(bytes(step.actions)) == (EndRun(run=1),)
    assert reader.line == 2


def test_an_ended_log_and_that_of_a_killed_process_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "ended").mkdir()
    (tmp_path / "killed").mkdir()
    ended, times = read(write(tmp_path / "ended", end=True))
    assert (ended.fate, ended.torn, times) == ("stopped", "", [1, 2, 3])
    killed, times = read(write(tmp_path / "killed"))
    assert (killed.fate, killed.torn, times) == ("killed", "", [1, 2, 3])


def test_a_log_cut_at_any_byte_is_read_up_to_its_last_whole_line(tmp_path: Path) -> None:
    path = write(tmp_path, steps=2, end=True)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        reader, times = read(path)
        lines = whole[:size].count(b"\n")
        assert (reader.header is not None) == (lines > 0)
        assert times == [1, 2][: max(0, lines - 1)]
        rest = whole[:size].rpartition(b"\n")[2]
        assert reader.torn == rest[:60].decode()
        assert not reader.ended
        reader.close()


@pytest.mark.parametrize(
    ("line", "broken", "why"),
    [
        (1, b'{"is":"step"}\n', "Invalid value 'step'"),
        (3, b'{"is":"step","now_ns":1,"fact":["NoSuchFact"],"actions":[]}\n', "NoSuchFact"),
        (3, b"\n", "truncated"),
        (3, b'{"is":"end"}\n', "behind the end"),
    ],
)
def test_a_line_that_is_no_record_is_named(tmp_path: Path, line: int, broken: bytes, why: str) -> None:
    path = write(tmp_path)
    lines = path.read_bytes().splitlines(keepends=True)
    lines[line - 1] = broken
    path.write_bytes(b"".join(lines))
    with pytest.raises(LogBroken, match=why) as caught:
        read(path)
    assert caught.value.path == path
    assert caught.value.line in (line, line + 1)


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.write_bytes(path.read_bytes().replace(b'"format":1', b'"format":2', 1))
    with pytest.raises(LogBroken, match="format: 2; this version reads 1"):
        LogReader(path)


def test_every_kind_of_action_is_read_back() -> None:
    arrived = RequestArrived(
        request="r", door="d", model="m", prompt_tokens=3, page_hashes=(b"\x00\xff",), tokens_max=1
    )
    actions = (
        Send(to="decode-0@1", fact=arrived),
        RunSteps(run=1, steps_max=2, prompts=(), tables=(), predicted_ns=5),
        EndRun(run=1),
        DropRequest(request="r", attempt=1),
        PauseStream(request="r", attempt=1),
        FenceWorker(worker="decode-0@1", why="silent"),
    )
    assert decode_actions(encode_actions(actions)) == actions


def test_a_log_of_another_run_is_not_written_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path)
    before = path.read_bytes()
    write(tmp_path, end=True)
    assert path.read_bytes() == before
    assert [record.levelname for record in caplog.records] == ["CRITICAL"]
    assert "RECORDING STOPPED" in caplog.text


FULL = """
import asyncio, logging, resource, sys
from pathlib import Path
from diptych.core.config import ControlConfig
from diptych.core.control import ControlPlane
from diptych.core.facts import ClientGone
from diptych.live.driver import Driver
from diptych.live.log_file import Recorder

async def main():
    logging.basicConfig()
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
    config = ControlConfig()
    recorder = Recorder(Path(sys.argv[1]), "control", "control@1", config)
    driver = Driver(ControlPlane(config), lambda action: None, recorder=recorder)
    for number in range(100):
        driver.feed(ClientGone(request=f"r{number}"))
    driver.close()
    print("served")

asyncio.run(main())
"""


@pytest.mark.parametrize("limit_bytes", [0, 100, 3000])
def test_a_full_disk_ends_the_recording_and_not_the_machine(tmp_path: Path, limit_bytes: int) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path), str(limit_bytes)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout == "served\n"
    assert ran.stderr.count("RECORDING STOPPED") == 1, ran.stderr
    (path,) = log_paths(tmp_path)
    assert path.name == "control@1.cut.jsonl"
    assert path.stat().st_size == limit_bytes
    reader, times = read(path)
    assert reader.fate == "recording cut"
    assert bool(times) == (limit_bytes == 3000)


def test_logs_are_found_by_their_names(tmp_path: Path) -> None:
    for name in ("decode-0@2.cut.jsonl", "control@1.jsonl", "requests.jsonl", "decode-0@1"):
        (tmp_path / name).touch()
    assert [path.name for path in log_paths(tmp_path)] == ["control@1.jsonl", "decode-0@2.cut.jsonl"]
