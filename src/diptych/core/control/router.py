"""Chooses, for one request, the target D, the source P and the split p by predicted time.

    cost(P, D, p) = wait for D's pages
                  + P: its queue + (p - held by P) at its rate + the handoff       (p > held by D)
                  + D: its queue + (prompt - max(p, held by D)) at its rate
                  + what D's prompt work costs the streams that D already serves
                  + D's load: streams it serves, by its step time

Cost is linear in p, so only the ends can be best: nothing from P (p = what D holds), what P has cached
(a handoff without prefill), and the last page border. Every figure is measured by the workers
themselves; every choice comes with its reasons.
"""

from __future__ import annotations

import msgspec

from diptych.core.config import ControlConfig
from diptych.core.control.fleet import BOTH, DECODE, Fleet, WorkerView
from diptych.core.facts import RequestArrived
from diptych.core.recipe import Recipe, numerics_at, numerics_of, run_end

DECODE_DUTY = 1.5
"""Prompt work on a worker that prefers decoding costs so much more than its time."""
DISTURBANCE = 0.25
"""Share of the prompt work's time that each stream of the same worker loses."""
LOAD_STEPS = 16
"""Steps by which the load of one more stream is weighed."""
WAITING_STEPS = 64
"""Steps after which one of those that wait for a target's pages is likely to get some."""


class Route(msgspec.Struct, frozen=True):
    target: WorkerView
    source: WorkerView | None
    split: int
    """Prompt tokens that come from the source, or are held by the target already."""
    cost_ns: int
    reasons: tuple[str, ...]


class Need(msgspec.Struct, frozen=True):
    """What a request asks of its workers."""

    model: str
    prompt_tokens: int
    border: int
    """Last page border before the last prompt token."""
    split_max: int
    """Neither split nor prefix reuse passes it (echo with log-probabilities)."""
    known_tokens: int
    """Prompt and emitted tokens: what a target must have computed before it can go on."""
    recipe: Recipe
    arrived: RequestArrived


class Router:
    def __init__(self, config: ControlConfig, fleet: Fleet) -> None:
        self.config = config
        self.fleet = fleet

    def route(self, need: Need) -> Route | None:
        """The cheapest (P, D, p), or None where no live worker can be the target."""
        workers = self.fleet.serving(need.model)
        held = {view.name: self._held(view, need) for view in workers}
        targets = self._targets(workers, need)
        best: Route | None = None
        for target in targets:
            if best is not None and self._least(target, need, held[target.name]) >= best.cost_ns:
                continue
            for source, split in self._options(target, workers, held, need):
                route = self._price(target, source, split, held, need)
                if best is None or route.cost_ns < best.cost_ns:
                    best = route
        return best

    def replan(self, target: WorkerView, held_tokens: int, need: Need) -> Route | None:
        """The cheapest (P, p) for a target that has said what it really holds; None where the recipe
        asks for numerics that neither the target nor any source can compute."""
        workers = self.fleet.serving(need.model)
        held = {view.name: self._held(view, need) for view in workers}
        held[target.name] = held_tokens
        best: Route | None = None
        for source, split in self._options(target, workers, held, need):
            route = self._price(target, source, split, held, need)
            if best is None or route.cost_ns < best.cost_ns:
                best = route
        return best

    def exact(self, need: Need) -> bool:
        """Whether the live workers together can compute every run of the recipe."""
        able = {numerics for view in self.fleet.serving(need.model) for numerics in view.joined.numerics}
        return numerics_of(need.recipe) <= able

    # ---- candidates -------------------------------------------------------------------------------

    def _held(self, view: WorkerView, need: Need) -> int:
        tokens = view.held_pages(need.arrived.page_hashes) * view.joined.page_tokens
        return min(tokens, need.split_max)

    def _targets(self, workers: list[WorkerView], need: Need) -> list[WorkerView]:
        able = [view for view in workers if view.joined.samples and self._can_end(view, need)]
        preferred = [view for view in able if view.joined.role in (DECODE, BOTH)]
        return preferred or able

    def _can_end(self, view: WorkerView, need: Need) -> bool:
        """It must compute everything after the border: tail, emitted tokens, and what follows."""
        if not need.recipe:
            return True
        return all(run.numerics in view.joined.numerics for run in need.recipe if run.end > need.border)

    def _options(
        self, target: WorkerView, workers: list[WorkerView], held: dict[str, int], need: Need
    ) -> list[tuple[WorkerView | None, int]]:
        at_hand = held[target.name]
        options: list[tuple[WorkerView | None, int]] = []
        if self._computes(target, need, at_hand, need.border):
            options.append((None, at_hand))
        for source in workers:
            if source is target or source.joined.host != target.joined.host:
                continue
            if source.joined.page_tokens != target.joined.page_tokens:
                continue
            for split in dict.fromkeys((held[source.name], need.split_max)):
                able = self._computes(source, need, min(at_hand, held[source.name]), split)
                if split > at_hand and able and self._computes(target, need, split, need.border):
                    options.append((source, split))
        return options

    def _computes(self, view: WorkerView, need: Need, first: int, end: int) -> bool:
        if not need.recipe:
            return True
        position = first
        while position < end:
            if numerics_at(need.recipe, position) not in view.joined.numerics:
                return False
            position = run_end(need.recipe, position)
        return True

    # ---- prices -----------------------------------------------------------------------------------

    def _least(self, target: WorkerView, need: Need, held_tokens: int) -> int:
        """No choice of P makes this target cheaper: its load, and the tail it always computes."""
        return self._load(target) + (need.known_tokens - need.border) * target.prefill_ns_per_token

    def _load(self, target: WorkerView) -> int:
        """Streams it serves slow each other; those that wait for its pages wait for streams to end."""
        steps = target.streams * LOAD_STEPS + target.waiting * WAITING_STEPS
        return steps * target.decode_ns_per_step

    def _price(
        self,
        target: WorkerView,
        source: WorkerView | None,
        split: int,
        held: dict[str, int],
        need: Need,
    ) -> Route:
        at_hand = max(split, held[target.name])
        own_tokens = need.known_tokens - at_hand
        own_ns = own_tokens * target.prefill_ns_per_token
        duty = DECODE_DUTY if target.joined.role == DECODE else 1.0
        extra = own_tokens - (need.known_tokens - need.border)
        disturbance = int(own_ns * DISTURBANCE * target.streams)
        queue_ns = target.pending_tokens * target.prefill_ns_per_token
        load_ns = self._load(target)
        cost = load_ns + queue_ns + own_ns + disturbance
        cost += int(extra * target.prefill_ns_per_token * (duty - 1.0))
        reasons = [
            f"{target.name} computes {own_tokens} tokens in {_ms(own_ns)}"
            f" after {_ms(queue_ns)} of queue, load {_ms(load_ns)}"
        ]
        if held[target.name]:
            reasons.append(f"{target.name} holds {held[target.name]} tokens")
        if source is not None:
            cached = max(held[source.name], held[target.name])
            tokens = max(0, split - cached)
            source_ns = tokens * source.prefill_ns_per_token
            wait_ns = source.pending_tokens * source.prefill_ns_per_token if tokens else 0
            if source.joined.role == DECODE:
                source_ns = int(source_ns * DECODE_DUTY)
            cost += source_ns + wait_ns + self.config.handoff_ns
            reasons.append(
                f"{source.name} computes {tokens} tokens in {_ms(source_ns)} after {_ms(wait_ns)} of queue,"
                f" has {held[source.name]} cached; handoff {_ms(self.config.handoff_ns)}"
            )
        return Route(target, source, split, cost, tuple(reasons))


def _ms(duration_ns: int) -> str:
    return f"{duration_ns / 1e6:.1f} ms"
