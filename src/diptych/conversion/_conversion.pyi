"""Types of the compiled kernels; `execution.py` is their face."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Loop = tuple[int, int, int]
Side = tuple[int, Sequence[int], int, Sequence[int], int]
Cast = tuple[bool, Sequence[Loop], Sequence[Loop], Sequence[tuple[int, int]]]
Nest = tuple[Side, Side, Sequence[Loop], int, Cast]

class Converter:
    def __init__(
        self,
        nests: Sequence[Nest],
        source_dtype: str,
        target_dtype: str,
        tokens: int,
        dims: int,
        source_page_bytes: int,
        target_page_bytes: int,
        isa: str,
    ) -> None: ...
    def run(
        self,
        source: Sequence[npt.NDArray[np.uint8]],
        source_pages: npt.NDArray[np.int64],
        target: Sequence[npt.NDArray[np.uint8]],
        target_pages: npt.NDArray[np.int64],
    ) -> None: ...
    @property
    def isa(self) -> str: ...

def runnable_isas() -> list[str]: ...
