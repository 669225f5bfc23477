"""What is explored: a small fleet, its requests, and budgets for what may go wrong."""

from __future__ import annotations

import msgspec

from diptych.core.config import ControlConfig
from diptych.sim.scenario import RequestPlan, Scenario, WorkerPlan

NEVER_NS = 1 << 60
"""Longer than any exploration: who would be silent for so long is found out by a fault instead."""
WAIT_NS = 100_000_000


class Budgets(msgspec.Struct, frozen=True, kw_only=True):
    """An event beyond a budget is not explored; `complete` is said within them only."""

    deaths: int = 0
    """Workers that die of themselves, between any two events, with or without the run in hand done."""
    suspicions: int = 0
    """Workers that are alive and that control takes for lost."""
    leavers: int = 0
    """Clients that hang up."""
    expiries: int = 0
    """Times that control's next deadline comes while something else could still happen."""
    restarts: int = 0
    """Times that control dies and the next one comes."""
    doubles: int = 0
    """Messages about a request that come twice, the second time before all that was said later."""
    evictions: int = 0
    """Times that a worker's whole idle cache goes."""
    stalls: int = 0
    """Times that control itself stands still for longer than a lease."""
    attempts: int = 2
    """Of all requests together."""
    messages: int = 6
    """In flight at once."""


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    about: str
    scenario: Scenario
    budgets: Budgets
    restart: bool = True
    """A dead worker gets a next incarnation."""
    history: int = 0
    """So many of the requests run to their end, undisturbed, before the exploration begins."""
    choices: bool = True
    """Routes, splits and the size of runs are free; else they are what the figures of the fleet say."""


def _worker(name: str, role: str, pages: int, **more: int) -> WorkerPlan:
    numerics = ("int8", "int4") if role == "prefill" else ("int4", "int8")
    rate = 10_000 if role == "prefill" else 100_000
    chunk = more.get("chunk_tokens", 4)
    return WorkerPlan(
        name=name,
        role=role,
        numerics=numerics,
        pages=pages,
        quantum_tokens=2,
        chunk_tokens=chunk,
        mixed_chunk_tokens=chunk,
        prefill_ns_per_token=rate,
        decode_ns_per_sequence=0,
    )


def _scenario(workers: tuple[WorkerPlan, ...], requests: tuple[RequestPlan, ...]) -> Scenario:
    control = ControlConfig(
        lease_ns=NEVER_NS, overrun_ns=NEVER_NS, exact_wait_ns=WAIT_NS, unavailable_wait_ns=WAIT_NS
    )
    return Scenario(
        workers=workers, requests=requests, control=control, page_tokens=2, beat_ns=NEVER_NS, latency_ns=0
    )


def _request(number: int, tokens: int, text: str, length: int = 2, **more: object) -> RequestPlan:
    plan = RequestPlan(
        request=f"r{number}", at_ns=0, prompt=((text, tokens),), lengths=(length,), tokens_max=4
    )
    return msgspec.structs.replace(plan, **more)


P, D, D1 = (
    _worker("prefill-0", "prefill", 6),
    _worker("decode-0", "decode", 8),
    _worker("decode-1", "decode", 8),
)
P8, D12 = _worker("prefill-0", "prefill", 8), _worker("decode-0", "decode", 12)
P4, D7 = _worker("prefill-0", "prefill", 4), _worker("decode-0", "decode", 7)
D6 = _worker("decode-0", "decode", 6)
ONE = _request(0, 5, "a")
TWO = (_request(0, 5, "a"), _request(1, 5, "b"))
LONG = _request(0, 5, "a", length=6, tokens_max=6)
PAIR_OF_CHOICES = _request(0, 5, "a", lengths=(1, 3))
HURRIED = msgspec.structs.replace(ONE, deadline_ns=WAIT_NS // 2)
OUTGROWING = tuple(_request(n, 3, text, length=6, tokens_max=6) for n, text in enumerate("ab"))
FOLLOW = msgspec.structs.replace(_request(0, 5, "a", length=4), follow=_request(1, 4, "c", length=2))

CONFIGURATIONS: tuple[Configuration, ...] = (
    Configuration(
        name="pair",
        about="1 request on 1P+1D, nothing goes wrong but the client may leave and deadlines expire",
        scenario=_scenario((P, D), (HURRIED,)),
        budgets=Budgets(leavers=1, expiries=1, messages=16),
    ),
    Configuration(
        name="chunks",
        about="1 request whose prefill takes three chunks on 1P+1D, and the client may leave",
        scenario=_scenario((_worker("prefill-0", "prefill", 6, chunk_tokens=2), D), (_request(0, 7, "a"),)),
        budgets=Budgets(leavers=1, messages=16),
    ),
    Configuration(
        name="doubles",
        about="1 request on 1P+1D, and messages about it come twice",
        scenario=_scenario((P, D), (ONE,)),
        budgets=Budgets(doubles=2),
    ),
    Configuration(
        name="sequences",
        about="n = 2 on 1P+1D: two sequences share the prompt's pages, and the client may leave",
        scenario=_scenario((P, D12), (PAIR_OF_CHOICES,)),
        budgets=Budgets(leavers=1, messages=16),
    ),
    Configuration(
        name="sequences-death",
        about="n = 2 on 1P+1D, and one worker dies and comes back",
        scenario=_scenario((P, D12), (PAIR_OF_CHOICES,)),
        budgets=Budgets(deaths=1),
    ),
    Configuration(
        name="alone",
        about="1 request on one worker that dies and comes back; the client may leave, deadlines expire",
        scenario=_scenario((D,), (HURRIED,)),
        budgets=Budgets(deaths=1, leavers=1, expiries=1, messages=8),
    ),
    Configuration(
        name="pair-death",
        about="1 request on 1P+1D, one worker dies and comes back",
        scenario=_scenario((P, D), (ONE,)),
        budgets=Budgets(deaths=1),
    ),
    Configuration(
        name="pair-suspect",
        about="1 request on 1P+1D, the lease of one worker ends while it lives, and the client may leave",
        scenario=_scenario((P, D), (ONE,)),
        budgets=Budgets(suspicions=1, leavers=1),
        choices=False,
    ),
    Configuration(
        name="death-suspect",
        about="1 request on 1P+1D, one worker dies, the lease of one ends, and nobody comes back",
        scenario=_scenario((P, D), (ONE,)),
        budgets=Budgets(deaths=1, suspicions=1),
        restart=False,
        choices=False,
    ),
    Configuration(
        name="two-targets",
        about="1 request on 1P+2D, by every route, and the client may leave",
        scenario=_scenario((P, D, D1), (ONE,)),
        budgets=Budgets(leavers=1),
    ),
    Configuration(
        name="drain",
        about="1 request on 1P+2D, one worker dies and stays dead: the stream drains and goes on elsewhere",
        scenario=_scenario((P, D, D1), (ONE,)),
        budgets=Budgets(deaths=1, leavers=1),
        restart=False,
        choices=False,
    ),
    Configuration(
        name="two-deaths",
        about="1 request on 1P+2D, two deaths, nobody comes back",
        scenario=_scenario((P, D, D1), (ONE,)),
        budgets=Budgets(deaths=2),
        restart=False,
        choices=False,
    ),
    Configuration(
        name="compete",
        about="2 requests compete for the pages of one D",
        scenario=_scenario((P, D6), TWO),
        budgets=Budgets(attempts=4, messages=16),
    ),
    Configuration(
        name="compete-leave",
        about="2 requests compete for the pages of one D, a client may leave, and a message comes twice",
        scenario=_scenario((P, D6), TWO),
        budgets=Budgets(attempts=4, leavers=1, doubles=1),
        choices=False,
    ),
    Configuration(
        name="compete-death",
        about="2 requests compete for the pages of one D, and one worker dies and comes back",
        scenario=_scenario((P, D6), TWO),
        budgets=Budgets(attempts=4, deaths=1),
        choices=False,
    ),
    Configuration(
        name="preempt",
        about="2 requests whose answers outgrow the pages of one D: the last admitted is preempted",
        scenario=_scenario((P4, D7), OUTGROWING),
        budgets=Budgets(attempts=4),
        choices=False,
    ),
    Configuration(
        name="preempt-death",
        about="the same, and one worker dies and stays dead",
        scenario=_scenario((P4, D7), OUTGROWING),
        budgets=Budgets(attempts=4, deaths=1),
        restart=False,
        choices=False,
    ),
    Configuration(
        name="preempt-suspect",
        about="2 requests whose answers outgrow the pages of the only worker, whose lease ends",
        scenario=_scenario((D7,), OUTGROWING),
        budgets=Budgets(attempts=4, suspicions=1),
        choices=False,
    ),
    Configuration(
        name="too-long",
        about="a request that no pool has room for beside one that fits; deadlines expire",
        scenario=_scenario((P, _worker("decode-0", "decode", 5)), (LONG, TWO[1])),
        budgets=Budgets(attempts=4, expiries=1),
    ),
    Configuration(
        name="too-long-death",
        about="a request that the only worker has no room for, and the worker dies and comes back",
        scenario=_scenario((_worker("decode-0", "decode", 5),), (LONG,)),
        budgets=Budgets(deaths=1, expiries=1),
    ),
    Configuration(
        name="next-turn",
        about="a next turn whose context D lends to P, and the client may leave",
        scenario=_scenario((P8, D12), (FOLLOW,)),
        budgets=Budgets(leavers=1, messages=16),
        history=1,
    ),
    Configuration(
        name="next-turn-evict",
        about="a next turn whose context D lends to P, and a cache is evicted meanwhile",
        scenario=_scenario((P8, D12), (FOLLOW,)),
        budgets=Budgets(leavers=1, evictions=1, doubles=1),
        history=1,
        choices=False,
    ),
    Configuration(
        name="next-turn-death",
        about="a next turn whose context D lends to P, and one worker dies and comes back",
        scenario=_scenario((P8, D12), (FOLLOW,)),
        budgets=Budgets(deaths=1),
        history=1,
        choices=False,
    ),
    Configuration(
        name="restart",
        about="1 request on 1P+1D, and control dies and comes back; the client may leave",
        scenario=_scenario((P, D), (ONE,)),
        budgets=Budgets(restarts=1, leavers=1, expiries=1, messages=12),
        choices=False,
    ),
    Configuration(
        name="restart-death",
        about="1 request on one worker, and control and the worker die and come back",
        scenario=_scenario((D,), (HURRIED,)),
        budgets=Budgets(restarts=1, deaths=1, messages=10),
        choices=False,
    ),
    Configuration(
        name="restart-pair-death",
        about="1 request on 1P+1D, control and one worker die, control comes back",
        scenario=_scenario((P, D), (ONE,)),
        budgets=Budgets(restarts=1, deaths=1, messages=9),
        restart=False,
        choices=False,
    ),
    Configuration(
        name="restart-twice",
        about="1 request on one worker, and control dies twice",
        scenario=_scenario((D,), (HURRIED,)),
        budgets=Budgets(restarts=2, messages=14),
        choices=False,
    ),
    Configuration(
        name="three-faults",
        about="1 request on one worker, a death, a lease that ends and a restart of control",
        scenario=_scenario((D,), (HURRIED,)),
        budgets=Budgets(deaths=1, suspicions=1, restarts=1, messages=8),
        choices=False,
    ),
    Configuration(
        name="stall",
        about="1 request on 1P+1D, control stands still for longer than a lease, and one worker dies",
        scenario=_scenario((P, D), (HURRIED,)),
        budgets=Budgets(stalls=1, deaths=1),
        choices=False,
    ),
)
