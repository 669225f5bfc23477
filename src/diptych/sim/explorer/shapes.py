"""What makes two states one: their structure, with page numbers taken out and times forgotten.

A shape is a nested tuple of plain values, and beside it the page numbers in the order in which the
structure names them. Two states whose shapes agree and whose page numbers agree after renaming by first
use behave alike: no machine computes with a page's number, and which free page is taken next is said by
the order of the free list, which is kept. Of times only those that somebody waits for count, as what is
left of them; durations are for records only. The step loop's and the batch's running numbers are told
as distances.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from types import MethodType
from typing import Any

import msgspec

from diptych.core.config import ControlConfig, WorkerConfig
from diptych.core.ids import from_extents
from diptych.core.worker.decode import DecodeBatch
from diptych.core.worker.sequence import Sequence
from diptych.sim.explorer.configuration import NEVER_NS

Shape = tuple[object, ...]
WAITED_FOR = frozenset({"expires_ns", "not_before_ns", "deadline_ns", "_adopt_until_ns"})
FORGOTTEN = frozenset(
    {
        *("config", "router", "outbox", "need", "supply", "_serving", "plans"),
        *("outside", "closed", "processes", "scenario", "pool", "emit", "_private_pages", "take_pages"),
    }
)
"""Fields that no later action depends on, or that are the same in every state."""


class Projection:
    """Walks one part of a state."""

    def __init__(self, now_ns: int) -> None:
        self.now_ns = now_ns
        self.pages: list[int] = []
        self.free: list[int] = []
        self._seen: dict[int, int] = {}
        self._clock = 0

    def walk(self, value: Any) -> object:
        kind = type(value)
        if kind in (int, str, bytes, bool, float) or value is None:
            return value
        if kind in (tuple, list, deque):
            return tuple(self.walk(item) for item in value)
        if isinstance(value, dict):
            return tuple((self.walk(key), self.walk(item)) for key, item in value.items())
        if kind in (set, frozenset):
            return tuple(sorted(value))
        if isinstance(value, MethodType | partial | WorkerConfig | ControlConfig):
            return None
        if isinstance(value, msgspec.Struct):
            return self._fields(value, value.__struct_fields__)
        return self._object(value)

    def _object(self, value: Any) -> object:
        number = self._seen.get(id(value))
        if number is not None:
            return ("again", number)
        self._seen[id(value)] = len(self._seen)
        if isinstance(value, DecodeBatch):
            self._clock = value.clock
            return (self.walk(value.members), self.walk(value.grown))
        names = getattr(type(value), "__slots__", None) or vars(value).keys()
        return self._fields(value, names)

    def _fields(self, value: Any, names: Iterable[str]) -> object:
        kind = type(value).__name__
        result: list[object] = [kind]
        for name in names:
            special = PAGES.get((kind, name)) or PAGES.get(("", name))
            if name in FORGOTTEN or (kind, name) in UNTOLD:
                continue
            item = getattr(value, name, None)
            if name in WAITED_FOR:
                result.append(self._left(item))
            elif special is not None:
                result.append(special(self, item))
            elif name.endswith("_ns"):
                continue
            elif isinstance(value, Sequence) and name in ("known_before", "lasts"):
                result.append(self._distance(value, name))
            else:
                result.append(self.walk(item))
        return tuple(result)

    def _left(self, time_ns: int | None) -> object:
        if time_ns is None or time_ns > NEVER_NS // 8:
            return None
        return max(0, time_ns - self.now_ns)

    def _distance(self, sequence: Sequence, name: str) -> object:
        if not sequence.decoding:
            return None
        if name == "known_before":
            return sequence.known_before + self._clock
        return None if sequence.lasts is None else sequence.lasts - self._clock

    # ---- page numbers -------------------------------------------------------------------------------

    def flat(self, pages: Any) -> object:
        if pages is None:
            return None
        if pages and isinstance(next(iter(pages)), tuple):
            pages = from_extents(pages)
        self.pages.extend(pages)
        return len(pages)

    def freed(self, pages: list[int]) -> object:
        self.free = list(pages)
        return len(pages)

    def last_of_each(self, items: Iterable[Any]) -> object:
        """Tuples that end in pages."""
        return tuple((*head, self.flat(pages)) for *head, pages in items)

    def values(self, items: dict[Any, Any]) -> object:
        return tuple((key, self.flat(pages)) for key, pages in items.items())

    def gifts(self, items: dict[Any, Any]) -> object:
        """Lists of tuples that end in pages; an empty list is none."""
        return self.lists_last({key: item for key, item in items.items() if item})

    def values_of_values(self, items: dict[Any, dict[Any, Any]]) -> object:
        return tuple((key, self.values(item)) for key, item in items.items())

    def lists_last(self, items: dict[Any, Any]) -> object:
        return tuple((key, self.last_of_each(item)) for key, item in items.items())

    def alarms(self, items: Any) -> object:
        """(time, name) pairs, or a dictionary of times."""
        if isinstance(items, dict):
            return tuple((name, self._left(time_ns)) for name, time_ns in items.items())
        return tuple((self._left(time_ns), name) for time_ns, name in sorted(items))

    def record(self, record: Any) -> object:
        """What a door looks at."""
        return None if record is None else (record.output_tokens, record.exact, self.walk(record.recipe))

    def keys(self, items: dict[Any, Any]) -> object:
        return tuple(items)

    def nodes(self, node_at: dict[int, Any]) -> object:
        return tuple(self.walk(node) for node in dict.fromkeys(node_at.values()))


Teller = Callable[[Projection, Any], object]
UNTOLD = frozenset(
    {
        *(("RunInHand", "run"), ("RunSteps", "run"), ("RunSteps", "tables"), ("Worker", "_runs")),
        *(("Request", name) for name in ("attempts", "reasons", "prefill_tokens", "handoff_pages")),
        *(("Request", "cached_tokens"), ("Client", "context"), ("PrefillFinished", "handoff_pages")),
        *(("Client", "plan"), ("StepLoop", "plan")),
        *(("Pool", "pages"), ("Page", "filled"), ("Page", "stamp")),
        ("RequestRouted", "reasons"),
    }
)
PAGES: dict[tuple[str, str], Teller] = {
    ("Ledger", "free"): Projection.freed,
    ("Ledger", "given"): Projection.lists_last,
    ("PrefixTree", "node_at"): Projection.nodes,
    ("Target", "early_offers"): Projection.last_of_each,
    ("Target", "shared"): Projection.flat,
    ("Target", "fetched"): Projection.values,
    ("", "into"): Projection.flat,
    ("Source", "spare"): Projection.flat,
    ("Target", "spare"): Projection.flat,
    ("Stream", "tables"): Projection.values,
    ("Estate", "unowned"): Projection.flat,
    ("Estate", "owned"): Projection.values,
    ("Estate", "claims"): Projection.values_of_values,
    ("Estate", "given"): Projection.lists_last,
    ("OwnershipStated", "given"): Projection.last_of_each,
    ("EstateSettled", "lent"): Projection.last_of_each,
    ("EstateSettled", "moved"): Projection.last_of_each,
    ("Requests", "records"): Projection.keys,
    ("Client", "record"): Projection.record,
    ("RequestEnded", "record"): Projection.record,
    ("Requests", "_deadlines"): Projection.alarms,
    ("ControlPlane", "loading"): Projection.alarms,
    ("Pool", "_offered"): Projection.values,
    ("Pool", "_unreceipted"): Projection.values,
    ("", "pages"): Projection.flat,
    ("", "kept"): Projection.flat,
    ("", "deposit"): Projection.flat,
    ("", "deposits"): Projection.flat,
    ("", "inherited"): Projection.flat,
    ("OwnershipStated", "owned"): Projection.flat,
    ("OwnershipStated", "claimed"): Projection.flat,
}
"""Where page numbers are."""
