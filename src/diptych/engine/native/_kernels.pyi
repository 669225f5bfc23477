"""Types of the compiled kernels; `engine.py`, `packing.py` and `diptych.engine.sampling` are their face."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from diptych.engine.interface import Tokens

Scored = tuple[int, float | None, tuple[tuple[int, float], ...]]

class Geometry:
    def __init__(self, fields: dict[str, Any]) -> None: ...

class Packer:
    def __init__(self, geometry: Geometry, format: str) -> None: ...
    @property
    def bytes(self) -> int: ...
    def write_header(self, out: npt.NDArray[np.uint8]) -> None: ...
    def pack(
        self,
        out: npt.NDArray[np.uint8],
        slot: str,
        layer: int,
        encoding: str,
        rows: int,
        inputs: int,
        data: npt.NDArray[np.uint8],
    ) -> None: ...

class Core:
    def __init__(
        self, geometry: Geometry, threads: int, cores: Sequence[int], step_tokens_max: int, isa: str
    ) -> None: ...
    def add_weights(self, format: str, packed: npt.NDArray[np.uint8]) -> int: ...
    def attach_pool(self, pool: npt.NDArray[np.uint8], pages: int) -> None: ...
    def step(self, spans: list[tuple[int, int, Tokens, npt.NDArray[np.int32], int | None]]) -> int: ...
    def logits(self, rows: int) -> npt.NDArray[np.float32]: ...
    @property
    def isa(self) -> str: ...

class Sampler: ...

def sampler(
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    repetition_penalty: float,
    frequency_penalty: float,
    presence_penalty: float,
    bias: Sequence[tuple[int, float]],
    logprobs: int,
    seed: int,
    choice: int,
    prompt: Tokens,
    emitted: Tokens,
) -> Sampler: ...
def sample_row(logits: npt.NDArray[np.float32], row: int, sampler: Sampler, output_index: int) -> Scored: ...
def score_rows(
    logits: npt.NDArray[np.float32], first_row: int, targets: Tokens, top: int
) -> list[Scored]: ...
def uniform(seed: int, choice: int, output_index: int) -> float: ...
def philox(counter: Sequence[int], key: Sequence[int]) -> list[int]: ...
def runnable_variants() -> list[str]: ...
def default_variant() -> str: ...
