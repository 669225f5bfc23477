"""Pairs of workers without a common pool: who may, what it costs, and who is left alone for a while."""

from __future__ import annotations

from diptych.core.config import SECOND_NS, ControlConfig
from diptych.core.control.afar import offers_from_afar
from diptych.core.control.fleet import Fleet
from diptych.core.control.need import Need
from diptych.core.control.pairs import Pairs
from diptych.core.control.supply import Supply
from diptych.core.facts import RequestArrived, WorkerJoined


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


def offers(avoid: tuple[str, ...] = ()) -> list[str]:
    fleet = Fleet(CONFIG)
    for worker in (P, D, OTHER):
        fleet.grant(fleet.join(worker, 0))
    hashes = tuple(f"{page}".encode() for page in range(4))
    arrived = RequestArrived(
        request="r", door="door-0", model="model", prompt_tokens=18, page_hashes=hashes, tokens_max=4
    )
    need = Need("model", 18, 16, 16, 18, (), arrived, avoid)
    serving = fleet.serving("model")
    target = fleet.workers["d@1"]
    supply = Supply(need, serving, [target], 0)
    found = offers_from_afar(fleet, supply, target, 0, need)
    assert all(offer.wait_ns >= 4 * 1000 for offer in found), "copying four pages costs nothing"
    return [offer.source.name for offer in found]


def test_sources_of_other_pools_are_offered_with_what_copying_costs() -> None:
    assert offers() == ["p@1"]


def test_a_source_that_failed_this_request_is_not_asked_again() -> None:
    assert offers(avoid=("p@1",)) == []
