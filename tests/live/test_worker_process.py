"""Worker processes with a supervisor, a control plane and a door played by the test."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from worker_fakes import FORMATS, PAGE_TOKENS, WAIT_S, FakeHost, FakeWorker, Line

from diptych.core.facts import (
    PagesGranted,
    PrefillFinished,
    PrefillRequested,
    RecipeFixed,
    RequestReleased,
    SequenceStart,
    StreamEnded,
    StreamStarted,
    TargetRequested,
    TargetReserved,
    WorkerBeat,
    WorkerJoined,
)
from diptych.core.recipe import OPEN_END, Recipe, join
from diptych.live.host_link import send_packet
from diptych.live.launch import Served, StartFailed, StopAsked
from diptych.live.replay import Replay
from diptych.wire.frames import TokensFrame
from diptych.wire.hashing import chain_root, page_hashes
from diptych.wire.payload import PromptPayload, encode_payload, pack_tokens

PROMPT = tuple(b"the hinge joins two panels, and on both of them there is a picture of the same garden")
ROOT = chain_root("scripted")
HASHES = page_hashes(ROOT, PROMPT[:-1], PAGE_TOKENS)
SPLIT = len(HASHES) * PAGE_TOKENS
RECIPE: Recipe = join((FORMATS[0], SPLIT), (FORMATS[1], OPEN_END))
DOOR = "door-0@1"


@pytest.fixture
def host(tmp_path: Path) -> Iterator[FakeHost]:
    made = FakeHost(tmp_path)
    yield made
    made.close()


def joined(worker: FakeWorker, pages: tuple[int, int], epoch: int = 1) -> Line:
    """The worker's control line, after it was granted its pages."""
    assert worker.told_host() == Served()
    line = worker.control(epoch)
    fact = line.until(WorkerJoined)
    assert fact.worker == worker.identity
    assert fact.numerics[0] in FORMATS
    assert fact.prefill_ns_per_token > 0
    line.send(PagesGranted(pages=(pages,), room=pages[1]))
    return line


def payload(**changes: object) -> bytes:
    whole = PromptPayload(prompt=pack_tokens(PROMPT), chain_root=ROOT)
    return encode_payload(msgspec.structs.replace(whole, **changes))


def target_requested(request: str = "r", *, tokens_max: int = 12, attempt: int = 1) -> TargetRequested:
    return TargetRequested(
        request=request,
        attempt=attempt,
        door=DOOR,
        model="scripted",
        prompt_tokens=len(PROMPT),
        page_hashes=HASHES,
        starts=(SequenceStart(0, 0),),
        tokens_max=tokens_max,
    )


def serve_alone(control: Line, door: Line, request: str = "r", **options: int) -> list[int]:
    """All of one request at one worker, split 0; its tokens."""
    fact = target_requested(request, **options)
    control.send(fact, payload())
    assert control.until(TargetReserved).held_tokens in (0, SPLIT)
    control.send(RecipeFixed(request=request, attempt=fact.attempt, recipe=RECIPE, split=0))
    tokens: list[int] = []
    for frame in door.frames():
        assert isinstance(frame, TokensFrame)
        assert frame.first_index == len(tokens)
        tokens += frame.tokens
    assert control.until(StreamEnded).outputs == ((0, len(tokens)),)
    return tokens


def test_one_worker_serves_a_request_and_stops_when_asked(host: FakeHost, tmp_path: Path) -> None:
    worker = host.start("both-0@1")
    control = joined(worker, (0, 100))
    door = worker.connect(DOOR, "door")
    tokens = serve_alone(control, door)
    assert len(tokens) == 12
    assert serve_alone(control, door, "again") == tokens, "from the cache it is the same"
    send_packet(worker.link, StopAsked())
    assert worker.wait() == (0, "")
    assert control.next() is None
    report = Replay([tmp_path / "both-0@1.jsonl"]).run()
    assert report.machines[0].steps > 8
    assert report.machines[0].fate == "stopped"
    assert report.unmatched > 2, "of a control plane that keeps no log"


def test_prefill_and_decode_in_two_processes_give_the_same_text_over_one_pool(host: FakeHost) -> None:
    alone = host.start("alone-0@1")
    alone_control = joined(alone, (200, 50))
    expected = serve_alone(alone_control, alone.connect(DOOR, "door"))
    source, target = host.start("prefill-0@1"), host.start("decode-0@1", format=FORMATS[1])
    ends = socket.socketpair()
    source_control, target_control = joined(source, (0, 100)), joined(target, (100, 100))
    door = target.connect(DOOR, "door")
    source.adopt("decode-0@1", "worker", ends[0])
    target.adopt("prefill-0@1", "worker", ends[1])
    target_control.send(target_requested(), payload())
    assert target_control.until(TargetReserved).held_tokens == 0
    target_control.send(RecipeFixed(request="r", attempt=1, recipe=RECIPE, split=SPLIT, source="prefill-0@1"))
    source_control.send(
        PrefillRequested(
            request="r",
            attempt=1,
            model="scripted",
            page_hashes=HASHES,
            held_tokens=0,
            split=SPLIT,
            recipe=RECIPE,
            target="decode-0@1",
        ),
        payload(),
    )
    assert source_control.until(PrefillFinished).computed_tokens == SPLIT
    target_control.until(StreamStarted)
    tokens = [token for frame in door.frames() for token in frame.tokens]  # type: ignore[union-attr]
    assert tokens == expected
    assert target_control.until(StreamEnded).outputs == ((0, 12),)


def test_the_stream_goes_on_while_control_is_away_and_is_told_to_the_next_one(host: FakeHost) -> None:
    worker = host.start("both-0@1", options={"step_ns": 20_000_000})
    control = joined(worker, (0, 100))
    door = worker.connect(DOOR, "door")
    control.send(target_requested(tokens_max=80), payload())
    control.until(TargetReserved)
    control.send(RecipeFixed(request="r", attempt=1, recipe=RECIPE, split=0))
    control.until(StreamStarted)
    control.close()
    later = worker.control(epoch=2)
    fact = later.until(WorkerJoined)
    assert (fact.streams, fact.room) == ((("r", 1),), 100)
    assert sum(len(frame.tokens) for frame in door.frames()) == 80  # type: ignore[union-attr]
    later.until(StreamEnded)
    later.send(RequestReleased(request="r", attempt=1))
    while (beat := later.until(WorkerBeat)).pages_held:
        assert beat.pages_free + beat.pages_held + beat.pages_cached == 100


def test_a_worker_that_was_stopped_says_for_how_long(host: FakeHost, tmp_path: Path) -> None:
    worker = host.start("both-0@1", lease_ns=300_000_000)
    control = joined(worker, (0, 100))
    control.until(WorkerBeat)
    worker.process.send_signal(signal.SIGSTOP)
    time.sleep(0.6)
    worker.process.send_signal(signal.SIGCONT)
    control.until(WorkerBeat)
    send_packet(worker.link, StopAsked())
    assert worker.wait() == (0, "")
    lines = [msgspec.json.decode(line) for line in (tmp_path / "both-0@1.jsonl").read_bytes().splitlines()]
    stalls = [line["fact"][1] for line in lines[1:-1] if line["fact"][0] == "DriverStalled"]
    assert max(stalls) >= 300_000_000, "600 ms stopped, a beat due within 100 ms"


def test_a_dead_door_stops_nobody(host: FakeHost) -> None:
    worker = host.start("both-0@1")
    control = joined(worker, (0, 100))
    door = worker.connect(DOOR, "door")
    expected = serve_alone(control, door)
    door.close()
    control.send(target_requested("unheard"), payload())
    control.until(TargetReserved)
    control.send(RecipeFixed(request="unheard", attempt=1, recipe=RECIPE, split=0))
    assert control.until(StreamEnded).outputs == ((0, 12),)
    assert serve_alone(control, worker.connect(DOOR, "door"), "next") == expected


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"engine": "abacus"}, "engine: 'abacus' is none of native, torch, scripted"),
        ({"options": {"sped": 1}}, "options.sped: the scripted engine knows step_ns"),
        ({"page_tokens": 8}, "its pages differ from the pool's in `group.page_tokens`"),
        ({"pool_pages": 100_000}, "pool: the file has"),
    ],
)
def test_a_worker_that_cannot_start_says_why(host: FakeHost, change: dict[str, object], why: str) -> None:
    worker = host.start("both-0@1", **change)
    failed = worker.told_host()
    assert isinstance(failed, StartFailed)
    assert failed.reason.startswith("both-0@1: ")
    assert why in failed.reason
    assert worker.wait() == (1, "")


def test_an_engine_that_fails_ends_the_process_with_the_reason_in_its_log(host: FakeHost) -> None:
    worker = host.start("both-0@1")
    control = joined(worker, (0, 100))
    control.send(target_requested(), payload(prompt=pack_tokens([100_000] * len(PROMPT))))
    control.until(TargetReserved)
    control.send(RecipeFixed(request="r", attempt=1, recipe=RECIPE, split=0))
    code, errors = worker.wait()
    assert code == 71
    assert "the engine failed, this worker ends: spans[0].tokens: ids must be 0 to 257" in errors


def test_sigterm_ends_it_in_order_and_the_end_of_the_host_link_at_once(host: FakeHost) -> None:
    worker = host.start("both-0@1")
    joined(worker, (0, 10))
    worker.process.send_signal(signal.SIGTERM)
    assert worker.wait() == (0, "")
    orphan = host.start("both-1@1")
    joined(orphan, (10, 10))
    orphan.link.close()
    assert orphan.wait() == (1, "")


def test_a_supervisor_killed_by_minus_nine_leaves_no_worker(host: FakeHost) -> None:
    """The worker's link is kept open here, so that only the parent's death can end it."""
    ours, theirs = host_pair = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    program = textwrap.dedent(
        """
        import subprocess, sys, time
        end = sys.argv[1]
        child = subprocess.Popen(
            [sys.executable, "-m", "diptych.live.worker", "--host-fd", end], pass_fds=(int(end),)
        )
        print(child.pid, flush=True)
        time.sleep(600)
        """
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(theirs.fileno())],
        pass_fds=(theirs.fileno(),),
        stdout=subprocess.PIPE,
    )
    try:
        assert parent.stdout is not None
        child = os.pidfd_open(int(parent.stdout.readline()))
        ours.settimeout(WAIT_S)
        send_packet(ours, host.launch("both-0@1"), [host.pool, host.table])
        assert ours.recv(1 << 16)
        parent.kill()
        parent.wait()
        assert select.select([child], [], [], WAIT_S)[0], "the worker outlived its supervisor"
        os.close(child)
    finally:
        parent.kill()
        parent.communicate()
        for end in host_pair:
            end.close()
