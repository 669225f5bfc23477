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

from diptych.core import facts
from diptych.core.ids import from_extents
from diptych.core.recipe_run import Run
from diptych.core.worker.decode import DecodeBatch
from diptych.core.worker.sequence import Sequence
from diptych.sim.events import Payload
from diptych.sim.explorer.configuration import NEVER_NS
from diptych.sim.pool import Page

Shape = tuple[object, ...]
WAITED_FOR = frozenset({"expires_ns", "not_before_ns", "deadline_ns", "_adopt_until_ns"})
FORGOTTEN = frozenset(
    {
        *("config", "router", "outbox", "need", "supply", "_serving", "plans"),
        *("outside", "closed", "processes", "scenario", "pool", "emit", "_private_pages", "take_pages"),
    }
)
"""Fields that no later action depends on, or that are the same in every state."""


PLAIN = frozenset({int, str, bytes, bool, float, type(None)})
OPAQUE = frozenset(
    {
        *(facts.RequestArrived, facts.TargetRequested, facts.PrefillRequested, facts.RecipeFixed, Run),
        *(facts.SequenceStart, facts.OpenRequest, facts.WorkerJoined, facts.SequenceFinish, Payload),
    }
)
"""Values without pages and times: each is its own shape."""


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
        if kind in PLAIN or kind in OPAQUE:
            return value
        if kind is tuple or kind is list or kind is deque:
            return tuple([self.walk(item) for item in value])
        if isinstance(value, dict):
            return tuple([(self.walk(key), self.walk(item)) for key, item in value.items()])
        if kind is set or kind is frozenset:
            return tuple(sorted(value))
        if isinstance(value, msgspec.Struct):
            return self._fields(value)
        if kind in (MethodType, partial):
            return None
        return self._object(value)

    def _object(self, value: Any) -> object:
        number = self._seen.get(id(value))
        if number is not None:
            return ("again", number)
        self._seen[id(value)] = len(self._seen)
        if isinstance(value, DecodeBatch):
            self._clock = value.clock
            return (self.walk(value.members), self.walk(value.grown))
        return self._fields(value)

    def _fields(self, value: Any) -> object:
        kind = type(value)
        plan = _PLANS.get(kind)
        if plan is None:
            plan = _PLANS[kind] = _plan_of(value)
        result: list[object] = [kind.__name__]
        for name, tell in plan:
            result.append(tell(self, getattr(value, name, None)))
        if kind is Sequence:
            result.append(self._distances(value))
        return tuple(result)

    def _left(self, time_ns: int | None) -> object:
        if time_ns is None or time_ns > NEVER_NS // 8:
            return None
        return max(0, time_ns - self.now_ns)

    def _distances(self, sequence: Sequence) -> object:
        """What the batch's running clock makes of it."""
        if not sequence.decoding:
            return None
        lasts = None if sequence.lasts is None else sequence.lasts - self._clock
        return sequence.known_before + self._clock, lasts

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

    def nodes(self, node_at: dict[int, Any]) -> object:
        return tuple(self.walk(node) for node in dict.fromkeys(node_at.values()))


Teller = Callable[[Projection, Any], object]
_PLANS: dict[type, tuple[tuple[str, Teller], ...]] = {}
"""Of each class: its fields that count, and how each is told."""
UNTOLD = frozenset(
    {
        *(("RunInHand", "run"), ("RunSteps", "run"), ("RunSteps", "tables"), ("Worker", "_runs")),
        *(("Ledger", "told"), ("Beats", "told"), ("Beats", "put_off")),
        *(("Request", name) for name in ("attempts", "reasons", "prefill_tokens", "handoff_pages")),
        *(("Request", "cached_tokens"), ("Client", "context"), ("PrefillFinished", "handoff_pages")),
        *(("Client", "plan"), ("StepLoop", "plan"), ("Pool", "pages")),
        *(("Sequence", "known_before"), ("Sequence", "lasts")),
        ("RequestRouted", "reasons"),
        *(("WorkerView", name) for name in ("recent", "older", "prefill_ns_per_token", "decode_ns_per_step")),
        *(("WorkerView", name) for name in ("pending_tokens", "free", "held", "cached", "joined")),
        *(("Request", "pending"), ("Requests", "records")),
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
    ("Client", "record"): Projection.record,
    ("RequestEnded", "record"): Projection.record,
    ("Requests", "_deadlines"): Projection.alarms,
    ("ControlPlane", "loading"): Projection.alarms,
    ("Pool", "_offered"): Projection.values,
    ("Pool", "_unreceipted"): Projection.values,
    ("", "pages"): Projection.flat,
    ("", "kept"): Projection.flat,
    ("", "deposit"): Projection.flat,
    ("", "released"): Projection.flat,
    ("", "deposits"): Projection.flat,
    ("", "inherited"): Projection.flat,
    ("OwnershipStated", "owned"): Projection.flat,
    ("OwnershipStated", "claimed"): Projection.flat,
}
"""Where page numbers are."""


def _plan_of(value: Any) -> tuple[tuple[str, Teller], ...]:
    kind = type(value).__name__
    if isinstance(value, msgspec.Struct):
        names = value.__struct_fields__
    else:
        names = getattr(type(value), "__slots__", None) or tuple(vars(value))
    plan: list[tuple[str, Teller]] = []
    for name in names:
        if name in FORGOTTEN or (kind, name) in UNTOLD:
            continue
        special = PAGES.get((kind, name)) or PAGES.get(("", name))
        if name in WAITED_FOR:
            plan.append((name, Projection._left))
        elif special is not None:
            plan.append((name, special))
        elif not name.endswith("_ns"):
            plan.append((name, Projection.walk))
    return tuple(plan)


def book_of(page: Page) -> object:
    """Whose a page is and who reads it."""
    claims, loans = tuple(sorted(page.claims.items())), tuple(sorted(page.loans.items()))
    return (page.owner, page.giver, page.receiver, claims, tuple(sorted(page.offers)), loans)
