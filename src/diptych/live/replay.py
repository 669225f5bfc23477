"""Replays the logs of one run through fresh machines of the core, in causal order.

A step waits until the step that sent its message is replayed, so the order is one that the run may have
had. Three things must hold: every machine asks for the actions that its log has; every message came as
its sender's log says it was sent; and what one machine told another came in order, each once, with nothing
left out between two that came, but where a door joins again. What was sent and came to nobody is no
failure: it is counted as lost, with what became of both ends.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec

from diptych.core.actions import Action, Send
from diptych.core.config import ControlConfig, WorkerConfig
from diptych.core.control import ControlPlane
from diptych.core.errors import DiptychError
from diptych.core.facts import DoorJoined, Fact
from diptych.core.ids import CONTROL, Incarnation, worker_epoch, worker_name
from diptych.core.worker import Worker
from diptych.live.driver import Machine
from diptych.live.log_diff import differences
from diptych.live.log_file import (
    LogBroken,
    LogReader,
    Origin,
    Step,
    code_digest,
    decode_actions,
    encode_actions,
)
from diptych.wire.errors import UNDECODABLE

__all__ = ["Loss", "MachineReport", "Replay", "ReplayFailed", "ReplayReport"]


class ReplayFailed(DiptychError):
    """The first thing that is not as a log has it."""

    def __init__(
        self,
        player: _Player,
        what: str,
        fact: Fact,
        expected: Sequence[object] = (),
        got: Sequence[object] = (),
        lines: Sequence[str] = (),
    ) -> None:
        super().__init__(f"{player.reader.path}:{player.reader.line}: {player.name}: {what}")
        self.path = player.reader.path
        self.line = player.reader.line
        self.machine = player.name
        self.what = what
        self.fact = fact
        self.expected = expected
        self.got = got
        self.differences = lines


class MachineReport(msgspec.Struct, frozen=True, kw_only=True):
    name: Incarnation
    steps: int
    sent: int
    received: int
    """Messages from other processes."""
    fate: str
    """`stopped`, `killed` (or still running), `recording cut`."""
    torn: str
    """Start of a last record that was not written to its end; empty where all were."""
    same_code: bool
    """It ran the core that replays it."""


class Loss(msgspec.Struct, frozen=True, kw_only=True):
    """Messages that one machine sent and that came to nobody."""

    sender: Incarnation
    receiver: Incarnation
    why: str
    """`receiver died`, `sender died`, `receiver left no log`, `recording cut`, `end of run`."""
    messages: int
    kinds: dict[str, int]


class ReplayReport(msgspec.Struct, frozen=True, kw_only=True):
    machines: tuple[MachineReport, ...]
    matched: int
    """Messages that came as their sender's log has them."""
    unmatched: int
    """From doors, which keep no log, and from machines whose log is not there or was cut."""
    lost: tuple[Loss, ...]


class _Player:
    """One log and the fresh machine that it is replayed on."""

    def __init__(self, reader: LogReader) -> None:
        assert reader.header is not None
        self.reader = reader
        self.name = reader.header.incarnation
        self.address = CONTROL if reader.header.machine == "control" else self.name
        """What others send to."""
        self.machine = _fresh(reader)
        self.sent: Counter[str] = Counter()
        self.received: dict[Incarnation, tuple[int, int]] = {}
        """First and last number from each sender."""
        self.steps = 0
        self.arrived = 0
        self.next = reader.next_step()

    def advance(self) -> None:
        self.steps += 1
        self.next = self.reader.next_step()

    def report(self) -> MachineReport:
        assert self.reader.header is not None
        return MachineReport(
            name=self.name,
            steps=self.steps,
            sent=self.sent.total(),
            received=self.arrived,
            fate=self.reader.fate,
            torn=self.reader.torn,
            same_code=self.reader.header.code == code_digest(),
        )


def _fresh(reader: LogReader) -> Machine:
    assert reader.header is not None
    config = reader.header.config
    try:
        match reader.header.machine:
            case "control":
                return ControlPlane(msgspec.json.decode(config, type=ControlConfig))
            case "worker":
                return Worker(msgspec.json.decode(config, type=WorkerConfig))
    except UNDECODABLE as error:
        raise LogBroken(reader.path, 1, f"config: {error}") from error
    raise LogBroken(reader.path, 1, f"machine: {reader.header.machine!r}; `control` or `worker`")


class Replay:
    """Replays all logs of a run; `empty` are those whose process was killed before its first record."""

    def __init__(self, paths: Sequence[Path]) -> None:
        """Raises `LogBroken` and `OSError`."""
        readers = [LogReader(path) for path in paths]
        self.empty = tuple(reader.path for reader in readers if reader.header is None)
        self._players = {
            player.name: player for player in (_Player(r) for r in readers if r.header is not None)
        }
        self._mail: dict[tuple[Incarnation, str], dict[int, Fact]] = {}
        """Sent and not yet received, by sender and address, then by number."""
        self._doors: set[str] = set()
        self._matched = 0
        self._unmatched = 0

    def run(self) -> ReplayReport:
        """Raises `ReplayFailed` and `LogBroken`."""
        moved = True
        while moved:
            moved = False
            for player in self._players.values():
                while player.next is not None and self._may_step(player, player.next):
                    self._step(player, player.next)
                    moved = True
        for player in self._players.values():
            if player.next is not None:
                assert player.next.origin is not None
                raise ReplayFailed(
                    player, f"{_of(player.next.origin)} came before it was sent", player.next.fact
                )
            player.reader.close()
        machines = tuple(player.report() for player in self._players.values())
        return ReplayReport(
            machines=machines, matched=self._matched, unmatched=self._unmatched, lost=self._losses()
        )

    def _may_step(self, player: _Player, step: Step) -> bool:
        """Its message was sent, or never will be."""
        if step.origin is None:
            return True
        sender = self._players.get(step.origin.sender)
        if sender is None or sender.next is None:
            return True
        return sender.sent[player.address] >= step.origin.number

    def _step(self, player: _Player, step: Step) -> None:
        if step.origin is not None:
            self._receive(player, step.origin, step.fact)
        if isinstance(step.fact, DoorJoined):
            self._doors.add(step.fact.door)
        try:
            actions = player.machine.step(step.now_ns, step.fact)
        except Exception as error:
            if step.raised != type(error).__name__:
                expected = step.raised or "no exception"
                what = f"the machine raised {type(error).__name__} ({error}), recorded is {expected}"
                raise ReplayFailed(player, what, step.fact) from error
        else:
            if step.raised:
                raise ReplayFailed(player, f"recorded is {step.raised}, nothing was raised", step.fact)
            self._compare(player, step, actions)
            self._send(player, actions)
        player.advance()

    def _compare(self, player: _Player, step: Step, actions: tuple[Action, ...]) -> None:
        if encode_actions(actions) == bytes(step.actions):
            return
        try:
            recorded = decode_actions(bytes(step.actions))
        except UNDECODABLE as error:
            raise LogBroken(player.reader.path, player.reader.line, f"actions: {error}") from error
        lines = differences(recorded, actions, "actions")
        if lines:
            what = "the machine asks for other actions than recorded"
            raise ReplayFailed(player, what, step.fact, recorded, actions, lines)

    def _send(self, player: _Player, actions: tuple[Action, ...]) -> None:
        for action in actions:
            if isinstance(action, Send) and action.to not in self._doors:
                player.sent[action.to] += 1
                mail = self._mail.setdefault((player.name, action.to), {})
                mail[player.sent[action.to]] = action.fact

    def _receive(self, player: _Player, origin: Origin, fact: Fact) -> None:
        first, last = player.received.get(origin.sender, (origin.number, origin.number - 1))
        # A door whose socket to control broke comes back over a new one; what lay in the old one is lost.
        again = isinstance(fact, DoorJoined) and origin.number > last
        if origin.number != last + 1 and not again:
            what = f"{_of(origin)} came after message {last}"
            raise ReplayFailed(player, what, fact)
        player.received[origin.sender] = (first, origin.number)
        player.arrived += 1
        sender = self._players.get(origin.sender)
        sent = self._mail.get((origin.sender, player.address), {}).pop(origin.number, None)
        if sent is None:
            if sender is not None and not sender.reader.cut:
                raise ReplayFailed(player, f"{_of(origin)} is not in its sender's log", fact)
            self._unmatched += 1
            return
        lines = differences(sent, fact, type(sent).__name__)
        if lines:
            what = f"{_of(origin)} did not come as it was sent"
            raise ReplayFailed(player, what, fact, (sent,), (fact,), lines)
        self._matched += 1

    # ---- what came to nobody --------------------------------------------------------------------

    def _losses(self) -> tuple[Loss, ...]:
        losses = []
        for (sender, address), mail in self._mail.items():
            kinds: dict[str, Counter[str]] = {}
            for number, fact in mail.items():
                receiver = self._meant(sender, address, number)
                kinds.setdefault(receiver, Counter())[type(fact).__name__] += 1
            for receiver, counted in kinds.items():
                losses.append(
                    Loss(
                        sender=sender,
                        receiver=receiver,
                        why=self._why(sender, receiver),
                        messages=counted.total(),
                        kinds=dict(counted),
                    )
                )
        return tuple(losses)

    def _meant(self, sender: Incarnation, address: str, number: int) -> Incarnation:
        """The incarnation for which a message was that never came: of control planes, the last one that
        had heard of the sender before."""
        if address != CONTROL:
            return address
        heard = [
            (player.received[sender][0], player.name)
            for player in self._players.values()
            if player.address == CONTROL and sender in player.received
        ]
        before = [name for first, name in sorted(heard) if first <= number]
        return before[-1] if before else CONTROL

    def _why(self, sender: Incarnation, receiver: Incarnation) -> str:
        ends = {name: self._fate(name) for name in (receiver, sender)}
        if ends[receiver] == "killed":
            return "receiver died"
        if ends[sender] == "killed":
            return "sender died"
        if "" in ends.values():
            return "receiver left no log"
        return "recording cut" if "recording cut" in ends.values() else "end of run"

    def _fate(self, name: Incarnation) -> str:
        """Empty where there is no log. Who has a successor died before the run ended, in order or not."""
        player = self._players.get(name)
        if player is None:
            return ""
        successors = (other for other in self._players if worker_name(other) == worker_name(name))
        if any(worker_epoch(other) > worker_epoch(name) for other in successors):
            return "killed"
        return player.reader.fate


def _of(origin: Origin) -> str:
    return f"message {origin.number} of {origin.sender}"
