"""Runs a plan's copy from pools to pools: native kernels, or the NumPy model of them.

The source's pages are read where they lie (a mapping of another process's pool, or a ring of received
pages) and each byte is written once, to its place in the target's pages.
"""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from diptych.conversion import model
from diptych.wire.kv import Copy, Group
from diptych.wire.kv.nests import Nest, Side

if TYPE_CHECKING:
    from diptych.conversion import _conversion

try:
    from diptych.conversion import _conversion as kernels
except ImportError:  # not compiled: the model does the work, slowly
    kernels = None  # type: ignore[assignment]

__all__ = ["EXECUTORS", "Conversion", "Pool", "instruction_sets"]

EXECUTORS = ("native", "numpy")
Region = memoryview | mmap.mmap | bytearray | bytes | npt.NDArray[np.uint8]
Pool = Region | list[Region] | tuple[Region, ...]
"""Whole pages, page i at i * `Group.region_page_bytes`; one buffer for each region where a format has
several."""
PageIds = Sequence[int] | npt.NDArray[np.integer[Any]]


def instruction_sets() -> list[str]:
    """Those that this CPU and build can convert with, the best first; none where nothing was compiled."""
    return [] if kernels is None else kernels.runnable_isas()


class Conversion:
    """One plan, ready to run: made once for a pair of formats, run for each handoff, in any thread.

    `isa` forces an instruction set, as the environment variable DIPTYCH_ISA does; `executor` is `native`,
    or `numpy` for the model, which is what runs by default where the kernels were not compiled. Raises
    `ValueError` where they are none that can be had.
    """

    def __init__(self, copy: Copy, *, isa: str | None = None, executor: str | None = None) -> None:
        wanted = executor or ("native" if kernels is not None else "numpy")
        if wanted not in EXECUTORS:
            raise ValueError(f"executor: {wanted!r} is none of {', '.join(EXECUTORS)}")
        self.copy = copy
        self._native: _conversion.Converter | None = None
        if wanted == "native":
            if kernels is None:
                raise ValueError("executor: 'native' was not compiled here")
            self._native = kernels.Converter(
                [_nest(nest) for nest in copy.nests],
                copy.source.dtype,
                copy.target.dtype,
                copy.chunk_tokens,
                copy.source.head_dim,
                copy.source.region_page_bytes,
                copy.target.region_page_bytes,
                isa or "",
            )

    @property
    def isa(self) -> str:
        """The instruction set in use; `numpy` for the model."""
        return self._native.isa if self._native is not None else "numpy"

    def run(self, source_pool: Pool, source_pages: PageIds, target_pool: Pool, target_pages: PageIds) -> None:
        """Writes the tokens of `source_pages`, in this order, into `target_pages`, without the GIL.

        The pools must not overlap. Bytes of a target page that the plan does not name (heads of other
        shards) stay as they are. Raises `ValueError`, before a byte is written, where the pages of both
        sides are not as many tokens, an id is outside its pool, or the target cannot be written.
        """
        source, target = _regions("source", source_pool), _regions("target", target_pool)
        for region in target:
            if not region.flags.writeable:
                raise ValueError("target_pool: must be writable")
        read, written = _ids("source", source_pages), _ids("target", target_pages)
        if self._native is not None:
            self._native.run(source, read, target, written)
            return
        self._check(source, read, target, written)
        model.convert(self.copy.source, self.copy.target, source, read, target, written)

    def _check(
        self,
        source: Sequence[npt.NDArray[np.uint8]],
        read: npt.NDArray[np.int64],
        target: Sequence[npt.NDArray[np.uint8]],
        written: npt.NDArray[np.int64],
    ) -> None:
        """What the native converter checks by itself."""
        tokens = len(read) * self.copy.source.page_tokens, len(written) * self.copy.target.page_tokens
        if tokens[0] != tokens[1]:
            raise ValueError(f"pages: {tokens[0]} tokens of the source and {tokens[1]} of the target")
        sides = ("source", self.copy.source, source, read), ("target", self.copy.target, target, written)
        for name, group, regions, ids in sides:
            _check_ids(name, group, regions, ids)


def _check_ids(
    name: str, group: Group, regions: Sequence[npt.NDArray[np.uint8]], ids: npt.NDArray[np.int64]
) -> None:
    if len(regions) < group.regions:
        raise ValueError(f"{name}_pool: {len(regions)} regions, the format has {group.regions}")
    pages = min(region.size for region in regions) // group.region_page_bytes
    for index, page in enumerate(ids):
        if not 0 <= page < pages:
            raise ValueError(f"{name}_pages[{index}]: page {page}, the pool has {pages}")


def _regions(name: str, pool: Pool) -> list[npt.NDArray[np.uint8]]:
    buffers = pool if isinstance(pool, list | tuple) else [pool]
    if not buffers:
        raise ValueError(f"{name}_pool: no region")
    return [np.frombuffer(buffer, np.uint8) for buffer in buffers]


def _ids(name: str, pages: PageIds) -> npt.NDArray[np.int64]:
    ids = np.ascontiguousarray(pages, np.int64)
    if ids.ndim != 1:
        raise ValueError(f"{name}_pages: {ids.ndim} dimensions instead of one")
    return ids


def _side(side: Side) -> _conversion.Side:
    return side.region, side.offsets, side.row_bytes, side.scale_offsets, side.scale_row_bytes


def _nest(
    nest: Nest,
) -> tuple[_conversion.Side, _conversion.Side, list[_conversion.Loop], int, _conversion.Cast]:
    """The nest as the kernels take it."""
    loops, gather, scatter = (
        [(loop.extent, loop.source_stride, loop.target_stride) for loop in loops]
        for loops in (nest.loops, *((nest.cast.gather, nest.cast.scatter) if nest.cast else ((), ())))
    )
    cast = (nest.cast is not None, gather, scatter, nest.cast.scale_strides if nest.cast else ())
    return _side(nest.source), _side(nest.target), loops, nest.run_bytes, cast
