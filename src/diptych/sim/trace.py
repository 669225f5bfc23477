"""Facts and actions as one readable line each: for golden traces, digests and failing seeds."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterator
from functools import cache
from typing import Any, Protocol

import msgspec

from diptych.core import actions, facts
from diptych.core.control.reasons import in_words
from diptych.core.ids import ATTEMPTS_PER_EPOCH, CONTROL, SHARED
from diptych.core.recipe import OPEN_END
from diptych.core.recipe_run import Run

QUIET = (facts.WorkerBeat, facts.DeadlinePassed)
"""Left out of a readable trace where nothing but beats comes of them."""


class Named(Protocol):
    """A seat of either world."""

    @property
    def name(self) -> str: ...


class Recorder:
    """Observer that keeps the whole run as a digest and its end as text, made when it is asked for."""

    def __init__(self, steps_max: int | None = 100) -> None:
        self._steps: deque[tuple[int, str, str, facts.Fact, list[actions.Action]]] = deque(maxlen=steps_max)
        self._digest = hashlib.blake2b(digest_size=16)
        self._encoder = msgspec.msgpack.Encoder()

    def __call__(
        self, now_ns: int, seat: Named, sender: str, fact: facts.Fact, asked: tuple[actions.Action, ...]
    ) -> None:
        self._digest.update(self._encoder.encode((now_ns, seat.name, sender, fact, asked)))
        loud = [action for action in asked if not _is_beat(action)]
        if loud or not isinstance(fact, QUIET):
            self._steps.append((now_ns, seat.name, sender, fact, loud))

    @property
    def lines(self) -> list[str]:
        return [line for step in self._steps for line in _told(*step)]

    def digest(self) -> str:
        return self._digest.hexdigest()


def _told(
    now_ns: int, receiver: str, sender: str, fact: facts.Fact, loud: list[actions.Action]
) -> Iterator[str]:
    heard = render(fact)
    if sender.startswith(CONTROL) or ("@" in sender and not sender.startswith("loop")):
        # Its sender's line has it in full.
        heard = " ".join(heard.split()[: 2 if isinstance(fact, facts.RequestFact) else 1])
    receiver, sender = (name.partition("#")[0] for name in (receiver, sender))
    yield f"{now_ns / 1e6:.3f} {receiver} < {sender}: {heard}"
    for action in loud:
        yield "    " + render(action)


def _is_beat(action: actions.Action) -> bool:
    return isinstance(action, actions.Send) and isinstance(action.fact, facts.WorkerBeat)


def render(value: msgspec.Struct) -> str:
    """`Name field=value ...`, fields with their default left out."""
    match value:
        case actions.Send():
            return f"-> {value.to}: {render(value.fact)}"
        case actions.PromptSpan():
            span = f"{_place(value)} {value.first}+{value.count} {value.numerics}"
            scored = "" if value.logits_from is None else f" scores from {value.logits_from}"
            return span + scored + " sample" * value.sample
        case actions.TablePart():
            return f"{_place(value)} {value.start}: {_numbers(value.pages)}"
        case facts.SequenceFinish():
            return f"{_place(value)} {value.reason} {value.emitted} #{len(value.page_hashes)}"
        case facts.SequenceStart():
            return f"{value.index} at {value.emitted} #{len(value.page_hashes)}"
        case facts.RouteReasons():
            return f"({', '.join(in_words(value))})"
        case _:
            return _plain(value)


def _place(value: actions.PromptSpan | actions.TablePart | facts.SequenceFinish) -> str:
    sequence = "shared" if value.sequence == SHARED else str(value.sequence)
    return f"{value.request}.{_attempt(value.attempt)}/{sequence}"


@cache
def _defaults(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {field.name: field.default for field in msgspec.structs.fields(kind)}


def _plain(value: msgspec.Struct) -> str:
    words = [type(value).__name__]
    defaults = _defaults(type(value))
    held = {name: getattr(value, name) for name in defaults}
    if "request" in held and held["request"] is not None:
        words.append(held.pop("request"))
        if "attempt" in held:
            words[-1] += "." + _attempt(held.pop("attempt"))
    for name, item in held.items():
        if item != defaults[name]:
            words.append(f"{name}={_value(name, item)}")
    return " ".join(words)


def _attempt(attempt: int | None) -> str:
    if attempt is None:
        return "-"
    return f"{attempt // ATTEMPTS_PER_EPOCH}.{attempt % ATTEMPTS_PER_EPOCH}"


def _value(name: str, item: Any) -> str:
    if isinstance(item, bytes):
        return item.hex()[:4]
    if isinstance(item, Run):
        return f"{item.numerics}:{'' if item.end == OPEN_END else item.end}"
    if isinstance(item, tuple):
        if name == "page_hashes":
            return f"#{len(item)}"
        if name == "attempt":
            return _attempt(item[0])
        if item and all(isinstance(part, int) for part in item):
            return _numbers(item)
        return "(" + ", ".join(_value("", part) for part in item) + ")"
    if isinstance(item, msgspec.Struct):
        return render(item)
    if name == "attempt":
        return _attempt(item)
    if name.endswith("_ns") and isinstance(item, int):
        return f"{item / 1e6:g}ms"
    return str(item)


def _numbers(items: tuple[int, ...]) -> str:
    """Rising runs as `first..last`."""
    parts: list[str] = []
    first = last = items[0]
    for item in (*items[1:], None):
        if item is not None and item == last + 1:
            last = item
            continue
        parts.append(f"{first}..{last}" if last > first else f"{first}")
        if item is not None:
            first = last = item
    return ",".join(parts)
