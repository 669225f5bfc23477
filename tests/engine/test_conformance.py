"""`check_engine` over every engine we ship, and proof that it finds what it says it finds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest

from diptych.engine.interface import Engine, SampledToken, SampleRow, SamplingParameters, Span
from diptych.engine.scripted import ScriptedEngine, ScriptedResult
from diptych.models.weights import Model
from diptych.testing import ENGINE_PROPERTIES, SAMPLING_PROPERTIES, EngineTrial, check_engine

PROPERTIES = ENGINE_PROPERTIES + SAMPLING_PROPERTIES


def native_engine(model: Model, threads: int = 1) -> Engine:
    from diptych.engine.native import packing
    from diptych.engine.native.engine import NativeEngine

    weights = {}
    for name in packing.FORMATS:
        memory = np.zeros(packing.packed_bytes(model.config, name) + 64, np.uint8)
        start = -memory.ctypes.data % 64
        weights[name] = memory[start:].data
        packing.pack(model, name, weights[name])
    return NativeEngine(model.config, weights, model.fingerprint, "int8", threads)


def torch_engine(model: Model, dtype: str) -> Engine:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    # Two torch threads on shared cores spend their time waiting for each other.
    torch.set_num_threads(1)
    from diptych.engine.torch import TorchEngine

    return TorchEngine(model, dtype=dtype)


MAKERS: dict[str, Callable[[Model], Engine]] = {
    "scripted": lambda model: ScriptedEngine(),
    "scripted small": lambda model: ScriptedEngine(
        context_tokens_max=64, step_tokens_max=20, step_spans_max=3, page_tokens=8
    ),
    "native 0": native_engine,
    "native 1": native_engine,
    "native 2": native_engine,
    "native 0 on 2 threads": lambda model: native_engine(model, 2),
    "torch float32": lambda model: torch_engine(model, "float32"),
    "torch bfloat16": lambda model: torch_engine(model, "bfloat16"),
}


PARAMETERS = [
    pytest.param(name, marks=pytest.mark.torch if name.startswith("torch") else ()) for name in MAKERS
]


@pytest.fixture(scope="module", params=PARAMETERS)
def trial(request: pytest.FixtureRequest, tiny_model: Model) -> Any:
    engine = MAKERS[request.param](tiny_model)
    index = next((int(word) for word in request.param.split() if word.isdigit()), 0)
    tolerance = 0.05 if request.param.endswith("bfloat16") else 0.02
    yield EngineTrial(engine, engine.capabilities.numerics[index], tolerance=tolerance)
    engine.close()


@pytest.mark.parametrize("check", PROPERTIES, ids=lambda check: check.__name__)
def test_engine_keeps(trial: EngineTrial, check: Callable[[EngineTrial], None]) -> None:
    trial.dirty()
    check(trial)


def test_whole_suite_in_one_call() -> None:
    check_engine(lambda: ScriptedEngine(numerics=("a", "b")), seed=3)


class Mutant(ScriptedEngine):
    """An engine with one thing wrong, named by `fault`."""

    def __init__(self, fault: str) -> None:
        super().__init__(numerics=("a",))
        self.fault = fault
        self.memory = memoryview(b"")

    def attach_pool(self, pool: memoryview, pages: int) -> None:
        self.memory = pool
        super().attach_pool(pool, pages)

    def step(self, spans: Sequence[Span]) -> ScriptedResult:
        if self.fault == "accepts anything":
            spans = [
                msgspec.structs.replace(span, first_position=max(0, span.first_position)) for span in spans
            ]
        result = super().step(spans)
        seeds = result.seeds.copy()
        if self.fault == "depends on the batch" and len(spans) > 3:
            seeds[-1] += np.uint64(1)
        if self.fault == "depends on the chunk" and len(spans[0].tokens) == 3:
            seeds += np.uint64(1)
        if self.fault == "depends on the page":
            seeds += np.uint64(int(spans[0].pages[0]))
        if self.fault == "reads past the end":
            seeds += np.uint64(self.memory[int(spans[0].pages[-1]) * self.kv_format.page_bytes + 127])
        if self.fault == "writes another page":
            free = next(page for page in range(64) if page not in spans[0].pages)
            self.memory[free * self.kv_format.page_bytes] ^= 1
        if self.fault == "keeps a row too many" and len(seeds) > 1:
            seeds = np.concatenate([seeds, seeds[:1]])
        return ScriptedResult(seeds)

    def logits(self, result: Any) -> Any:
        logits = super().logits(result)
        if self.fault == "gives NaN" and len(logits) > 1:
            logits[-1, 5] = np.nan
        return logits

    def sample(self, result: Any, rows: Sequence[SampleRow]) -> list[SampledToken]:
        if self.fault == "draws by row order":
            rows = [msgspec.structs.replace(row, output_index=index) for index, row in enumerate(rows)]
        picks = super().sample(result, rows)
        if self.fault == "tempered logprobs":
            return [
                msgspec.structs.replace(pick, logprob=pick.logprob and pick.logprob / 2) for pick in picks
            ]
        if self.fault == "never greedy":
            return [msgspec.structs.replace(pick, token=pick.token ^ 1) for pick in picks]
        return picks

    def sampler(self, parameters: SamplingParameters, **options: Any) -> Any:
        if self.fault == "forgets emitted tokens":
            options["emitted"] = np.empty(0, np.int32)
        if self.fault == "ignores the seed":
            parameters = msgspec.structs.replace(parameters, seed=0)
        return super().sampler(parameters, **options)

    def score(self, result: Any, first_row: int, targets: Any, top: int) -> list[SampledToken]:
        shift = 1 if self.fault == "scores the wrong row" else 0
        return super().score(result, first_row - shift, targets, top)


@pytest.mark.parametrize(
    ("fault", "caught_by"),
    [
        ("accepts anything", "check_bad_spans"),
        ("depends on the batch", "check_batching"),
        ("depends on the chunk", "check_chunking"),
        ("depends on the page", "check_pages"),
        ("reads past the end", "check_stale_memory"),
        ("writes another page", "check_writes"),
        ("keeps a row too many", "check_kept_rows"),
        ("gives NaN", "check_chunking"),
        ("draws by row order", "check_sampling"),
        ("tempered logprobs", "check_logprobs"),
        ("never greedy", "check_greedy"),
        ("forgets emitted tokens", "check_penalties"),
        ("ignores the seed", "check_sampling"),
        ("scores the wrong row", "check_logprobs"),
    ],
)
def test_a_broken_engine_is_caught_and_named(fault: str, caught_by: str) -> None:
    with pytest.raises(AssertionError, match=rf"properties fail:(.|\n)*{caught_by} \(a\): "):
        check_engine(lambda: Mutant(fault))


def test_a_sound_mutant_passes() -> None:
    check_engine(lambda: Mutant("nothing"))


def test_an_incomplete_promise_is_named() -> None:
    class Unlabelled(ScriptedEngine):
        @property
        def capabilities(self) -> Any:
            return msgspec.structs.replace(super().capabilities, formats=())

    with pytest.raises(AssertionError, match=r"capabilities\.formats \(\) does not match"):
        check_engine(Unlabelled)
