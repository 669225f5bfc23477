"""The router: which worker, which split, and why, for fleets whose best answer is plain to see."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.core.config import ControlConfig
from diptych.core.control.fleet import NEVER_NS, Fleet
from diptych.core.control.need import Need
from diptych.core.control.reasons import in_words
from diptych.core.control.router import Route, Router
from diptych.core.facts import RequestArrived, WorkerJoined
from diptych.core.recipe import OPEN_END, Recipe, join

PAGE = 16
MS = 1_000_000
NOW = 0


def joined(worker: str, role: str, **more: Any) -> WorkerJoined:
    numerics = ("int4", "int8") if role == "decode" else ("int8", "int4")
    fields: dict[str, Any] = {
        "worker": worker, "role": role, "host": "host", "engine": "scripted", "models": ("model",),
        "numerics": numerics, "formats": numerics, "page_tokens": PAGE, "context_tokens_max": 4096,
        "prefill_ns_per_token": MS, "decode_ns_per_step": 10 * MS, "room": 100,
    }  # fmt: skip
    return WorkerJoined(**(fields | more))


def fleet_of(*workers: WorkerJoined) -> tuple[Fleet, Router]:
    config = ControlConfig()
    fleet = Fleet(config)
    for fact in workers:
        fleet.join(fact, 0)
    return fleet, Router(config, fleet)


def need(tokens: int, *, recipe: Recipe = (), logits_from: int | None = None, model: str = "model") -> Need:
    border = (tokens - 1) // PAGE * PAGE
    split_max = border if logits_from is None else min(border, logits_from // PAGE * PAGE)
    hashes = tuple(f"page {index}".encode() for index in range(border // PAGE))
    arrived = RequestArrived(
        request="r", door="door", model=model, prompt_tokens=tokens, page_hashes=hashes, tokens_max=64
    )
    return Need(model, tokens, border, split_max, tokens, recipe, arrived)


def routed(router: Router, asked: Need) -> Route:
    route = router.route(asked, NOW)
    assert route is not None
    return route


P, D = joined("prefill-0@1", "prefill"), joined("decode-0@1", "decode")


def test_a_long_prompt_goes_to_prefill_up_to_the_last_page_border() -> None:
    router = fleet_of(P, D)[1]
    route = routed(router, need(500))
    assert route.source is not None
    assert (route.source.name, route.target.name, route.split) == ("prefill-0@1", "decode-0@1", 496)
    reasons = router.reasons(route, need(500))
    assert (reasons.source_tokens, reasons.own_tokens, reasons.held_tokens) == (496, 4, 0)
    words = in_words(reasons)
    assert any("prefill-0@1 computes 496 tokens" in reason for reason in words)
    assert "without a source" in words[-1]


@pytest.mark.parametrize("tokens", [1, 2, PAGE])
def test_a_prompt_without_a_full_page_is_aggregated(tokens: int) -> None:
    route = routed(fleet_of(P, D)[1], need(tokens))
    assert (route.source, route.split) == (None, 0)


def slow_prefill(*, measured_ns: int = NEVER_NS) -> Router:
    """A fleet whose prefill worker is taken to be three times as slow as its target."""
    fleet, router = fleet_of(joined(P.worker, "prefill", prefill_ns_per_token=3 * MS), D)
    fleet.workers[P.worker].measured_ns = measured_ns
    return router


def test_a_first_guess_is_no_reason_to_leave_a_prefill_worker_idle() -> None:
    assert routed(slow_prefill(), need(500)).source is not None


def test_a_measured_rate_is_believed_and_in_time_doubted() -> None:
    router = slow_prefill(measured_ns=0)
    assert routed(router, need(500)).source is None
    later = router.route(need(500), 60_000 * MS)
    assert later is not None
    assert later.source is not None


def test_a_busy_prefill_worker_makes_the_target_do_it_alone() -> None:
    fleet, router = fleet_of(P, D)
    fleet.workers[P.worker].pending_tokens = 5000
    assert routed(router, need(500)).source is None


def test_what_prefill_has_cached_is_fetched_and_the_rest_computed_here() -> None:
    """Partial: a source that is slow to compute but holds the beginning."""
    fleet, router = fleet_of(joined(P.worker, "prefill", prefill_ns_per_token=50 * MS), D)
    asked = need(500)
    fleet.workers[P.worker].measured_ns = NOW
    fleet.workers[P.worker].remember(asked.arrived.page_hashes[:10], 100)
    route = routed(router, asked)
    assert route.source is not None
    assert route.split == 160


def test_a_single_worker_serves_alone() -> None:
    route = routed(fleet_of(joined("both-0@1", "both"))[1], need(300))
    assert (route.target.name, route.source, route.split) == ("both-0@1", None, 0)


def test_prefill_workers_decode_where_nobody_else_can() -> None:
    assert routed(fleet_of(P)[1], need(300)).target.name == P.worker


def test_no_worker_no_route() -> None:
    assert fleet_of()[1].route(need(10), NOW) is None
    assert fleet_of(joined("x@1", "prefill", samples=False))[1].route(need(10), NOW) is None


def test_pages_do_not_cross_hosts() -> None:
    assert routed(fleet_of(joined(P.worker, "prefill", host="other"), D)[1], need(500)).source is None


def test_pages_of_another_size_are_no_use() -> None:
    assert routed(fleet_of(joined(P.worker, "prefill", page_tokens=64), D)[1], need(500)).source is None


def test_each_model_goes_to_workers_that_hold_it() -> None:
    router = fleet_of(P, D, joined("other-0@1", "both", models=("other",)))[1]
    assert routed(router, need(300, model="other")).target.name == "other-0@1"
    assert routed(router, need(300)).target.name == D.worker
    assert router.route(need(300, model="third"), NOW) is None


def test_fenced_and_unfurnished_workers_are_not_chosen() -> None:
    fleet, router = fleet_of(P, D, joined("decode-1@1", "decode", room=0))
    fleet.fence(fleet.workers[D.worker])
    assert routed(router, need(300)).target.name == P.worker


def test_a_held_prefix_draws_the_request() -> None:
    fleet, router = fleet_of(D, joined("decode-1@1", "decode"))
    asked = need(500)
    fleet.workers["decode-1@1"].remember(asked.arrived.page_hashes, 100)
    assert routed(router, asked).target.name == "decode-1@1"


def test_load_drives_requests_apart() -> None:
    fleet, router = fleet_of(D, joined("decode-1@1", "decode"))
    fleet.workers[D.worker].streams = 10
    assert routed(router, need(20)).target.name == "decode-1@1"


def test_rows_that_are_asked_for_bound_the_split() -> None:
    route = routed(fleet_of(P, D)[1], need(500, logits_from=100))
    assert route.split <= 96


def test_a_fixed_recipe_is_kept_or_there_is_no_route() -> None:
    only_int4 = joined(D.worker, "decode", numerics=("int4",))
    recipe = join(("int8", 496), ("int4", OPEN_END))
    route = routed(fleet_of(P, only_int4)[1], need(500, recipe=recipe))
    assert (route.target.name, route.split) == (D.worker, 496)
    router = fleet_of(only_int4)[1]
    assert router.route(need(500, recipe=recipe), NOW) is None
    assert not router.exact(need(500, recipe=recipe))


def test_replanning_uses_what_the_target_really_holds() -> None:
    fleet, router = fleet_of(P, D)
    route = router.replan(fleet.workers[D.worker], 496, need(500), NOW)
    assert route is not None
    assert (route.source, route.split) == (None, 496)


def test_the_canonical_numerics_are_those_of_the_preferred_roles() -> None:
    fleet, _ = fleet_of(P, D)
    assert fleet.canonical("model") == ("int8", "int4")
    fleet.lose(P.worker)
    assert fleet.canonical("model") == ("int8", "int4")
    assert fleet.canonical("unknown") is None


WORKERS = st.lists(
    st.tuples(
        st.sampled_from(["prefill", "decode", "both"]),
        st.integers(1, 50),
        st.integers(0, 3000),
        st.integers(0, 8),
        st.integers(0, 40),
    ),
    min_size=1,
    max_size=4,
)


@given(WORKERS, st.integers(1, 700))
def test_pruning_never_loses_the_cheapest(workers: list[tuple[str, int, int, int, int]], tokens: int) -> None:
    facts = [
        joined(f"w-{index}@1", role, prefill_ns_per_token=rate * MS)
        for index, (role, rate, *_) in enumerate(workers)
    ]
    fleet, router = fleet_of(*facts)
    asked = need(tokens)
    for view, (_, _, pending, streams, pages) in zip(fleet.workers.values(), workers, strict=True):
        view.pending_tokens, view.streams = pending, streams
        view.remember(asked.arrived.page_hashes[:pages], 100)
    route = routed(router, asked)
    views = list(fleet.workers.values())
    targets = [view for view in views if view.joined.role != "prefill"] or views
    prices = []
    for target in targets:
        held = target.held_pages(asked.arrived.page_hashes) * PAGE
        alone = router.replan(target, held, asked, NOW)
        assert alone is not None
        prices.append(alone.cost_ns)
    assert route.cost_ns == min(prices)
    assert 0 <= route.split <= asked.border
    assert route.split % PAGE == 0
    assert route.source is not route.target
