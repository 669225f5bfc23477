"""Logs of real machines, written step by step as a test wants them, and what a replay says of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from diptych.core.actions import Send
from diptych.core.config import ControlConfig, WorkerConfig
from diptych.core.control import ControlPlane
from diptych.core.errors import DiptychError
from diptych.core.facts import ClientGone, ControlJoined, ControlLost, DeadlinePassed, DoorJoined, Fact
from diptych.core.worker import Worker
from diptych.live.driver import Machine
from diptych.live.log_file import LogBroken, Origin, Recorder, log_paths
from diptych.live.replay import Replay, ReplayFailed, ReplayReport

MS = 1_000_000


class Scribe:
    """A machine with a log; `told` is what it sent to one receiver, in order."""

    def __init__(self, folder: Path, name: str, config: WorkerConfig | ControlConfig) -> None:
        self.machine: Machine = Worker(config) if isinstance(config, WorkerConfig) else ControlPlane(config)
        kind = "worker" if isinstance(config, WorkerConfig) else "control"
        self.recorder = Recorder(folder, kind, name, config)
        self.now_ns = 10**15
        self.told: list[Fact] = []

    def step(self, fact: Fact, origin: Origin | None = None) -> None:
        self.now_ns += 1001 * MS
        actions = self.machine.step(self.now_ns, fact)
        self.recorder.record(self.now_ns, fact, origin, actions)
        self.told += [action.fact for action in actions if isinstance(action, Send)]


def worker(folder: Path, name: str = "decode-0@1") -> Scribe:
    config = WorkerConfig(
        worker=name,
        host="h",
        role="decode",
        engine="scripted",
        models=("m",),
        numerics=("wide",),
        formats=("wide",),
        context_tokens_max=1024,
    )
    return Scribe(folder, name, config)


def control(folder: Path, epoch: int = 1) -> Scribe:
    return Scribe(folder, f"control@{epoch}", ControlConfig(epoch=epoch))


def replay(folder: Path) -> ReplayReport:
    return Replay(log_paths(folder)).run()


def joined(folder: Path) -> Scribe:
    """A worker that told control two things: itself, and a beat."""
    scribe = worker(folder)
    scribe.step(ControlJoined(epoch=1))
    scribe.step(DeadlinePassed())
    assert len(scribe.told) == 2
    return scribe


def test_what_a_killed_control_plane_never_read_is_lost_by_its_death(tmp_path: Path) -> None:
    sender, first = joined(tmp_path), control(tmp_path)
    first.step(sender.told[0], Origin("decode-0@1", 1))
    sender.step(ControlLost())
    sender.step(ControlJoined(epoch=2))
    sender.recorder.close()
    second = control(tmp_path, epoch=2)
    second.step(sender.told[2], Origin("decode-0@1", 3))
    second.recorder.close()
    report = replay(tmp_path)
    assert report.matched == 2
    (loss,) = report.lost
    assert (loss.sender, loss.receiver, loss.why) == ("decode-0@1", "control@1", "receiver died")
    assert loss.kinds == {"WorkerBeat": 1}
    assert [machine.fate for machine in report.machines] == ["killed", "stopped", "stopped"]


@pytest.mark.parametrize(
    ("fact", "passes"), [(DoorJoined(door="d@1"), True), (ClientGone(request="r"), False)]
)
def test_only_a_door_that_joins_again_may_leave_messages_out(
    tmp_path: Path, fact: Fact, passes: bool
) -> None:
    """Its socket broke with messages 2 and 3 in it."""
    scribe = control(tmp_path)
    scribe.step(DoorJoined(door="d@1"), Origin("d@1", 1))
    scribe.step(fact, Origin("d@1", 4))
    scribe.step(ClientGone(request="r"), Origin("d@1", 5))
    scribe.recorder.close()
    if passes:
        assert replay(tmp_path).machines[0].received == 3
        return
    with pytest.raises(ReplayFailed, match="message 4 of d@1 came after message 1"):
        replay(tmp_path)


@pytest.mark.parametrize(
    ("sender_ends", "receiver_ends", "why"),
    [(True, True, "end of run"), (False, True, "sender died"), (True, False, "receiver died")],
)
def test_a_loss_names_whose_end_it_was(
    tmp_path: Path, sender_ends: bool, receiver_ends: bool, why: str
) -> None:
    sender, receiver = joined(tmp_path), control(tmp_path)
    receiver.step(sender.told[0], Origin("decode-0@1", 1))
    if sender_ends:
        sender.recorder.close()
    if receiver_ends:
        receiver.recorder.close()
    (loss,) = replay(tmp_path).lost
    assert (loss.receiver, loss.why, loss.messages) == ("control@1", why, 1)


def test_messages_to_one_without_a_log_are_lost_there(tmp_path: Path) -> None:
    joined(tmp_path).recorder.close()
    (loss,) = replay(tmp_path).lost
    assert (loss.receiver, loss.why, loss.messages) == ("control", "receiver left no log", 2)


def test_a_log_that_is_read_first_waits_for_its_senders(tmp_path: Path) -> None:
    """`control@1` sorts before `decode-0@1`, which must be replayed first all the same."""
    sender, receiver = joined(tmp_path), control(tmp_path)
    for number, fact in enumerate(sender.told, start=1):
        receiver.step(fact, Origin("decode-0@1", number))
    report = replay(tmp_path)
    assert (report.matched, report.lost) == (2, ())
    assert [(machine.sent, machine.received) for machine in report.machines][1] == (2, 0)


def test_messages_that_came_before_they_were_sent_are_found(tmp_path: Path) -> None:
    """Each of two workers heard the other before it said a word: no order of steps gives these logs."""
    one, other = worker(tmp_path), worker(tmp_path, "prefill-0@1")
    one.step(ControlJoined(epoch=1), Origin("prefill-0@1", 1))
    other.step(ControlJoined(epoch=1), Origin("decode-0@1", 1))
    with pytest.raises(ReplayFailed, match=r"message 1 of \S+ came before it was sent"):
        replay(tmp_path)


def test_numbers_within_one_connection_have_no_gap(tmp_path: Path) -> None:
    receiver = control(tmp_path)
    receiver.step(ClientGone(request="r"), Origin("door-0@1", 4))
    receiver.step(ClientGone(request="r"), Origin("door-0@1", 6))
    with pytest.raises(ReplayFailed, match=r"message 6 of door-0@1 came after message 4") as caught:
        replay(tmp_path)
    assert (caught.value.machine, caught.value.line) == ("control@1", 3)


def test_an_exception_of_the_machine_is_replayed_too(tmp_path: Path) -> None:
    scribe = worker(tmp_path)
    fact = ClientGone(request="r")
    with pytest.raises(DiptychError) as caught:
        scribe.machine.step(scribe.now_ns, fact)
    scribe.recorder.record_failure(scribe.now_ns, fact, None, caught.value)
    assert replay(tmp_path).machines[0].steps == 1
    path = tmp_path / "decode-0@1.jsonl"
    whole = path.read_text()
    path.write_text(whole.replace(f'"raised":"{type(caught.value).__name__}"', '"raised":"KeyError"'))
    with pytest.raises(ReplayFailed, match="recorded is KeyError"):
        replay(tmp_path)
    path.write_text(whole.replace(json.dumps(["ClientGone", "r"], separators=(",", ":")), '["ControlLost"]'))
    with pytest.raises(ReplayFailed, match="nothing was raised"):
        replay(tmp_path)


def test_a_header_of_no_machine_is_refused(tmp_path: Path) -> None:
    joined(tmp_path)
    path = tmp_path / "decode-0@1.jsonl"
    whole = path.read_text()
    path.write_text(whole.replace('"machine":"worker"', '"machine":"door"', 1))
    with pytest.raises(LogBroken, match="machine: 'door'"):
        replay(tmp_path)
    path.write_text(whole.replace('"running_max":64', '"running_max":"many"', 1))
    with pytest.raises(LogBroken, match=r"config: .*running_max"):
        replay(tmp_path)
    path.write_text(whole.replace('"code":"', '"code":"00', 1))
    assert not replay(tmp_path).machines[0].same_code


def test_recorded_actions_that_are_none_are_named(tmp_path: Path) -> None:
    joined(tmp_path)
    path = tmp_path / "decode-0@1.jsonl"
    path.write_text(path.read_text().replace('[["Send","control",', '[["Shout","control",', 1))
    with pytest.raises(LogBroken, match=r":2: actions: .*Shout"):
        replay(tmp_path)
