"""Two network namespaces as two hosts (`make hosts`): the real model, TLS, and a link that fails.

The fleet runs in this namespace, the other host's agent in one of its own; a veth pair is all that lies
between them. Needs root and iproute2 (`ip`, `tc`), and is skipped with the reason where they are not had.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_harness import Agent
from fleet_harness import Fleet, Stream, eventually, fleet, is_alive

HERE, THERE, PREFIX = "10.213.77.1", "10.213.77.2", 30
SPACE, NEAR, FAR = f"diptych{os.getpid()}", f"dip{os.getpid()}a", f"dip{os.getpid()}b"
PROMPT = "The engineers of the old town kept a diary of every bridge they built, and of every flood. " * 6


def ip(*arguments: str, space: bool = False) -> None:
    command = ["ip", "-n", SPACE, *arguments] if space else ["ip", *arguments]
    subprocess.run(command, check=True, capture_output=True, text=True)


def possible() -> str:
    """Why not, or nothing."""
    if os.geteuid():
        return "two hosts as network namespaces need root"
    if not (shutil.which("ip") and shutil.which("tc")):
        return "two hosts as network namespaces need iproute2"
    made = subprocess.run(["ip", "netns", "add", SPACE], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"no network namespace can be made here: {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", SPACE], check=False)
    return ""


REASON = possible()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)


class Link:
    """The veth pair between the two hosts, and what may befall it."""

    def __init__(self) -> None:
        ip("netns", "add", SPACE)
        ip("link", "add", NEAR, "type", "veth", "peer", "name", FAR, "netns", SPACE)
        ip("addr", "add", f"{HERE}/{PREFIX}", "dev", NEAR)
        ip("link", "set", NEAR, "up")
        ip("addr", "add", f"{THERE}/{PREFIX}", "dev", FAR, space=True)
        ip("link", "set", FAR, "up", space=True)
        ip("link", "set", "lo", "up", space=True)

    def cut(self) -> None:
        ip("link", "set", NEAR, "down")

    def mend(self) -> None:
        ip("link", "set", NEAR, "up")

    def deafen(self) -> None:
        """One way only: what the other host sends is lost, what it is sent arrives."""
        ip("route", "add", "blackhole", f"{HERE}/32", space=True)

    def hear(self) -> None:
        ip("route", "del", "blackhole", f"{HERE}/32", space=True)

    def slow(self, rate: str) -> None:
        shape = ["tc", "qdisc", "replace", "dev", NEAR, "root", "tbf"]
        subprocess.run([*shape, "rate", rate, "burst", "64kb", "latency", "400ms"], check=True)

    def close(self) -> None:
        subprocess.run(["ip", "link", "del", NEAR], check=False, capture_output=True)
        subprocess.run(["ip", "netns", "del", SPACE], check=False, capture_output=True)


def join(port: int, folder: Path, *arguments: str) -> Agent:
    fleet_at = ("--join", f"{HERE}:{port}", "--token-file", str(folder / "token"), "--certs", str(folder))
    worker = ("--address", THERE, "--name", "east", "--pool-mib", "256")
    return Agent(*fleet_at, *worker, *arguments, within=("ip", "netns", "exec", SPACE))


@pytest.fixture
def link() -> Iterator[Link]:
    made = Link()
    yield made
    made.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("hosts")
    (path / "token").write_text("the token of these two hosts\n")
    command = [sys.executable, "-m", "diptych.cli", "certs", str(path), "host-0", "east"]
    subprocess.run(command, check=True, capture_output=True)
    return path


@contextlib.contextmanager
def two_hosts(folder: Path, here: tuple[str, ...], there: tuple[str, ...]) -> Iterator[tuple[Fleet, Agent]]:
    listen = ("--listen", f"{HERE}:0", "--token-file", str(folder / "token"), "--certs", str(folder))
    with fleet(*here, *listen, "--pool-mib", "256", "--exact-wait", "60") as running:
        text = eventually(lambda: running.texts("other hosts join at"), "the fleet listens")[0]
        agent = join(int(text.rpartition(":")[2]), folder, *there)
        try:
            eventually(lambda: running.all_ready(2), f"both hosts serve; {agent.lines}", 90.0)
            yield running, agent
        finally:
            below = agent.kill()
            eventually(lambda: not any(map(is_alive, below)), "nothing of the other host stays")


PREFILL_HERE = ("--prefill", "native:int8"), ("--engine", "native:int8", "--role", "decode")
DECODE_HERE = ("--decode", "native:int8"), ("--engine", "native:int8", "--role", "prefill")


def stream(running: Fleet, tokens: int = 48) -> Stream:
    return running.stream(prompt=PROMPT, max_tokens=tokens, seed=11, temperature=0.8)


@pytest.mark.model
@pytest.mark.parametrize(("here", "there"), [PREFILL_HERE, DECODE_HERE], ids=["to there", "from there"])
def test_a_prompt_is_computed_on_one_host_and_answered_on_the_other(
    link: Link, folder: Path, here: tuple[str, ...], there: tuple[str, ...]
) -> None:
    with two_hosts(folder, here, there) as (running, _):
        one = stream(running).result()
        assert one.complete
        trace = running.trace(one.request_id)
        hosts = {trace["prefill_worker"].startswith("east"), trace["decode_worker"].startswith("east")}
        assert hosts == {True, False}, trace
        assert trace["handoff"]["bytes_moved"] >= trace["handoff"]["pages"] * 368_640 > 0
        assert trace["exact"]
        assert stream(running).result().texts == one.texts
        running.wait_pages_home()


@pytest.mark.model
@pytest.mark.parametrize("fault", ["cut", "one way", "slow", "short"])
def test_a_stream_survives_what_befalls_the_link(link: Link, folder: Path, fault: str) -> None:
    with two_hosts(folder, *PREFILL_HERE) as (running, _):
        undisturbed = stream(running).result().texts
        if fault == "slow":
            link.slow("40mbit")
        broken = stream(running)
        broken.wait_for_chunks(8)
        if fault == "cut":
            link.cut()
        elif fault == "one way":
            link.deafen()
        elif fault == "short":
            link.cut()
            time.sleep(0.5)
            link.mend()
        assert broken.result().texts == undisturbed, fault
        assert broken.complete
        if fault == "cut":
            link.mend()
        elif fault == "one way":
            link.hear()
        eventually(lambda: running.all_ready(2), "the other host is back", 90.0)
        running.wait_pages_home()
        assert stream(running).result().texts == undisturbed


@pytest.mark.model
def test_a_stream_survives_the_death_of_its_host(link: Link, folder: Path) -> None:
    with two_hosts(folder, *PREFILL_HERE) as (running, agent):
        undisturbed = stream(running).result().texts
        broken = stream(running)
        broken.wait_for_chunks(8)
        agent.kill()
        assert broken.result().texts == undisturbed
        running.wait_pages_home()
