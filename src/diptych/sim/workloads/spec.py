"""Workloads as one word of the command line: `KIND:name=value,...`, or `KIND:FILE,name=value` for traces.

poisson:rate=2,requests=200,input=512~0.5,output=64-256
bursts:size=16,every=10,requests=160
closed:clients=8,think=1,requests=200,shared=256
agents:rate=0.5,conversations=20,turns=3-8,system=1024,input=200,output=150,think=5
mooncake:trace.jsonl
azure:trace.csv
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from diptych.sim.workloads.agents import Agents
from diptych.sim.workloads.arrivals import ClosedLoop, Shape, bursts, poisson
from diptych.sim.workloads.ask import BadWorkload, Workload
from diptych.sim.workloads.traces import MOONCAKE_BLOCK_TOKENS, azure, mooncake

DEFAULT = "poisson:rate=2,requests=200"
Spec = TypeVar("Spec", bound=msgspec.Struct)


class Common(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for every workload."""

    seed: int = 0
    speedup: float = 1.0
    """Rates and time stamps are taken so many times as fast; pauses of clients are not."""
    limit: int | None = None
    """Most requests (of agents: conversations) to make."""


class PoissonSpec(Shape, frozen=True, kw_only=True, forbid_unknown_fields=True):
    rate: float = 1.0
    requests: int = 100


class BurstsSpec(Shape, frozen=True, kw_only=True, forbid_unknown_fields=True):
    size: int = 8
    every: float = 10.0
    requests: int = 100


class ClosedSpec(Shape, frozen=True, kw_only=True, forbid_unknown_fields=True):
    clients: int = 4
    think: float = 0.0
    requests: int = 100


class AgentsSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    rate: float = 0.2
    conversations: int = 20
    turns: str = "5"
    system: int = 1024
    input: str = "200"
    output: str = "150"
    think: float = 2.0


class MooncakeSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    block: int = MOONCAKE_BLOCK_TOKENS


class AzureSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


def read_workload(text: str, common: Common) -> Workload:
    """Raises `BadWorkload` naming the field and its limit, and `OSError` for an unreadable trace."""
    kind, _, rest = text.partition(":")
    if kind not in _KINDS:
        raise BadWorkload(f"--workload: {kind!r}; one of {', '.join(_KINDS)}")
    if not 0 < common.speedup <= 1e6:
        raise BadWorkload(f"speedup: {common.speedup:g}; more than 0, at most 1e6")
    if common.limit is not None and common.limit < 1:
        raise BadWorkload(f"limit: {common.limit}; at least 1")
    return _KINDS[kind](rest, common)


def _poisson(text: str, common: Common) -> Workload:
    spec = _fields(PoissonSpec, text)
    count = _limited(spec.requests, common)
    return poisson(spec, rate=spec.rate * common.speedup, requests=count, seed=common.seed)


def _bursts(text: str, common: Common) -> Workload:
    spec = _fields(BurstsSpec, text)
    count = _limited(spec.requests, common)
    return bursts(spec, size=spec.size, every_s=spec.every / common.speedup, requests=count, seed=common.seed)


def _closed(text: str, common: Common) -> Workload:
    spec = _fields(ClosedSpec, text)
    count = _limited(spec.requests, common)
    return ClosedLoop(spec, clients=spec.clients, think_s=spec.think, requests=count, seed=common.seed)


def _agents(text: str, common: Common) -> Workload:
    spec = _fields(AgentsSpec, text)
    return Agents(
        rate=spec.rate * common.speedup,
        conversations=_limited(spec.conversations, common),
        turns=spec.turns,
        system=spec.system,
        input=spec.input,
        output=spec.output,
        think_s=spec.think,
        seed=common.seed,
    )


def _mooncake(text: str, common: Common) -> Workload:
    path, rest = _path("mooncake", text)
    spec = _fields(MooncakeSpec, rest)
    return mooncake(path, speedup=common.speedup, limit=common.limit, block_tokens=spec.block)


def _azure(text: str, common: Common) -> Workload:
    path, rest = _path("azure", text)
    _fields(AzureSpec, rest)
    return azure(path, speedup=common.speedup, limit=common.limit)


_KINDS: dict[str, Callable[[str, Common], Workload]] = {
    "poisson": _poisson,
    "bursts": _bursts,
    "closed": _closed,
    "agents": _agents,
    "mooncake": _mooncake,
    "azure": _azure,
}


def _limited(count: int, common: Common) -> int:
    return count if common.limit is None else min(count, common.limit)


def _path(kind: str, text: str) -> tuple[Path, str]:
    path, _, rest = text.partition(",")
    if not path:
        raise BadWorkload(f"--workload: {kind}:FILE names the trace")
    return Path(path), rest


def _fields(kind: type[Spec], text: str) -> Spec:
    given: dict[str, Any] = {}
    for word in filter(None, text.split(",")):
        name, equals, value = word.partition("=")
        if not equals:
            raise BadWorkload(f"--workload: {word!r} is not name=value")
        given[name] = value
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        known = ", ".join(kind.__struct_fields__) or "none"
        raise BadWorkload(f"--workload: {error} (fields: {known})") from error
