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


class Offer:
    """What a source would do for a target: all pages up to `split`, after a while."""

    __slots__ = ("quote", "split", "wait_ns")

    def __init__(self, quote: Quote, split: int, wait_ns: float) -> None:
        self.quote = quote
        self.split = split
        self.wait_ns = wait_ns


class Supply:
    """The quotes of one pool for one request."""

    __slots__ = ("_offers", "asked_ns", "need", "quotes", "serving")

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
        self._offers: dict[int, list[Offer]] = {}
        """By what a target holds: the best for any that is not the source itself."""

    def ask_again(self) -> None:
        """Queues may have grown."""
        self._offers.clear()

    def offers(self, target: WorkerView, at_hand: int) -> list[Offer]:
        """Of who has everything up to `split_max` soonest, by cache and compute, and of who caches most,
        where that is more than the target has but not everything: the rest is left to the target."""
        found = self._offers.get(at_hand)
        if found is None:
            found = self._offers[at_hand] = self._ask(at_hand, None)
        for offer in found:
            if offer.quote.view is target:
                return self._ask(at_hand, target)
        return found

    def _ask(self, at_hand: int, target: WorkerView | None) -> list[Offer]:
        need, split = self.need, self.need.split_max
        if split <= at_hand:
            return []
        maker: Quote | None = None
        saver: Quote | None = None
        least_ns, most = 0.0, at_hand
        for quote in self.quotes.values():
            view, held = quote.view, quote.held
            if view is target:
                continue
            if most < held < split and (not need.recipe or computes(view, need, at_hand, held)):
                saver, most = quote, held
            if need.recipe and not computes(view, need, min(at_hand, held), split):
                continue
            wait_ns = quote.wait_ns(split, at_hand)
            if maker is None or wait_ns < least_ns:
                maker, least_ns = quote, wait_ns
        offers: list[Offer] = []
        if maker is not None:
            offers.append(Offer(maker, split, least_ns))
        if saver is not None:
            offers.append(Offer(saver, most, 0.0))
        return offers


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
