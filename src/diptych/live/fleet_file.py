"""Which workers a host runs: from the command line's short form or from a TOML fleet file.

    model = "SmolLM2-135M-Instruct"
    port = 8000

    [[worker]]
    role = "prefill"
    engine = "native"
    format = "int8"

    [[worker]]
    role = "decode"
    engine = "native"
    format = "int4"
    count = 2

The short form of one group of workers is `ENGINE[:FORMAT][xN]`: `native:int4x2`, `torch:bf16`, `scripted`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

ENGINES = ("native", "torch", "scripted")
ROLES = ("prefill", "decode", "both")
FORMATS = {
    "native": ("int8", "int4", "bf16"),
    "torch": ("bf16", "float32"),
    "scripted": ("wide", "narrow"),
}
PREFERRED_FORMATS = {
    "native": {"prefill": "int8", "decode": "int4", "both": "int4"},
    "torch": {"prefill": "float32", "decode": "float32", "both": "float32"},
    "scripted": {"prefill": "wide", "decode": "narrow", "both": "narrow"},
}
WORKERS_MAX = 64
_SHORT_FORM = re.compile(r"(?P<engine>[a-z][a-z_]*)(:(?P<format>[a-z][a-z0-9_]*?))?(x(?P<count>[0-9]+))?")


class FleetError(ValueError):
    """A fleet that cannot be: names the field and what it may be."""


class WorkerGroup(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Workers of one kind, as a person writes them."""

    role: str
    engine: str = "native"
    format: str | None = None
    """None: what the role prefers."""
    count: int = 1
    name: str | None = None
    """Default: `prefill`, `decode` or `both`; workers are called NAME-0, NAME-1, ..."""
    share: int = 1
    """Weight of each worker's part of the pool."""
    options: dict[str, int | float | str] = {}


class FleetFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything a fleet file may say; what it leaves out, the command line or its defaults give."""

    worker: tuple[WorkerGroup, ...] = ()
    model: str | None = None
    host: str | None = None
    port: int | None = None
    pool_mib: int | None = None
    lease_s: float | None = None
    grace_s: float | None = None
    exact_wait_s: float | None = None


class WorkerPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One worker to run."""

    name: str
    role: str
    engine: str
    format: str
    share: int
    core: int | None
    options: dict[str, int | float | str]


def parse_group(text: str, role: str) -> WorkerGroup:
    """`ENGINE[:FORMAT][xN]` of `--prefill` or `--decode`; raises `FleetError`."""
    match = _SHORT_FORM.fullmatch(text)
    if match is None:
        raise FleetError(f"--{role}: {text!r} is not ENGINE[:FORMAT][xN], as in native:int8x2")
    return WorkerGroup(
        role=role,
        engine=match["engine"],
        format=match["format"],
        count=int(match["count"] or 1),
    )


def read_fleet_file(path: Path) -> FleetFile:
    """Raises `FleetError` naming the file and the field, and `OSError` where it cannot be read."""
    try:
        return msgspec.toml.decode(path.read_bytes(), type=FleetFile)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise FleetError(f"{path}: {error}") from error


def default_groups(*, aggregated: bool, engine: str = "native") -> tuple[WorkerGroup, ...]:
    if aggregated:
        return (WorkerGroup(role="both", engine=engine),)
    return (WorkerGroup(role="prefill", engine=engine), WorkerGroup(role="decode", engine=engine))


def plan_workers(groups: Sequence[WorkerGroup], cores: Sequence[int]) -> tuple[WorkerPlan, ...]:
    """The workers of `groups`, those that compute dealt out over `cores` in turn (a scripted worker
    sleeps and is not pinned). Raises `FleetError` naming the field."""
    plans: list[WorkerPlan] = []
    counted: dict[str, int] = {}
    pinned = 0
    for group in groups:
        format_ = _check_group(group)
        name = group.name or group.role
        for _ in range(group.count):
            core = None if group.engine == "scripted" or not cores else cores[pinned % len(cores)]
            pinned += core is not None
            plans.append(
                WorkerPlan(
                    name=f"{name}-{counted.get(name, 0)}",
                    role=group.role,
                    engine=group.engine,
                    format=format_,
                    share=group.share,
                    core=core,
                    options=group.options,
                )
            )
            counted[name] = counted.get(name, 0) + 1
    if not 1 <= len(plans) <= WORKERS_MAX:
        raise FleetError(f"worker: {len(plans)} workers; a host runs 1 to {WORKERS_MAX}")
    if len({plan.engine == "scripted" for plan in plans}) > 1:
        raise FleetError("worker.engine: scripted workers and real ones cannot share a pool")
    return tuple(plans)


def _check_group(group: WorkerGroup) -> str:
    if group.role not in ROLES:
        raise FleetError(f"worker.role: {group.role!r}; one of {', '.join(ROLES)}")
    if group.engine not in ENGINES:
        raise FleetError(f"worker.engine: {group.engine!r}; one of {', '.join(ENGINES)}")
    if not 1 <= group.count <= WORKERS_MAX:
        raise FleetError(f"worker.count: {group.count}; 1 to {WORKERS_MAX}")
    if group.share < 1:
        raise FleetError(f"worker.share: {group.share}; at least 1")
    if group.name is not None and not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,31}", group.name):
        raise FleetError(f"worker.name: {group.name!r}; 1 to 32 of a-z, 0-9, _ and -")
    format_ = group.format or PREFERRED_FORMATS[group.engine][group.role]
    if format_ not in FORMATS[group.engine]:
        known = ", ".join(FORMATS[group.engine])
        raise FleetError(f"worker.format: {format_!r}; {group.engine} knows {known}")
    return format_
