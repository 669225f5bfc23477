"""Pairs of workers without a common pool: who may, what it costs, and who is left alone for a while."""

from __future__ import annotations

import msgspec

from diptych.core.config import SECOND_NS, ControlConfig
from diptych.core.control.fleet import Fleet
from diptych.core.control.need import Need
from diptych.core.control.pairs import Pairs
from diptych.core.control.router import Router
from diptych.core.facts import RequestArrived, WorkerJoined
from diptych.core.recipe import OPEN_END, join


def joined(worker: str, host: str, *transports: str) -> WorkerJoined:
    return WorkerJoined(
        worker=worker, host=host, role="both", engine="scripted", models=("model",), numerics=("int8",),
        formats=("int8",), page_tokens=4, context_tokens_max=512, prefill_ns_per_token=1000,
        decode_ns_per_step=1000, transports=transports,
    )  # fmt: skip


P, D, OTHER = joined("p@1", "one", "tcp", "nixl"), joined("d@1", "two", "tcp"), joined("x@1", "three", "efa")
CONFIG = ControlConfig(fetch_failures_max=2, quarantine_ns=SECOND_NS, pull_page_ns=1000)


def test_two_workers_need_a_transport_in_common() -> None:
    pairs = Pairs(CONFIG)
    assert pairs.possible(P, D, 0)
    assert not pairs.possible(P, OTHER, 0)
    assert not pairs.possible(joined("q@1", "four"), joined("r@1", "five"), 0)


def test_a_pair_that_keeps_failing_is_left_alone_for_a_while() -> None:
    pairs = Pairs(CONFIG)
    pairs.failed(0, "p@1", "d@1", "a checksum differs")
    assert pairs.possible(P, D, 1)
    pairs.failed(5, "p@1", "d@1", "link: cut")
    assert not pairs.possible(P, D, 6)
    ((source, target, pair),) = pairs.quarantined(6)
    assert (source, target, pair.why) == ("p@1", "d@1", "link: cut")
    assert pairs.possible(P, D, 5 + SECOND_NS)


def test_a_success_between_failures_forgives_them() -> None:
    pairs = Pairs(CONFIG)
    for now_ns in range(5):
        pairs.failed(now_ns, "p@1", "d@1", "link: cut")
        pairs.pulled("p@1", "d@1", 4, 8000)
    assert pairs.possible(P, D, 6)


def test_the_price_of_a_page_is_measured() -> None:
    pairs = Pairs(CONFIG)
    assert pairs.page_ns("p@1", "d@1") == 1000
    for _ in range(40):
        pairs.pulled("p@1", "d@1", 10, 50_000)
    assert abs(pairs.page_ns("p@1", "d@1") - 5000) < 1
    pairs.lose("d@1")
    assert pairs.page_ns("p@1", "d@1") == 1000


def source(page_ns: int = 1000, avoid: tuple[str, ...] = ()) -> str | None:
    """Whom the router chooses for a prompt that D is slow to compute."""
    config = ControlConfig(pull_page_ns=page_ns)
    fleet = Fleet(config)
    slow = msgspec.structs.replace(D, role="decode", prefill_ns_per_token=1_000_000)
    for worker in (msgspec.structs.replace(P, role="prefill"), slow, OTHER):
        fleet.grant(fleet.join(worker, 0))
    hashes = tuple(f"{page}".encode() for page in range(4))
    arrived = RequestArrived(
        request="r", door="door-0", model="model", prompt_tokens=18, page_hashes=hashes, tokens_max=4
    )
    recipe = join(("int8", OPEN_END))
    need = Need("model", 18, 16, 16, 18, recipe, arrived, avoid)
    route = Router(config, fleet).replan(fleet.workers["d@1"], 0, need, 0)
    assert route is not None
    return route.source.name if route.source is not None else None


def test_a_source_of_another_pool_is_chosen_where_copying_pays() -> None:
    assert source() == "p@1"
    assert source(page_ns=1_000_000_000) is None


def test_a_source_that_failed_this_request_is_not_asked_again() -> None:
    assert source(avoid=("p@1",)) is None
