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
from diptych.sim.explorer._search import Graph
from diptych.sim.explorer.shapes import Projection, book_of
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
    now_ns: int
    """The time that its own times count from."""
    shape: int
    """Number of its shape."""
    pages: tuple[int, ...]
    """Page numbers that the shape names, in order."""
    free: tuple[int, ...]
    """Its free pages, the next one last."""
    contents: tuple[int, ...] = ()
    """Of a pool, by page: what it holds."""
    books: tuple[int, ...] = ()
    """Of a pool, by page: whose it is and who reads it."""


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
    """All parts that were ever seen, by number; 0 is nobody."""

    def __init__(self, outside: object) -> None:
        self.outside = outside
        self.cells: list[Cell] = [Cell(b"", 0, 0, (), ())]
        self._known: dict[object, int] = {}
        self._shapes: dict[object, int] = {}

    def shape(self, told: object) -> int:
        return self._shapes.setdefault(told, len(self._shapes))

    def freeze(self, graph: Graph, name: str, part: object, now_ns: int) -> tuple[int, bool]:
        """The number of the part, and whether it is new; one that equals an earlier one has its number."""
        projection = Projection(now_ns)
        told = (name, projection.walk(part))
        contents: tuple[int, ...] = ()
        books: tuple[int, ...] = ()
        if isinstance(part, Pool):
            contents = tuple(self.shape((page.filled, page.stamp)) for page in part.pages)
            books = tuple(self.shape(book_of(page)) for page in part.pages)
        pages, free = tuple(projection.pages), tuple(projection.free)
        key = (shape := self.shape(told), pages, free, contents, books)
        known = self._known.get(key)
        if known is not None:
            return known, False
        number = graph.add_cell(shape, list(pages), list(free), list(books), list(contents))
        assert number == len(self.cells)
        self._known[key] = number
        file = io.BytesIO()
        if isinstance(part, Pool):
            file.write(pickle.dumps(part, protocol=5))
        else:
            _Freezer(file, self.outside).dump(part)
        self.cells.append(Cell(file.getvalue(), now_ns, shape, pages, free, contents, books))
        return number, True

    def thaw(self, number: int, pool: Pool | None) -> Any:
        return _Thawer(self.cells[number].blob, self.outside, pool).load()
