"""Who of one pool gives a target the pages it lacks soonest: asked once for all targets that hold alike."""

from __future__ import annotations

from diptych.core.control.fleet import WorkerView
from diptych.core.control.need import Need, Quote
from diptych.core.recipe import numerics_at, run_end


class Supply:
    """What the workers of one pool have of one prompt."""

    __slots__ = ("_makers", "_savers", "need", "quotes")

    def __init__(self, need: Need, quotes: list[Quote]) -> None:
        self.need = need
        self.quotes = quotes
        self._makers: dict[int, list[Quote]] = {}
        """By what a target holds: the soonest to have everything up to `split_max`, and the second."""
        self._savers: dict[int, list[Quote]] = {}
        """By the same: those that cache most, where that is more, but not everything."""

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
        for quote in self.quotes:
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
        need = self.need
        able: list[tuple[int, int]] = []
        for number, quote in enumerate(self.quotes):
            if at_hand < quote.held < need.split_max and (
                not need.recipe or computes(quote.view, need, at_hand, quote.held)
            ):
                able.append((-quote.held, number))
        able.sort()
        return [self.quotes[number] for _, number in able[:2]]


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
