"""What the workers of one pool have of one prompt, and who of them gives a target the rest soonest.

Asked once for all targets, and again when the chosen one has said what it holds.
"""

from __future__ import annotations

from diptych.core.control.fleet import Quote, Serving, WorkerView
from diptych.core.control.need import Need
from diptych.core.recipe import numerics_at, run_end


class Offer:
    """What a source would do for a target: all pages up to `split`, after a while."""

    __slots__ = ("cached", "rate", "source", "split", "wait_ns")

    def __init__(self, source: WorkerView, cached: int, rate: float, split: int, wait_ns: float) -> None:
        self.source = source
        self.cached = cached
        self.rate = rate
        """Nanoseconds for each prompt token that it must compute."""
        self.split = split
        self.wait_ns = wait_ns


class Supply:
    """The quotes of one pool for one request."""

    __slots__ = ("_bookings", "_offers", "asked_ns", "need", "quotes", "serving")

    def __init__(
        self, need: Need, serving: Serving, views: list[WorkerView], now_ns: int, bookings: int
    ) -> None:
        self.need = need
        self.serving = serving
        self.asked_ns = now_ns
        self._bookings = bookings
        hashes, split_max = need.arrived.page_hashes, need.split_max
        quotes: dict[WorkerView, Quote] = {}
        for view in views:
            quotes[view] = view.quote(hashes, split_max, now_ns)
        self.quotes = quotes
        self._offers: dict[int, list[Offer]] = {}
        """By what a target holds: the best for any that is not the source itself."""

    def ask_again(self, bookings: int) -> None:
        """`bookings`: how often queues have changed in all."""
        if bookings != self._bookings:
            self._bookings = bookings
            self._offers.clear()

    def offers(self, target: WorkerView, at_hand: int) -> list[Offer]:
        """Of who has everything up to `split_max` soonest, by cache and compute, and of who caches most,
        where that is more than the target has but not everything: the rest is left to the target."""
        found = self._offers.get(at_hand)
        if found is None:
            found = self._offers[at_hand] = self._ask(at_hand, None)
        for offer in found:
            if offer.source is target:
                return self._ask(at_hand, target)
        return found

    def _ask(self, at_hand: int, target: WorkerView | None) -> list[Offer]:
        need, split = self.need, self.need.split_max
        if split <= at_hand:
            return []
        recipe = need.recipe
        maker: WorkerView | None = None
        saver: WorkerView | None = None
        least_ns, most = 0.0, at_hand
        for view, (cached, hope, rate) in self.quotes.items():
            if view is target:
                continue
            held = at_hand
            if cached > at_hand:
                held = cached
                if most < cached < split and (not recipe or computes(view, need, at_hand, cached)):
                    saver, most = view, cached
            if recipe and not computes(view, need, min(at_hand, cached), split):
                continue
            wait_ns = hope * view.pending_tokens + rate * (split - held) if held < split else 0.0
            if maker is None or wait_ns < least_ns:
                maker, least_ns = view, wait_ns
        offers: list[Offer] = []
        if maker is not None:
            offers.append(self._offer(maker, split, least_ns))
        if saver is not None:
            offers.append(self._offer(saver, most, 0.0))
        return offers

    def _offer(self, source: WorkerView, split: int, wait_ns: float) -> Offer:
        cached, _, rate = self.quotes[source]
        return Offer(source, cached, rate, split, wait_ns)


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
