"""The cost file: what `diptych profile` writes and people write by hand, read by `diptych simulate`.

    {"page_tokens": 16, "page_bytes": 368640,
     "workers": {"native:int8": {"type": "measured", ...}, "*": {"type": "constant", "step_ns": 4000000}},
     "link": {"latency_ns": 100000, "page_ns": 50, "bytes_per_s": 2.5e10, "shared_by": "fleet"},
     "host": {"request_ns": 1500000, "turnaround_ns": 200000, "cores": 2, "slowdown": 1.15}}

A worker takes the entry of its name (`decode-0`), else of its group (`decode`), else of its engine and
format, else of its engine, else `*`.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from diptych.sim.costs.measured import MeasuredCosts
from diptych.sim.costs.model import BadCosts, ConstantCosts, StepCosts
from diptych.sim.costs.roofline import RooflineCosts

Costs = ConstantCosts | MeasuredCosts | RooflineCosts
SHARED_BY = ("fleet", "source", "pair")
ANY_WORKER = "*"


class LinkCosts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What messages take between any two processes, and KV between workers."""

    latency_ns: int = 100_000
    """Of every message."""
    page_ns: int = 0
    """More for each page that a message names."""
    bytes_per_s: float | None = None
    """None: workers share the pool, a handoff moves no KV."""
    shared_by: str = "source"
    """Who shares the bandwidth: all transfers of the `fleet`, those of one `source`, those of a `pair`."""

    def __post_init__(self) -> None:
        if self.shared_by not in SHARED_BY:
            raise BadCosts(f"link.shared_by: {self.shared_by!r}; one of {', '.join(SHARED_BY)}")
        if self.latency_ns < 0 or self.page_ns < 0:
            raise BadCosts(f"link.latency_ns, link.page_ns: {self.latency_ns}, {self.page_ns}; at least 0")
        if self.bytes_per_s is not None and not self.bytes_per_s > 0:
            raise BadCosts(f"link.bytes_per_s: {self.bytes_per_s}; more than 0")


class HostCosts(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a request meets on a host besides engines and messages between machines."""

    request_ns: int = 0
    """From its client to its door, and with the first token back."""
    prompt_token_ns: int = 0
    """More for each token of its prompt."""
    token_ns: int = 0
    """A door's work for one token: those of one step reach their clients one after the other."""
    turnaround_ns: int = 0
    """From the end of a run to the beginning of the worker's next one."""
    cores: int = 0
    """Workers that compute are dealt out over so many, as live; 0: each has its own machine."""
    slowdown: float = 1.0
    """A step takes so many times as long while engines compute on all the other cores."""

    def __post_init__(self) -> None:
        for name in ("request_ns", "prompt_token_ns", "token_ns", "turnaround_ns"):
            if getattr(self, name) < 0:
                raise BadCosts(f"host.{name}: {getattr(self, name)}; at least 0")
        if self.cores < 0:
            raise BadCosts(f"host.cores: {self.cores}; at least 0")
        if not 1 <= self.slowdown <= 100:
            raise BadCosts(f"host.slowdown: {self.slowdown}; 1 to 100")


class CostFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    workers: dict[str, Costs]
    link: LinkCosts = LinkCosts()
    host: HostCosts = HostCosts()
    page_tokens: int = 16
    page_bytes: int = 0
    """KV of a page; 0: not known, bytes are not counted."""
    about: dict[str, str] = {}
    """Of what and where it was measured, for people."""

    def of(self, name: str, engine: str, format_: str) -> StepCosts:
        """Raises `BadCosts` where no entry fits."""
        found = self.named(name, engine, format_) or self.workers.get(ANY_WORKER)
        if found is None:
            known = ", ".join(self.workers) or "none"
            raise BadCosts(
                f"workers: no costs for {name} ({engine}:{format_}), and no '*'; there are {known}"
            )
        return found

    def named(self, name: str, engine: str, format_: str) -> Costs | None:
        """The entry that means this worker or its engine; `*` does not."""
        keys = (name, name.rpartition("-")[0], f"{engine}:{format_}", engine)
        return next((self.workers[key] for key in keys if key in self.workers), None)


def read_costs(path: Path) -> CostFile:
    """Raises `BadCosts` naming the file and the field, and `OSError` where it cannot be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=CostFile)
    except (msgspec.DecodeError, msgspec.ValidationError, BadCosts) as error:
        raise BadCosts(f"{path}: {error}") from error


def write_costs(path: Path, costs: CostFile) -> None:
    path.write_bytes(msgspec.json.format(msgspec.json.encode(costs), indent=1) + b"\n")
