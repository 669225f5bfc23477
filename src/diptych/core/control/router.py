"""Chooses, for one request, the target D, the source P and the split p by predicted time.

    cost(P, D, p) = wait for D's pages
                  + the longer of
                      P: its queue + (p - held by P) at its rate + the handoff     (p > held by D)
                         (from another pool: what copying the pages takes, if that is longer)
                      D: its queue
                  + D: (prompt - max(p, held by D)) at its rate
                  + what D's prompt work costs the streams that D already serves
                  + D's load: streams it serves, by its step time

Cost is linear in p, so only the ends can be best: nothing from P (p = what D holds), what P has cached
(a handoff without prefill), and the last page border. Every figure is measured by the workers
themselves (a source's is doubted when nobody has measured it for long); every choice comes with its reasons.
"""

from __future__ import annotations

from collections.abc import Iterator

from diptych.core.config import ControlConfig
from diptych.core.control.fleet import DECODE, PREFILL, Fleet, WorkerView
from diptych.core.control.need import Need, Quote, Route
from diptych.core.recipe import numerics_at, numerics_of, run_end

DECODE_DUTY = 2.0
"""Prompt work on a worker that prefers decoding costs so much more than its time."""
DISTURBANCE = 0.25
"""Share of the prompt work's time that each stream of the same worker loses."""
LOAD_STEPS = 16
"""Steps by which the load of one more stream is weighed."""
WAITING_STEPS = 64
"""Steps after which one of those that wait for a target's pages is likely to get some."""


class Router:
    def __init__(self, config: ControlConfig, fleet: Fleet) -> None:
        self.config = config
        self.fleet = fleet

    def route(self, need: Need, now_ns: int) -> Route | None:
        """The cheapest (P, D, p), or None where no live worker can be the target."""
        quotes = [self._quote(view, need, now_ns) for view in self.fleet.serving(need.model)]
        tail_tokens = need.known_tokens - need.border
        best: Route | None = None
        for target in self._targets(quotes, need):
            # No choice of P makes a target cheaper than its load and the tail it always computes.
            if best is None or target.load + tail_tokens * target.rate < best.cost_ns:
                best = self._cheapest(target, quotes, need, best, now_ns)
        return best

    def replan(self, target: WorkerView, held_tokens: int, need: Need, now_ns: int) -> Route | None:
        """The cheapest (P, p) for a target that has said what it really holds; None where the recipe
        asks for numerics that neither the target nor any source can compute."""
        chosen = Quote(target, held_tokens, target.prefill_ns_per_token, 0.0, self._load(target))
        others = [v for v in self.fleet.serving(need.model) if v is not target]
        quotes = [self._quote(view, need, now_ns) for view in others]
        return self._cheapest(chosen, quotes, need, None, now_ns)

    def _cheapest(
        self, target: Quote, quotes: list[Quote], need: Need, best: Route | None, now_ns: int
    ) -> Route | None:
        """The best of `best` and what this target offers, beside the best with a source or without
        one, whichever was not chosen."""
        alone_ns = shared_ns = None
        if self._computes(target.view, need, target.held, need.border):
            alone_ns = self._price(target, None, target.held, need)
            if best is None or alone_ns < best.cost_ns:
                best = Route(target.view, None, target.held, alone_ns)
        for source, split in self._sources(target, quotes, need, now_ns):
            cost = self._price(target, source, split, need)
            if shared_ns is None or cost < shared_ns:
                shared_ns = cost
            if best is None or cost < best.cost_ns:
                best = Route(target.view, source.view, split, cost, source.hope)
        if best is not None and best.target is target.view:
            best.other_ns = alone_ns if best.source is not None else shared_ns
        return best

    def exact(self, need: Need) -> bool:
        """Whether the live workers together can compute every run of the recipe."""
        able = {numerics for view in self.fleet.serving(need.model) for numerics in view.numerics}
        return numerics_of(need.recipe) <= able

    # ---- candidates -------------------------------------------------------------------------------

    def _quote(self, view: WorkerView, need: Need, now_ns: int) -> Quote:
        rate, hope = view.prefill_ns_per_token, view.prompt_ns_per_token(now_ns)
        return Quote(view, self._held(view, need), rate, hope, self._load(view))

    def _held(self, view: WorkerView, need: Need) -> int:
        return min(view.held_pages(need.arrived.page_hashes) * view.page_tokens, need.split_max)

    def _targets(self, quotes: list[Quote], need: Need) -> list[Quote]:
        able = [quote for quote in quotes if quote.view.joined.samples and self._can_end(quote.view, need)]
        preferred = [quote for quote in able if quote.view.role != PREFILL]
        return preferred or able

    def _can_end(self, view: WorkerView, need: Need) -> bool:
        """It must compute everything after the border: tail, emitted tokens, and what follows."""
        if not need.recipe:
            return True
        return all(run.numerics in view.numerics for run in need.recipe if run.end > need.border)

    def _sources(
        self, target: Quote, quotes: list[Quote], need: Need, now_ns: int
    ) -> Iterator[tuple[Quote, int]]:
        """Every (source, split) that can give the target more than it holds."""
        at_hand, host, page_tokens = target.held, target.view.host, target.view.page_tokens
        pairs = self.fleet.pairs
        for source in quotes:
            view = source.view
            if source is target or view.page_tokens != page_tokens or view.name in need.avoid:
                continue
            if view.host != host and not pairs.possible(view.joined, target.view.joined, now_ns):
                continue
            for split in (source.held, need.split_max) if source.held < need.split_max else (need.split_max,):
                if split <= at_hand:
                    continue
                able = self._computes(view, need, min(at_hand, source.held), split)
                if able and self._computes(target.view, need, split, need.border):
                    yield source, split

    def _computes(self, view: WorkerView, need: Need, first: int, end: int) -> bool:
        if not need.recipe:
            return True
        position = first
        while position < end:
            if numerics_at(need.recipe, position) not in view.numerics:
                return False
            position = run_end(need.recipe, position)
        return True

    # ---- prices -----------------------------------------------------------------------------------

    def _load(self, target: WorkerView) -> int:
        """Streams it serves slow each other; those that wait for its pages wait for streams to end."""
        steps = target.streams * LOAD_STEPS + target.waiting * WAITING_STEPS
        return steps * target.decode_ns_per_step

    def _price(self, target: Quote, source: Quote | None, split: int, need: Need) -> int:
        """Predicted time until the target can go on, and what that costs its other streams."""
        view, rate = target.view, target.rate
        own_tokens = need.known_tokens - max(split, target.held)
        cost: float = target.load + rate * own_tokens * (1.0 + DISTURBANCE * view.streams)
        if view.role == DECODE:
            cost += rate * (own_tokens - need.known_tokens + need.border) * (DECODE_DUTY - 1.0)
        ahead = float(rate * view.pending_tokens)
        if source is not None:
            tokens = max(0, split - max(source.held, target.held))
            duty = DECODE_DUTY if source.view.role == DECODE else 1.0
            cost += source.hope * tokens * (duty - 1.0)
            behind = source.hope * (source.view.pending_tokens + tokens) if tokens else 0.0
            if source.view.host != view.host:
                behind = max(behind, self._copying_ns(target, source, split))
            # P works while D's own queue runs down: the longer of the two is waited for, not their sum.
            ahead = max(ahead, behind + self.config.handoff_ns)
        return int(cost + ahead)

    def _copying_ns(self, target: Quote, source: Quote, split: int) -> float:
        """Pages are copied while later ones are computed: the longer of the two is what counts. The
        source copies what only the target has, before it begins."""
        moved = split - target.held + max(0, target.held - source.held)
        pages = moved // target.view.page_tokens
        return pages * self.fleet.pairs.page_ns(source.view.name, target.view.name)

    def explain(self, route: Route, held_tokens: int, need: Need) -> tuple[str, ...]:
        """The choice in words, with the figures it rests on as the workers measured them."""
        target, source = route.target, route.source
        own = need.known_tokens - max(route.split, held_tokens)
        reasons = [
            f"{target.name} computes {own} tokens at {_ms(target.prefill_ns_per_token)} each,"
            f" behind {target.pending_tokens} others, beside {target.streams} streams"
        ]
        if held_tokens:
            reasons.append(f"{target.name} holds {held_tokens} tokens")
        if source is not None:
            cached = self._held(source, need)
            tokens = max(0, route.split - max(cached, held_tokens))
            reasons.append(
                f"{source.name} computes {tokens} tokens at {_ms(route.source_rate)} each"
                f" (last measured: {_ms(source.prefill_ns_per_token)}), behind {source.pending_tokens}"
                f" others, and caches {cached}; the handoff takes {_ms(self.config.handoff_ns)}"
            )
            if source.host != target.host:
                page_ns = self.fleet.pairs.page_ns(source.name, target.name)
                reasons.append(f"a page comes over from {source.host} in {_ms(page_ns)}")
        other = "without a source" if source is not None else "with the best source"
        cost = f"predicted cost {_ms(route.cost_ns)}"
        if route.other_ns is not None:
            cost += f", {other} {_ms(route.other_ns)}"
        return (*reasons, cost)


def _ms(duration_ns: float) -> str:
    return f"{duration_ns / 1e6:.2f} ms"
