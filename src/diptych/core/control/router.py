"""Chooses, for one request, the target D, the source P and the split p by predicted time.

    cost(P, D, p) = wait for D's pages
                  + P: its queue + (p - held by P) at its rate + the handoff       (p > held by D)
                  + D: its queue + (prompt - max(p, held by D)) at its rate
                  + what D's prompt work costs the streams that D already serves
                  + D's load: streams it serves, by its step time

Cost is linear in p, so only the ends can be best: nothing from P (p = what D holds), what P has cached
(a handoff without prefill), and the last page border. Every figure is measured by the workers
themselves (and doubted when nobody has measured it for long); every choice comes with its reasons.
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


class Route(msgspec.Struct):
    target: WorkerView
    source: WorkerView | None
    split: int
    """Prompt tokens that come from the source, or are held by the target already."""
    cost_ns: int
    other_ns: int | None = None
    """Cost of the best choice of the other kind: without a source, or with one."""


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

    def route(self, need: Need, now_ns: int) -> Route | None:
        """The cheapest (P, D, p), or None where no live worker can be the target."""
        workers = self.fleet.serving(need.model)
        held = {view.name: self._held(view, need) for view in workers}
        best: Route | None = None
        for target in self._targets(workers, need):
            if best is None or self._least(target, need, now_ns) < best.cost_ns:
                best = self._cheapest(target, workers, held, need, now_ns, best)
        return best

    def replan(self, target: WorkerView, held_tokens: int, need: Need, now_ns: int) -> Route | None:
        """The cheapest (P, p) for a target that has said what it really holds; None where the recipe
        asks for numerics that neither the target nor any source can compute."""
        workers = self.fleet.serving(need.model)
        held = {view.name: self._held(view, need) for view in workers}
        held[target.name] = held_tokens
        return self._cheapest(target, workers, held, need, now_ns, None)

    def _cheapest(
        self,
        target: WorkerView,
        workers: list[WorkerView],
        held: dict[str, int],
        need: Need,
        now_ns: int,
        best: Route | None,
    ) -> Route | None:
        """The best of `best` and what this target offers, beside the best with a source or without
        one, whichever was not chosen."""
        alone_ns = shared_ns = None
        for source, split in self._options(target, workers, held, need):
            cost = self._price(target, source, split, held, need, now_ns)
            if source is None:
                alone_ns = cost
            elif shared_ns is None or cost < shared_ns:
                shared_ns = cost
            if best is None or cost < best.cost_ns:
                best = Route(target, source, split, cost)
        if best is not None and best.target is target:
            best.other_ns = alone_ns if best.source is not None else shared_ns
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

    def _least(self, target: WorkerView, need: Need, now_ns: int) -> float:
        """No choice of P makes this target cheaper: its load, and the tail it always computes."""
        tail_tokens = need.known_tokens - need.border
        return self._load(target) + tail_tokens * target.prompt_ns_per_token(now_ns)

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
        now_ns: int,
    ) -> int:
        """Predicted time until the target can go on, and what that costs its other streams."""
        rate = target.prompt_ns_per_token(now_ns)
        own_tokens = need.known_tokens - max(split, held[target.name])
        cost = self._load(target) + rate * target.pending_tokens
        cost += rate * own_tokens * (1.0 + DISTURBANCE * target.streams)
        if target.joined.role == DECODE:
            cost += rate * (own_tokens - need.known_tokens + need.border) * (DECODE_DUTY - 1.0)
        if source is not None:
            tokens = max(0, split - max(held[source.name], held[target.name]))
            source_rate = source.prompt_ns_per_token(now_ns)
            duty = DECODE_DUTY if source.joined.role == DECODE else 1.0
            cost += source_rate * tokens * duty + self.config.handoff_ns
            cost += source_rate * source.pending_tokens if tokens else 0.0
        return int(cost)

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
                f"{source.name} computes {tokens} tokens at {_ms(source.prefill_ns_per_token)} each,"
                f" behind {source.pending_tokens} others, and caches {cached};"
                f" the handoff takes {_ms(self.config.handoff_ns)}"
            )
        other = "without a source" if source is not None else "with the best source"
        cost = f"predicted cost {_ms(route.cost_ns)}"
        if route.other_ns is not None:
            cost += f", {other} {_ms(route.other_ns)}"
        return (*reasons, cost)


def _ms(duration_ns: float) -> str:
    return f"{duration_ns / 1e6:.2f} ms"
