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
(a handoff without prefill), and the last page border. Which P is best for either depends on D by what D
holds alone, so that not every pair is priced. Every figure is measured by the workers themselves (a
source's is doubted when nobody has measured it for long); every choice comes with its reasons.
"""

from __future__ import annotations

from diptych.core.config import FOREVER_NS, ControlConfig
from diptych.core.control.afar import offers_from_afar
from diptych.core.control.fleet import Fleet, Pool, Serving, WorkerView
from diptych.core.control.need import Need
from diptych.core.control.supply import Offer, Supply, computes
from diptych.core.facts import RouteReasons
from diptych.core.recipe import numerics_of

DISTURBANCE = 0.25
"""Share of the prompt work's time that each stream of the same worker loses."""
LOAD_STEPS = 16
"""Steps by which the load of one more stream is weighed."""
WAITING_STEPS = 64
"""Steps after which one of those that wait for a target's pages is likely to get some."""
FRESH_NS = 50_000_000
"""So long it is believed what workers were taken to hold when the target was chosen."""


class Route:
    """A choice of target, source and split."""

    __slots__ = (
        "cost_ns", "held", "offer", "other_ns", "source", "source_tokens", "split", "supply", "target",
    )  # fmt: skip

    def __init__(
        self,
        target: WorkerView,
        held: int,
        offer: Offer | None,
        cost_ns: int,
        other_ns: int | None,
        supply: Supply,
    ) -> None:
        self.target = target
        self.held = held
        """Prompt tokens that the target holds, or is taken to hold."""
        self.split = held if offer is None else offer.split
        """Prompt tokens that come from the source, or are held by the target already."""
        self.cost_ns = cost_ns
        self.other_ns = other_ns
        """Cost of the best choice of the other kind: without a source, or with one."""
        self.offer = offer
        self.source = None if offer is None else offer.source
        self.source_tokens = 0 if offer is None else max(0, offer.split - max(offer.cached, held))
        """Prompt tokens that the source will have to compute."""
        self.supply = supply


class Router:
    def __init__(self, config: ControlConfig, fleet: Fleet) -> None:
        self.fleet = fleet
        self._handoff_ns = config.handoff_ns
        self.bookings = 0
        """How often prompt work was put on some worker's books, or taken off."""

    def route(self, need: Need, now_ns: int) -> Route | None:
        """The cheapest (P, D, p), or None where no live worker can be the target."""
        serving = self.fleet.serving(need.model)
        supplies: dict[Pool, Supply] = {}
        best: Route | None = None
        for target in self._targets(serving, need):
            supply = supplies.get(target.pool)
            if supply is None:
                views = serving.pools[target.pool]
                supply = supplies[target.pool] = Supply(need, serving, views, now_ns, self.bookings)
            best = self._cheaper(best, target, supply.quotes[target][0], need, supply)
        return best

    def replan(
        self, target: WorkerView, held_tokens: int, need: Need, now_ns: int, supply: Supply | None = None
    ) -> Route | None:
        """The cheapest (P, p) for a target that has said what it really holds; None where the recipe
        asks for numerics that neither the target nor any source can compute. `supply` is what it was
        chosen by."""
        serving = self.fleet.serving(need.model)
        if supply is not None and supply.serving is serving and now_ns - supply.asked_ns <= FRESH_NS:
            supply.ask_again(self.bookings)
        else:
            views = serving.pools.get(target.pool, [])
            supply = Supply(need, serving, views, now_ns, self.bookings)
        return self._cheaper(None, target, held_tokens, need, supply)

    def exact(self, need: Need) -> bool:
        """Whether the live workers together can compute every run of the recipe."""
        able = {numerics for view in self.fleet.serving(need.model).views for numerics in view.numerics}
        return numerics_of(need.recipe) <= able

    # ---- candidates -------------------------------------------------------------------------------

    def _targets(self, serving: Serving, need: Need) -> list[WorkerView]:
        if not need.recipe:
            return serving.targets
        able = [view for view in serving.targets if self._can_end(view, need)]
        return able or [view for view in serving.views if view.joined.samples and self._can_end(view, need)]

    def _can_end(self, view: WorkerView, need: Need) -> bool:
        """It must compute everything after the border: tail, emitted tokens, and what follows."""
        return all(run.numerics in view.numerics for run in need.recipe if run.end > need.border)

    # ---- prices -----------------------------------------------------------------------------------

    def _cheaper(
        self, best: Route | None, target: WorkerView, at_hand: int, need: Need, supply: Supply
    ) -> Route | None:
        """`best`, or what this target offers if that is cheaper: alone, with a source that has everything
        up to the last border, or with what a source has cached."""
        rate, streams = target.prefill_ns_per_token, target.streams
        # Streams it serves slow each other; those that wait for its pages wait for streams to end.
        load_ns = (streams * LOAD_STEPS + target.waiting * WAITING_STEPS) * target.decode_ns_per_step
        # Of a token below the border, and of one after it, when the target computes it itself.
        late_ns = rate * (1.0 + DISTURBANCE * streams)
        early_ns = late_ns + rate * (target.duty - 1.0)
        tail_ns = load_ns + late_ns * (need.known_tokens - need.border)
        # No choice of P makes a target cheaper than its load and the tail it always computes.
        if best is not None and tail_ns >= best.cost_ns:
            return best
        queue_ns = float(rate * target.pending_tokens)
        alone_ns: int | None = None
        if not need.recipe or computes(target, need, at_hand, need.border):
            alone_ns = int(tail_ns + early_ns * (need.border - at_hand) + queue_ns)
        offers = supply.offers(target, at_hand)
        if len(supply.serving.pools) > 1:
            offers = [*offers, *offers_from_afar(self.fleet, supply, target, at_hand, need)]
        chosen: Offer | None = None
        shared_ns = FOREVER_NS
        for offer in offers:
            if need.recipe and not computes(target, need, offer.split, need.border):
                continue
            # P works while D's own queue runs down: the longer of the two is waited for, not their sum.
            ahead_ns = offer.wait_ns + self._handoff_ns
            if ahead_ns < queue_ns:
                ahead_ns = queue_ns
            cost_ns = int(tail_ns + early_ns * (need.border - offer.split) + ahead_ns)
            if cost_ns < shared_ns:
                chosen, shared_ns = offer, cost_ns
        if alone_ns is not None and alone_ns <= shared_ns:
            if best is not None and alone_ns >= best.cost_ns:
                return best
            other_ns = shared_ns if chosen is not None else None
            return Route(target, at_hand, None, alone_ns, other_ns, supply)
        if chosen is None or (best is not None and shared_ns >= best.cost_ns):
            return best
        return Route(target, at_hand, chosen, shared_ns, alone_ns, supply)

    def reasons(self, route: Route, need: Need) -> RouteReasons:
        """The figures that the choice rests on, as the workers measured them."""
        target, offer = route.target, route.offer
        own_tokens = need.known_tokens - max(route.split, route.held)
        if offer is None:
            return RouteReasons(
                target=target.name,
                held_tokens=route.held,
                own_tokens=own_tokens,
                target_rate_ns=target.prefill_ns_per_token,
                target_queue_tokens=target.pending_tokens,
                target_streams=target.streams,
                cost_ns=route.cost_ns,
                other_ns=route.other_ns,
            )
        return RouteReasons(
            target=target.name,
            held_tokens=route.held,
            own_tokens=own_tokens,
            target_rate_ns=target.prefill_ns_per_token,
            target_queue_tokens=target.pending_tokens,
            target_streams=target.streams,
            cost_ns=route.cost_ns,
            other_ns=route.other_ns,
            source=offer.source.name,
            source_tokens=route.source_tokens,
            source_cached_tokens=offer.cached,
            source_rate_ns=int(offer.rate),
            source_measured_ns=offer.source.prefill_ns_per_token,
            source_queue_tokens=offer.source.pending_tokens,
            handoff_ns=self._handoff_ns,
        )
