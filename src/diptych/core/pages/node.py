"""A run of consecutive pages computed by one numerics: the node of the prefix tree."""

from __future__ import annotations

from diptych.core.ids import Incarnation, PageHash

Freed = tuple[Incarnation | None, list[int]]
"""Pages that left the tree and whose they are: None for our own, which are free now."""


class Node:
    # fmt: off
    __slots__ = (
        "children", "detached", "former", "hashes", "lent", "numerics", "owner", "pages", "parent", "pins"
    )
    # fmt: on

    def __init__(
        self,
        parent: Node | None,
        hashes: tuple[PageHash, ...],
        pages: list[int],
        numerics: str,
        owner: Incarnation | None,
    ) -> None:
        self.parent = parent
        self.hashes = hashes
        self.pages = pages
        self.numerics = numerics
        self.owner = owner
        """The worker whose page it is, None for our own."""
        self.children: dict[PageHash, list[Node]] = {}
        self.pins = 0
        self.lent: dict[Incarnation, None] = {}
        self.detached = False
        """Evicted from under a lent node: no longer found, freed when its last claim ends."""
        self.former: Node | None = None
        """Its last parent before it was hung elsewhere: users of then read those pages still, so that
        path stays pinned as long as this node is."""


def common_length(run: tuple[PageHash, ...], hashes: tuple[PageHash, ...], index: int, length: int) -> int:
    """How many of the first `length` hashes agree. Hashes chain, so the last that agrees decides."""
    if length <= 0:
        return 0
    if run[length - 1] == hashes[index + length - 1]:
        return length
    low, high = 0, length - 1
    while low < high:
        middle = (low + high) // 2
        if run[middle] == hashes[index + middle]:
            low = middle + 1
        else:
            high = middle
    return low
