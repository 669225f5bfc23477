"""The engines that a worker process can host, built from its launch message, and their first rates."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import msgspec
import numpy as np

from diptych.core.config import WorkerConfig
from diptych.engine.interface import Engine, Span
from diptych.live.launch import WorkerLaunch
from diptych.models.weights import ModelConfig
from diptych.wire.kv import decode_format

__all__ = ["Rates", "build_engine", "first_rates", "worker_config"]

_PROBE_TOKENS = 32
_PROBE_NS = 100_000_000
"""What each of the two rates may take to measure, beyond two steps."""
_PROBES_MAX = 10


class Rates(msgspec.Struct, frozen=True):
    prefill_ns_per_token: int
    decode_ns_per_step: int


def build_engine(launch: WorkerLaunch, weights: Mapping[str, memoryview]) -> Engine:
    """The engine that `launch` names; `weights`: packed weights by format, for a native one.

    Raises `ValueError`, `ImportError` or `ModelError` where it cannot be built, or where its pages are
    not what the host's pool is made of.
    """
    match launch.engine:
        case "native":
            engine = _native(launch, weights)
        case "torch":
            engine = _torch(launch)
        case "scripted":
            engine = _scripted(launch)
        case other:
            raise ValueError(f"engine: {other!r} is none of native, torch, scripted")
    expected = decode_format(launch.model.kv_format)
    field = engine.kv_format.difference(expected)
    if field is not None:
        raise ValueError(
            f"engine {launch.engine}: its pages differ from the pool's in `{field}` "
            f"({engine.kv_format.field(field)} instead of {expected.field(field)})"
        )
    return engine


def _native(launch: WorkerLaunch, weights: Mapping[str, memoryview]) -> Engine:
    from diptych.engine.native.engine import NativeEngine

    _refuse_options(launch, ())
    config = msgspec.msgpack.decode(launch.model.config, type=ModelConfig)
    return NativeEngine(
        config, weights, launch.model.fingerprint, preferred=launch.format, threads=launch.threads
    )


def _torch(launch: WorkerLaunch) -> Engine:
    import torch

    from diptych.engine.torch.engine import TorchEngine
    from diptych.models.resolve import load

    _refuse_options(launch, ("device",))
    dtypes = {"float32": "float32", "bf16": "bfloat16"}
    if launch.format not in dtypes:
        raise ValueError(f"format: {launch.format!r}; the torch engine knows {', '.join(dtypes)}")
    torch.set_num_threads(launch.threads)
    return TorchEngine(
        load(launch.model.path).model,
        dtype=dtypes[launch.format],
        device=str(launch.options.get("device", "cpu")),
        page_tokens=launch.page_tokens,
    )


def _scripted(launch: WorkerLaunch) -> Engine:
    from diptych.engine.scripted import ScriptedCost, ScriptedEngine

    costs = ScriptedCost.__struct_fields__
    _refuse_options(launch, (*costs, "end_every", "own_format_only"))
    others = () if launch.options.get("own_format_only") else launch.formats
    cost = {name: int(launch.options[name]) for name in costs if name in launch.options}
    return ScriptedEngine(
        model=launch.model.name,
        numerics=(launch.format, *(name for name in others if name != launch.format)),
        page_tokens=launch.page_tokens,
        context_tokens_max=launch.model.context_max,
        cost=ScriptedCost(**cost),
        end_every=int(launch.options.get("end_every", 0)),
    )


def _refuse_options(launch: WorkerLaunch, known: tuple[str, ...]) -> None:
    for name in launch.options:
        if name not in known:
            raise ValueError(
                f"options.{name}: the {launch.engine} engine knows {', '.join(known) or 'no options'}"
            )


def first_rates(engine: Engine) -> Rates:
    """How fast the engine is with its preferred numerics, measured on a pool of its own: what the router
    and the deadlines go by until the first real runs have been timed. The engine's pool is attached
    anew by the caller afterwards."""
    page_tokens = engine.kv_format.page_tokens
    pages = -(-(_PROBE_TOKENS + 1) // page_tokens)
    tokens = np.ones(_PROBE_TOKENS + 1, np.int32)
    table = np.arange(pages, dtype=np.int32)
    # NumPy's own large arrays start at page borders; the slice makes that a rule.
    scratch = np.zeros(pages * engine.kv_format.page_bytes + 4096, np.uint8)
    start = -scratch.ctypes.data % 4096
    engine.attach_pool(scratch[start : start + pages * engine.kv_format.page_bytes].data, pages)

    def timed(first: int, end: int) -> int:
        span = Span(
            first_position=first,
            tokens=tokens[first:end],
            pages=table[: -(-end // page_tokens)],
            numerics=engine.capabilities.numerics[0],
            logits_from=end - first - 1,
        )
        started_ns = time.monotonic_ns()
        engine.step([span])
        return time.monotonic_ns() - started_ns

    prefill_ns = _best(lambda: timed(0, _PROBE_TOKENS))
    decode_ns = _best(lambda: timed(_PROBE_TOKENS, _PROBE_TOKENS + 1))
    return Rates(max(1, prefill_ns // _PROBE_TOKENS), max(1, decode_ns))


def _best(measure: Callable[[], int]) -> int:
    """The shortest of several: the first one warms caches up, and a host that starts up is a busy one."""
    taken = [measure(), measure()]
    while len(taken) < _PROBES_MAX and sum(taken) < _PROBE_NS:
        taken.append(measure())
    return min(taken)


def worker_config(launch: WorkerLaunch, engine: Engine, rates: Rates) -> WorkerConfig:
    """What the worker's machine is built with: the launch message within the engine's capabilities."""
    promised = engine.capabilities
    defaults = {field.name: field.default for field in msgspec.structs.fields(WorkerConfig)}
    return WorkerConfig(
        worker=launch.worker,
        host=launch.host,
        role=launch.role,
        engine=promised.engine,
        models=(launch.model.name,),
        numerics=promised.numerics,
        formats=promised.formats,
        context_tokens_max=min(promised.context_tokens_max, launch.model.context_max),
        page_tokens=launch.page_tokens,
        chunk_tokens=min(defaults["chunk_tokens"], promised.step_tokens_max),
        mixed_chunk_tokens=min(defaults["mixed_chunk_tokens"], promised.step_tokens_max),
        running_max=min(defaults["running_max"], promised.step_spans_max),
        samples=promised.samples,
        invariant_rows=promised.invariant_rows,
        prefill_ns_per_token=rates.prefill_ns_per_token,
        decode_ns_per_step=rates.decode_ns_per_step,
        beat_ns=launch.lease_ns // 3,
        transports=() if launch.exchange is None else ("tcp",),
    )
