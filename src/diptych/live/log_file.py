"""The log of one machine incarnation: JSON lines in a file of its own, `<incarnation>.jsonl`.

    {"is": "header", ...}   kind, incarnation and configuration of the machine, version of the code
    {"is": "step", ...}     one fact, when it came, from whom, and the actions that followed
    {"is": "end"}           the process ended in order; a killed one leaves none

A step is one unbuffered write before its actions are performed, so the log of a killed process tells all
that it did. Facts carry no text and no token ids, and attachments are not logged. Times are those of the
driver's own clock, which nobody else shares.

A disk that is full ends the recording, never the serving: one line in the process's log says so, and the
file is renamed to `<incarnation>.cut.jsonl`, which needs no room.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Union

import msgspec

import diptych.core
from diptych.core.actions import ACTIONS, Action, Send
from diptych.core.errors import DiptychError
from diptych.core.facts import Fact
from diptych.core.ids import Incarnation
from diptych.wire.errors import UNDECODABLE
from diptych.wire.messages import AnyFact

__all__ = [
    "FORMAT",
    "Header",
    "LogBroken",
    "LogReader",
    "Origin",
    "Recorder",
    "Step",
    "code_digest",
    "decode_actions",
    "encode_actions",
    "log_paths",
]

log = logging.getLogger(__name__)

FORMAT = 1
_SUFFIX = ".jsonl"
_CUT_SUFFIX = ".cut.jsonl"
_TORN_SHOWN = 60

if TYPE_CHECKING:
    _OtherAction = Action
else:
    _OtherAction = Union[tuple(action for action in ACTIONS if action is not Send)]  # noqa: UP007


class Origin(msgspec.Struct, frozen=True, array_like=True):
    """Which message brought a fact: the sender's incarnation and its number there (`Told.number`)."""

    sender: Incarnation
    number: int


class Header(msgspec.Struct, frozen=True, kw_only=True, tag_field="is", tag="header"):
    format: int
    machine: str
    """`control` or `worker`."""
    incarnation: Incarnation
    """Of a control plane `control@<epoch>`."""
    version: str
    """Of the package."""
    code: str
    """`code_digest` of the core that ran."""
    config: msgspec.Raw


class Step(msgspec.Struct, frozen=True, kw_only=True, tag_field="is", tag="step", omit_defaults=True):
    now_ns: int
    fact: AnyFact
    origin: Origin | None = None
    """None for what the machine's own process says: its driver, its step loop, its supervisor."""
    actions: msgspec.Raw
    raised: str = ""
    """The class of the exception with which the machine met the fact; its process died of it."""


class End(msgspec.Struct, frozen=True, tag_field="is", tag="end"):
    pass


class LogBroken(DiptychError):
    """A line that is not the torn last one cannot be read."""

    def __init__(self, path: Path, line: int, why: str) -> None:
        super().__init__(f"{path}:{line}: {why}")
        self.path = path
        self.line = line


_encode = msgspec.json.Encoder().encode
_decode_header = msgspec.json.Decoder(Header).decode
_decode_record = msgspec.json.Decoder(Step | End).decode
_decode_parts = msgspec.json.Decoder(tuple[msgspec.Raw, ...]).decode
_decode_send = msgspec.json.Decoder(tuple[str, str, AnyFact]).decode
_decode_other: msgspec.json.Decoder[Action] = msgspec.json.Decoder(_OtherAction)
_SEND_START = _encode([Send.__name__])[:-1]


def encode_actions(actions: tuple[Action, ...]) -> bytes:
    return _encode(actions)


def decode_actions(encoded: bytes) -> tuple[Action, ...]:
    """Raises `msgspec.DecodeError`."""
    return tuple(_decode_action(bytes(part)) for part in _decode_parts(encoded))


def _decode_action(part: bytes) -> Action:
    if part.startswith(_SEND_START):
        _, to, fact = _decode_send(part)
        return Send(to=to, fact=fact)
    return _decode_other.decode(part)


@functools.cache
def code_digest() -> str:
    """Of the sources of `diptych.core`, by path and content: logs replay exactly on the code that ran."""
    assert diptych.core.__file__ is not None
    root = Path(diptych.core.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def log_paths(folder: Path) -> list[Path]:
    """The logs of a run, in order of their names. Raises `OSError`."""
    return sorted(path for path in folder.iterdir() if "@" in path.name and path.name.endswith(_SUFFIX))


class Recorder:
    """Writes the log of one machine incarnation. No failure to write is an error of its caller."""

    def __init__(self, folder: Path, machine: str, name: Incarnation, config: msgspec.Struct) -> None:
        self._path = folder / f"{name}{_SUFFIX}"
        self._name = name
        self._descriptor = -1
        try:
            package_version = version("diptych")
        except PackageNotFoundError:
            package_version = ""
        header = Header(
            format=FORMAT,
            machine=machine,
            incarnation=name,
            version=package_version,
            code=code_digest(),
            config=msgspec.Raw(_encode(config)),
        )
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            self._descriptor = os.open(self._path, flags, 0o644)
        except OSError as error:
            self._tell(error)
            return
        self._write(header)

    def record(self, now_ns: int, fact: Fact, origin: Origin | None, actions: tuple[Action, ...]) -> None:
        self._write(Step(now_ns=now_ns, fact=fact, origin=origin, actions=msgspec.Raw(_encode(actions))))

    def record_failure(self, now_ns: int, fact: Fact, origin: Origin | None, error: Exception) -> None:
        raised = type(error).__name__
        self._write(Step(now_ns=now_ns, fact=fact, origin=origin, actions=msgspec.Raw(b"[]"), raised=raised))

    def close(self) -> None:
        """Ends the log in order."""
        self._write(End())
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _write(self, record: Header | Step | End) -> None:
        if self._descriptor < 0:
            return
        rest = _encode(record) + b"\n"
        try:
            while rest:
                # More than one turn only where the disk took a part: the next one says why.
                rest = rest[os.write(self._descriptor, rest) :]
        except OSError as error:
            os.close(self._descriptor)
            self._descriptor = -1
            try:
                self._path.rename(self._path.with_name(f"{self._name}{_CUT_SUFFIX}"))
            except OSError as second:
                log.error("%s keeps its name: %s", self._path, second)
            self._tell(error)

    def _tell(self, error: OSError) -> None:
        log.critical("%s: RECORDING STOPPED, serving goes on; %s: %s", self._name, self._path, error.strerror)


class LogReader:
    """Reads one log line by line; the fields about its end are final when `next_step` gave None."""

    def __init__(self, path: Path) -> None:
        """Raises `LogBroken` and `OSError`. The log of a process killed at its start may lack a header."""
        self.path = path
        self.line = 0
        """Of what was read last."""
        self.ended = False
        """The process ended in order."""
        self.torn = ""
        """The start of a last record that was not written to its end."""
        self.cut = path.name.endswith(_CUT_SUFFIX)
        """The recording stopped before the process did."""
        self._file = path.open("rb")
        self.header = self._read_header()

    @property
    def fate(self) -> str:
        """`stopped`, `killed` (or still running), or `recording cut`."""
        if self.ended:
            return "stopped"
        return "recording cut" if self.cut else "killed"

    def next_step(self) -> Step | None:
        """Raises `LogBroken` on a line that is no record."""
        text = self._next_line()
        if text is None:
            return None
        try:
            record = _decode_record(text)
        except UNDECODABLE as error:
            raise LogBroken(self.path, self.line, str(error)) from error
        if isinstance(record, Step):
            return record
        self.ended = True
        if self._next_line() is not None:
            raise LogBroken(self.path, self.line, "a record behind the end")
        return None

    def close(self) -> None:
        self._file.close()

    def _read_header(self) -> Header | None:
        text = self._next_line()
        if text is None:
            return None
        try:
            header = _decode_header(text)
        except UNDECODABLE as error:
            raise LogBroken(self.path, self.line, str(error)) from error
        if header.format != FORMAT:
            raise LogBroken(self.path, self.line, f"format: {header.format}; this version reads {FORMAT}")
        return header

    def _next_line(self) -> bytes | None:
        text = self._file.readline()
        if not text:
            return None
        if not text.endswith(b"\n"):
            self.torn = text[:_TORN_SHOWN].decode(errors="replace")
            return None
        self.line += 1
        return text
