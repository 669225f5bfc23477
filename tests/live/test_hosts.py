"""Two hosts: a fleet and an agent that joins it, as two commands; pages and streams cross between them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_harness import Agent
from fleet_harness import Fleet, Stream, descendants, eventually, fleet, is_alive

TOKEN = "a token that is long enough\n"
WIDE = ("--prefill", "scripted:wide")
SLOW = ("--option", "step_ns=20000000")
"""A worker's streams last long enough to be cut."""


def join(port: int, token: Path, *arguments: str) -> Agent:
    """A host called east; prompts are dear there, so that they are computed on the other one."""
    fleet_at = ("--join", f"127.0.0.1:{port}", "--token-file", str(token))
    worker = ("--name", "east", "--engine", "scripted:narrow", "--option", "prompt_token_ns=2000000")
    return Agent(*fleet_at, *worker, *arguments)


class Hole:
    """A TCP proxy that can stop passing anything: the link between two hosts."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.open = True
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                end, _ = self._listener.accept()
                if not self.open:
                    end.close()
                    continue
                far = socket.create_connection(("127.0.0.1", self._to))
                self._pairs.append((end, far))
                for one, other in ((end, far), (far, end)):
                    threading.Thread(target=self._pass, args=(one, other), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
        for end in (one, other):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        self.open = False
        for pair in self._pairs:
            for end in pair:
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        self._pairs.clear()

    def mend(self) -> None:
        self.open = True

    def close(self) -> None:
        self.cut()
        self._listener.close()


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    return path


@contextlib.contextmanager
def open_fleet(token: Path, *arguments: str) -> Iterator[tuple[Fleet, int]]:
    """A fleet that takes other hosts in, and the port where they join."""
    listen = ("--listen", "127.0.0.1:0", "--token-file", str(token))
    with fleet(*WIDE, *arguments, *listen) as running:
        text = eventually(lambda: running.texts("other hosts join at"), "the fleet listens for hosts")[0]
        yield running, int(text.rpartition(":")[2])


@pytest.fixture
def agents() -> Iterator[list[Agent]]:
    """Those that a test starts, ended behind it."""
    started: list[Agent] = []
    yield started
    for agent in started:
        agent.end()


def stream(running: Fleet, tokens: int = 24, **body: object) -> Stream:
    return running.stream(prompt="pages that go from one host to another " * 8, max_tokens=tokens, **body)


def test_pages_and_streams_cross_between_two_hosts(token: Path, agents: list[Agent]) -> None:
    with open_fleet(token) as (running, port):
        agents.append(join(port, token))
        running.wait_all_ready(2)
        one = stream(running).result()
        trace = running.trace(one.request_id)
        assert (trace["prefill_worker"], trace["decode_worker"]) == ("prefill-0", "east-decode-0")
        assert trace["handoff"]["pages"] > 0
        assert trace["handoff"]["bytes_moved"] > 0
        assert trace["output_tokens"] == 24
        running.wait_pages_home()


def test_a_host_that_dies_in_a_stream_is_missed_and_welcome_again(token: Path, agents: list[Agent]) -> None:
    with open_fleet(token, "--exact-wait", "0", "--lease", "1") as (running, port):
        agents.append(join(port, token, *SLOW))
        running.wait_all_ready(2)
        undisturbed = stream(running, 60, seed=7).result()
        broken = stream(running, 60, seed=7)
        broken.wait_for_chunks(10)
        below = descendants(agents[0].pid)
        os.kill(agents[0].pid, signal.SIGKILL)
        assert undisturbed.usage is not None
        assert broken.result().usage is not None
        assert broken.usage["completion_tokens"] == undisturbed.usage["completion_tokens"] == 60
        eventually(lambda: not any(map(is_alive, below)), "the agent's workers end with it")
        agents.append(join(port, token, *SLOW))
        running.wait_all_ready(2)
        assert running.worker("east-decode-0")["epoch"] > 1001
        running.wait_pages_home()


def test_a_short_cut_of_the_link_is_no_event(token: Path, agents: list[Agent]) -> None:
    with open_fleet(token, "--lease", "10") as (running, port):
        hole = Hole(port)
        agents.append(join(hole.port, token, *SLOW))
        running.wait_all_ready(2)
        undisturbed = stream(running, 60, seed=7).result()
        cut = stream(running, 60, seed=7)
        cut.wait_for_chunks(10)
        hole.cut()
        hole.mend()
        assert cut.result().texts == undisturbed.texts
        assert running.trace(cut.request_id)["attempts"][-1]["outcome"] == "finished"
        assert len(running.trace(cut.request_id)["attempts"]) == 1
        assert running.worker("east-decode-0")["epoch"] == 1001
        hole.close()


def test_a_host_that_was_away_for_too_long_reaps_its_workers_and_joins_anew(
    token: Path, agents: list[Agent]
) -> None:
    with open_fleet(token, "--lease", "1", "--exact-wait", "0") as (running, port):
        hole = Hole(port)
        agents.append(join(hole.port, token))
        running.wait_all_ready(2)
        former = descendants(agents[0].pid)
        hole.cut()
        eventually(lambda: len(running.status()["workers"]) == 1, "the host is given up")
        hole.mend()
        running.wait_all_ready(2)
        assert not any(map(is_alive, former))
        assert running.worker("east-decode-0")["epoch"] == 2001
        hole.close()


def test_control_may_restart_while_a_stream_crosses(token: Path, agents: list[Agent]) -> None:
    with open_fleet(token) as (running, port):
        agents.append(join(port, token, *SLOW))
        running.wait_all_ready(2)
        undisturbed = stream(running, 60, seed=7).result()
        one = stream(running, 60, seed=7)
        one.wait_for_chunks(10)
        running.kill(running.pid_of("control"))
        assert one.result().texts == undisturbed.texts
        running.wait_all_ready(2)
        assert running.worker("east-decode-0")["epoch"] == 1001
        assert stream(running).result().complete


def test_who_has_another_token_is_turned_away(token: Path, tmp_path: Path, agents: list[Agent]) -> None:
    other = tmp_path / "other"
    other.write_text("quite another token, as long\n")
    with open_fleet(token) as (running, port):
        agents.append(join(port, other))
        assert agents[0].wait() == 1
        assert agents[0].said("token")
        assert len(running.status()["workers"]) == 1


def test_garbage_at_the_door_for_hosts_hurts_nobody(token: Path) -> None:
    with open_fleet(token) as (running, port):
        for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 64, b"\x04\x00\x00\x00junk", b""):
            with socket.create_connection(("127.0.0.1", port)) as end:
                end.sendall(garbage)
        assert stream(running, 4).result().complete


def test_a_second_host_of_the_same_name_is_turned_away(token: Path, agents: list[Agent]) -> None:
    with open_fleet(token) as (running, port):
        agents.append(join(port, token))
        running.wait_all_ready(2)
        agents.append(join(port, token))
        assert agents[1].wait() == 1
        assert agents[1].said("name")
        assert running.all_ready(2)
