"""What the workers of one pool have of one prompt, and who of them gives a target the rest soonest.

Asked once for all targets, and again when the chosen one has said what it holds.
"""

from __future__ import annotations

from diptych.core.control.fleet import DECODE, Serving, WorkerView
from diptych.core.control.need import Need
from diptych.core.recipe import numerics_at, run_end

DECODE_DUTY = 2.0
"""Prompt work on a worker that prefers decoding costs so much more than its time."""


class Quote:
    """What one worker is taken to have of the prompt, and to need as a source of the rest."""

    __slots__ = ("held", "hope", "rate", "view")

    def __init__(self, view: WorkerView, held: int, hope: float) -> None:
        self.view = view
        self.held = held
        """Prompt tokens it probably caches, as far as the request may use them."""
        self.hope = hope
        """Nanoseconds for each prompt token of its queue: less, the longer nobody has measured it."""
        self.rate = hope * DECODE_DUTY if view.role == DECODE else hope
        """The same for those of this request."""

    def wait_ns(self, split: int, at_hand: int) -> float:
        """Until it has all pages up to the split for a target that has `at_hand` tokens."""
        held = self.held
        if held < at_hand:
            held = at_hand
        if held >= split:
            return 0.0
        return self.hope * self.view.pending_tokens + self.rate * (split - held)


class Supply:
    """The quotes of one pool for one request."""

    __slots__ = ("_makers", "_savers", "asked_ns", "need", "quotes", "serving")

    def __init__(self, need: Need, serving: Serving, views: list[WorkerView], now_ns: int) -> None:
        self.need = need
        self.serving = serving
        self.asked_ns = now_ns
        hashes, split_max = need.arrived.page_hashes, need.split_max
        self.quotes: dict[WorkerView, Quote] = {}
        for view in views:
            held = view.held_pages(hashes) * view.page_tokens
            if held > split_max:
                held = split_max
            self.quotes[view] = Quote(view, held, view.prompt_ns_per_token(now_ns))
        self._makers: dict[int, list[Quote]] = {}
        """By what a target holds: the soonest to have everything up to `split_max`, and the second."""
        self._savers: dict[int, list[Quote]] = {}
        """By the same: those that cache most, where that is more, but not everything."""

    def ask_again(self) -> None:
        """Queues may have grown."""
        self._makers.clear()

    def maker(self, target: WorkerView, at_hand: int) -> Quote | None:
        """Who has everything up to `split_max` soonest, by cache and compute."""
        best = self._makers.get(at_hand)
        if best is None:
            best = self._makers[at_hand] = self._soonest(at_hand)
        return _other(best, target)

    def saver(self, target: WorkerView, at_hand: int) -> Quote | None:
        """Who caches more than the target, and most: the rest is left to the target."""
        best = self._savers.get(at_hand)
        if best is None:
            best = self._savers[at_hand] = self._fullest(at_hand)
        return _other(best, target)

    def _soonest(self, at_hand: int) -> list[Quote]:
        need, split = self.need, self.need.split_max
        first: Quote | None = None
        second: Quote | None = None
        first_ns = second_ns = 0.0
        if split <= at_hand:
            return []
        for quote in self.quotes.values():
            if need.recipe and not computes(quote.view, need, min(at_hand, quote.held), split):
                continue
            wait_ns = quote.wait_ns(split, at_hand)
            if first is None or wait_ns < first_ns:
                second, second_ns = first, first_ns
                first, first_ns = quote, wait_ns
            elif second is None or wait_ns < second_ns:
                second, second_ns = quote, wait_ns
        return [quote for quote in (first, second) if quote is not None]

    def _fullest(self, at_hand: int) -> list[Quote]:
        need, split = self.need, self.need.split_max
        able = [quote for quote in self.quotes.values() if at_hand < quote.held < split]
        if need.recipe:
            able = [quote for quote in able if computes(quote.view, need, at_hand, quote.held)]
        if len(able) > 1:
            able.sort(key=lambda quote: -quote.held)
        return able[:2]


def _other(best: list[Quote], target: WorkerView) -> Quote | None:
    """The first that is not the target itself."""
    for quote in best:
        if quote.view is not target:
            return quote
    return None


def computes(view: WorkerView, need: Need, first: int, end: int) -> bool:
    """Whether the worker has the numerics of all positions from `first` on below `end`."""
    if not need.recipe:
        return True
    position = first
    while position < end:
        if numerics_at(need.recipe, position) not in view.numerics:
            return False
        position = run_end(need.recipe, position)
    return True
