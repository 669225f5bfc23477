"""Parts of states, each stored once: most events change one or two parts, and most parts recur.

A machine keeps its constants of state by identity, so these, the world and the pool are left out of a
snapshot and put back when it is restored.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import msgspec

from diptych.core.control import request as control_states
from diptych.core.worker import sequence as worker_states
from diptych.sim.explorer.shapes import Projection
from diptych.sim.pool import Pool

CONSTANTS = {
    value: value
    for module in (control_states, worker_states)
    for name, value in vars(module).items()
    if name.isupper() and isinstance(value, str)
}


class Cell(msgspec.Struct, frozen=True):
    """One part of a state."""

    blob: bytes
    shape: int
    """Number of its shape."""
    pages: tuple[int, ...]
    """Page numbers that the shape names, in order."""
    free: tuple[int, ...]
    """Its free pages, the next one last."""
    now_ns: int
    """The time that its own times count from."""
    contents: tuple[tuple[int, int], ...] = ()
    """Of a pool, by page: what it holds."""
    books: tuple[int, ...] = ()
    """Of a pool, by page: the number of the shape of whose it is and who reads it."""


class _Freezer(pickle.Pickler):
    def __init__(self, file: io.BytesIO, outside: object) -> None:
        super().__init__(file, protocol=5)
        self.outside = outside

    def persistent_id(self, value: object) -> str | None:
        if type(value) is str:
            return value if value in CONSTANTS else None
        if value is self.outside:
            return "/outside"
        return "/pool" if type(value) is Pool else None


class _Thawer(pickle.Unpickler):
    def __init__(self, blob: bytes, outside: object, pool: Pool | None) -> None:
        super().__init__(io.BytesIO(blob))
        self.outside = outside
        self.pool = pool

    def persistent_load(self, name: str) -> object:
        if name == "/outside":
            return self.outside
        return self.pool if name == "/pool" else CONSTANTS[name]


class Cells:
    """All parts that were ever seen."""

    def __init__(self, outside: object) -> None:
        self.outside = outside
        self.cells: list[Cell] = []
        self._known: dict[object, int] = {}
        self._shapes: dict[object, int] = {}

    def shape(self, told: object) -> int:
        return self._shapes.setdefault(told, len(self._shapes))

    def freeze(self, part: object, now_ns: int) -> int:
        """The number of the part; a part that equals an earlier one has its number."""
        projection = Projection(now_ns)
        told = projection.walk(part)
        contents: tuple[tuple[int, int], ...] = ()
        books: tuple[int, ...] = ()
        if isinstance(part, Pool):
            contents = tuple((page.filled, page.stamp) for page in part.pages)
            books = tuple(self.shape(Projection(now_ns).walk(page)) for page in part.pages)
        pages, free = tuple(projection.pages), tuple(projection.free)
        key = (self.shape(told), pages, free, contents, books)
        number = self._known.get(key)
        if number is None:
            number = self._known[key] = len(self.cells)
            file = io.BytesIO()
            if isinstance(part, Pool):
                file.write(pickle.dumps(part, protocol=5))
            else:
                _Freezer(file, self.outside).dump(part)
            self.cells.append(Cell(file.getvalue(), key[0], pages, free, now_ns, contents, books))
        return number

    def thaw(self, number: int, pool: Pool | None) -> Any:
        return _Thawer(self.cells[number].blob, self.outside, pool).load()
