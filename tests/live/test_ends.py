"""How a fleet ends, and how it fails to start: no process and no file is left, and the reason is named."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from fleet_harness import Fleet, descendants, eventually, fleet, is_alive

SLOW = ("--scripted", "--pool-mib", "1", "--scripted-step-us", "20000")
"""50 tokens a second."""


@pytest.fixture
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the fleet runs and puts temporary files: nothing may be left there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    yield tmp_path
    assert list(tmp_path.iterdir()) == []


def ended(running: Fleet, below: set[int]) -> int:
    code = running.wait_exit()
    assert not any(map(is_alive, below)), "a process outlived its supervisor"
    return code


def test_sigterm_of_an_idle_fleet(own_folder: Path) -> None:
    shared = set(os.listdir("/dev/shm"))
    with fleet(*SLOW) as running:
        below = descendants(running.pid)
        assert len(below) == 4
        running.send_signal(signal.SIGTERM)
        assert ended(running, below) == 0
    assert set(os.listdir("/dev/shm")) <= shared


def test_sigterm_lets_open_streams_finish_and_takes_no_new_ones(own_folder: Path) -> None:
    with fleet(*SLOW) as running:
        below = descendants(running.pid)
        stream = running.stream(prompt="hello", max_tokens=60)
        stream.wait_for_chunks(3)
        running.send_signal(signal.SIGTERM)
        eventually(lambda: running.get("/ready")[0] == 503, "admission stopped")
        late = running.stream_of("scripted", prompt="late", max_tokens=1).result()
        assert late.error[0] == 503
        stream.result()
        assert stream.complete
        assert stream.usage is not None
        assert stream.usage["completion_tokens"] == 60
        assert ended(running, below) == 0


def test_sigterm_cuts_what_outlasts_the_grace(own_folder: Path) -> None:
    with fleet(*SLOW, "--grace", "0.3") as running:
        below = descendants(running.pid)
        stream = running.stream(prompt="hello", max_tokens=5000)
        stream.wait_for_chunks(3)
        running.send_signal(signal.SIGTERM)
        stream.result()
        assert not stream.complete
        assert stream.error is not None
        assert ended(running, below) == 0


def test_a_second_interrupt_ends_at_once(own_folder: Path) -> None:
    with fleet(*SLOW, "--grace", "600") as running:
        below = descendants(running.pid)
        stream = running.stream(prompt="hello", max_tokens=5000)
        stream.wait_for_chunks(3)
        running.send_signal(signal.SIGINT)
        eventually(lambda: running.get("/ready")[0] == 503, "the first interrupt")
        assert running.is_running()
        running.send_signal(signal.SIGINT)
        assert ended(running, below) == 0


def test_a_killed_supervisor_leaves_no_orphan(own_folder: Path) -> None:
    with fleet(*SLOW) as running:
        below = descendants(running.pid)
        stopped = running.worker("decode-0")["pid"]
        os.kill(stopped, signal.SIGSTOP)  # not even one that cannot read its socket
        running.send_signal(signal.SIGKILL)
        running.wait_exit()
        eventually(lambda: not any(map(is_alive, below)), "all children gone")
        assert not any(map(is_alive, below)), "a process outlived its supervisor"


def test_sigterm_while_starting(own_folder: Path) -> None:
    running = Fleet(*SLOW)
    try:
        below = eventually(lambda: descendants(running.pid), "a first child")
        running.send_signal(signal.SIGTERM)
        ended(running, below)
        assert running.port == 0
    finally:
        running.stop()


def failed_start(*arguments: str) -> str:
    """The last words of a fleet that could not start."""
    running = Fleet(*arguments)
    try:
        assert running.wait_exit(60) == 1
        assert running.port == 0
        text: str = running.events[-1]["text"]
        return text
    finally:
        running.stop()


def test_a_port_in_use_is_named(own_folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port}" in failed_start(*SLOW, "--port", str(port))


def test_a_missing_model_is_named(own_folder: Path) -> None:
    assert "no/such.gguf" in failed_start("--model", "no/such.gguf")


def test_an_option_that_the_engine_does_not_know_is_named(tmp_path: Path) -> None:
    path = tmp_path / "fleet.toml"
    path.write_text('[[worker]]\nrole = "both"\nengine = "scripted"\n[worker.options]\nspeed = 3\n')
    assert "options.speed" in failed_start("--fleet", str(path))


def test_a_pool_larger_than_the_machine_is_refused(own_folder: Path) -> None:
    assert "available" in failed_start("--scripted", "--pool-mib", str(1 << 30))


def test_a_worker_that_dies_over_and_over_is_started_with_growing_pauses(own_folder: Path) -> None:
    with fleet(*SLOW) as running:
        for epoch in (1, 2, 3):
            running.wait_epoch("prefill-0", epoch)
            running.kill(running.worker("prefill-0")["pid"])
        eventually(lambda: len(running.texts("starts again")) == 3, "three restarts told")
        pauses = [
            float(text.rpartition("in ")[2].partition(" ")[0]) for text in running.texts("starts again")
        ]
        assert pauses[0] == 0.1
        assert pauses == sorted(pauses)


def test_an_idle_fleet_sleeps(own_folder: Path) -> None:
    """Not a timed assertion: processor time is counted, and idle processes use none however slow the
    machine is."""
    with fleet(*SLOW) as running:
        running.wait_all_ready()
        processes = {running.pid, *descendants(running.pid)}
        before = processor_s(processes)
        time.sleep(3)
        used = processor_s(processes) - before
        assert used < 0.3


def processor_s(processes: set[int]) -> float:
    ticks = 0
    for pid in processes:
        fields = (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
