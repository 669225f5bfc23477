"""The books of a prefix tree, added up afresh from its nodes: what every change must have kept."""

from __future__ import annotations

from typing import TYPE_CHECKING

from diptych.core.errors import BrokenInvariant
from diptych.core.pages.node import Node

if TYPE_CHECKING:
    from diptych.core.pages.prefix import PrefixTree


def check_tree(tree: PrefixTree) -> None:
    """Raises `BrokenInvariant` unless every count, order and pin agrees with the nodes themselves."""
    idle = pinned = lent = 0
    for node in tree.nodes():
        count = len(node.pages)
        if not count or count != len(node.hashes):
            raise BrokenInvariant("prefix tree", "a node's pages and hashes differ in number")
        if any(tree.node_at.get(page) is not node for page in node.pages):
            raise BrokenInvariant("prefix tree", "a page is indexed under another node")
        if (node in tree.idle) != (not node.pins and not node.lent):
            raise BrokenInvariant("prefix tree", "idle is not what is neither pinned nor lent")
        below = sum(child.pins for bucket in node.children.values() for child in bucket)
        if below > node.pins:
            raise BrokenInvariant("prefix tree", "a pinned node hangs below an unpinned one")
        if node.detached and not node.pins and not node.lent:
            raise BrokenInvariant("prefix tree", "a page that nobody can find was not freed")
        if node.lent:
            lent += count
        elif node.pins:
            pinned += count
        else:
            idle += count
    if (idle, pinned, lent) != (tree.idle_pages, tree.pinned_pages, tree.lent_pages):
        raise BrokenInvariant("prefix tree", "page counts differ from the nodes'")
    _check_order(tree)


def _check_order(tree: PrefixTree) -> None:
    older: set[Node] = set()
    for node in tree.idle:
        older.add(node)
        parent = node.parent
        while parent is not None:
            if parent in older:
                raise BrokenInvariant("prefix tree", "an idle node is older than one below it")
            parent = parent.parent
