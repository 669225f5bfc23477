"""Sources in other pools: they give copies, over a link, where a pair of workers has one."""

from __future__ import annotations

from diptych.core.control.fleet import Fleet, WorkerView
from diptych.core.control.need import Need
from diptych.core.control.supply import Offer, Supply, computes


def offers_from_afar(
    fleet: Fleet, supply: Supply, target: WorkerView, at_hand: int, need: Need
) -> list[Offer]:
    """Every (source, split) of another pool that can give the target more than it holds."""
    offers: list[Offer] = []
    now_ns, pairs, tokens = supply.asked_ns, fleet.pairs, target.page_tokens
    for view in supply.serving.views:
        if view.pool == target.pool or view.page_tokens != tokens or view.name in need.avoid:
            continue
        if not pairs.possible(view.joined, target.joined, now_ns):
            continue
        held, hope, rate = view.quote(need.arrived.page_hashes, need.split_max, now_ns)
        page_ns = pairs.page_ns(view.name, target.name)
        for split in (held, need.split_max) if held < need.split_max else (held,):
            if split <= at_hand or not computes(view, need, min(at_hand, held), split):
                continue
            # Pages are copied while later ones are computed: the longer of the two is what counts. The
            # source copies what only the target has, before it begins.
            missing = split - max(held, at_hand)
            computed_ns = hope * view.pending_tokens + rate * missing if missing > 0 else 0.0
            copied = split - at_hand + max(0, at_hand - held)
            wait_ns = max(computed_ns, copied // tokens * page_ns)
            offers.append(Offer(view, held, rate, split, wait_ns))
    return offers
