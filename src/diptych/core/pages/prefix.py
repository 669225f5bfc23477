"""The prefix tree of one worker: sealed pages by what they hold, who uses them, and which may go first.

A node is a run of consecutive pages computed by one numerics. The path from the root spells a prompt:
page hashes chain (a page's hash covers all before it), and a page also matches only where the numerics
of every page above it match, because the path says so. Two nodes may hold the same tokens by different
numerics; they are different pages.

    root -- [A B C | int8] -- [D E | int4]          a first turn and its answer
                    \\-- [D'   | int8]                another continuation of A B C

A node is *pinned* by every live user whose path passes through it, *lent* while another worker has a
paid claim on it, and otherwise *idle*: cached, and first to go when pages are short. Idle nodes are
kept in order of last use, every child before its parent.
"""

from __future__ import annotations

from collections import OrderedDict

from diptych.core.errors import BrokenInvariant
from diptych.core.ids import Incarnation, PageHash
from diptych.core.pages.audit import check_tree
from diptych.core.pages.node import Freed, Node, common_length
from diptych.core.recipe import Recipe, run_at


class PrefixTree:
    """Knows pages only by number; whether a page is free or whose it becomes is the ledger's matter."""

    def __init__(self, page_tokens: int) -> None:
        self.page_tokens = page_tokens
        self.root = Node(None, (), [], "", None)
        self.node_at: dict[int, Node] = {}
        self.idle: OrderedDict[Node, None] = OrderedDict()
        self.idle_pages = 0
        self.idle_foreign_pages = 0
        self.pinned_pages = 0
        self.lent_pages = 0

    # ---- finding ----------------------------------------------------------------------------------

    def match(
        self,
        hashes: tuple[PageHash, ...],
        recipe: Recipe = (),
        *,
        above: Node | None = None,
        first_page: int = 0,
    ) -> list[tuple[Node, int]]:
        """Longest cached path of `hashes` below `above`, as (node, pages of it that match).

        With a recipe, pages count only where their numerics are the recipe's.
        """
        node = above or self.root
        path: list[tuple[Node, int]] = []
        index, total = 0, len(hashes)
        while index < total:
            child, limit = self._choose(node, hashes[index], recipe, first_page + index)
            if child is None:
                break
            length = min(len(child.hashes), total - index, limit)
            matched = common_length(child.hashes, hashes, index, length)
            path.append((child, matched))
            if matched < len(child.hashes):
                break
            node = child
            index += matched
        return path

    def _choose(self, node: Node, key: PageHash, recipe: Recipe, page: int) -> tuple[Node | None, int]:
        bucket = node.children.get(key)
        if not bucket:
            return None, 0
        if not recipe:
            return bucket[0], 1 << 30
        run = run_at(recipe, page * self.page_tokens)
        for child in bucket:
            if child.numerics == run.numerics:
                return child, run.end // self.page_tokens - page
        return None, 0

    def acquire(
        self,
        hashes: tuple[PageHash, ...],
        recipe: Recipe = (),
        *,
        above: Node | None = None,
        first_page: int = 0,
    ) -> tuple[Node, list[int]]:
        """Pins the longest cached path; returns its last node (or `above`) and the pages below `above`.

        The whole path up to the root is pinned once more, also the part above `above`.
        """
        leaf = above or self.root
        pages: list[int] = []
        if hashes and hashes[0] in leaf.children:
            for node, matched in self.match(hashes, recipe, above=above, first_page=first_page):
                if matched == 0:
                    break
                leaf = self._split(node, matched) if matched < len(node.pages) else node
                pages += leaf.pages
        self.pin(leaf)
        return leaf, pages

    # ---- use --------------------------------------------------------------------------------------

    def pin(self, leaf: Node) -> None:
        node: Node = leaf
        while node.parent is not None:
            node.pins += 1
            if node.pins == 1 and not node.lent:
                self._wake(node)
                self.pinned_pages += len(node.pages)
            node = node.parent

    def _pin_one(self, node: Node) -> None:
        node.pins += 1
        if node.pins == 1 and not node.lent:
            self._wake(node)
            self.pinned_pages += len(node.pages)

    def unpin(self, leaf: Node) -> list[Freed]:
        """Ends one use of a path. Returns the pages that nobody can find any more."""
        freed: list[Freed] = []
        node: Node = leaf
        while node.parent is not None:
            node.pins -= 1
            if node.pins == 0 and not node.lent:
                self.pinned_pages -= len(node.pages)
                if node.detached:
                    freed.append(self._forget(node))
                else:
                    self._rest(node)
            if node.former is not None and node.pins == 0:
                former, node.former = node.former, None
                freed += self.unpin(former)
            node = node.parent
        return freed

    def _rest(self, node: Node) -> None:
        self.idle[node] = None
        self.idle_pages += len(node.pages)
        if node.owner is not None:
            self.idle_foreign_pages += len(node.pages)

    def _wake(self, node: Node) -> None:
        del self.idle[node]
        self.idle_pages -= len(node.pages)
        if node.owner is not None:
            self.idle_foreign_pages -= len(node.pages)

    def _forget(self, node: Node) -> Freed:
        for page in node.pages:
            del self.node_at[page]
        return node.owner, node.pages

    def extend(
        self,
        leaf: Node,
        hashes: tuple[PageHash, ...],
        pages: list[int],
        numerics: str,
        owner: Incarnation | None = None,
    ) -> tuple[Node, list[int]]:
        """Adds sealed pages below a leaf the caller has pinned, and moves the caller's pin down to them.

        Returns the new leaf and the pages that now stand for `hashes`: where the same content was
        there already those are the tree's, and the caller's own are not taken. Pages that were detached
        here, and come back as another worker's offer, hang where they can be found again.
        """
        if hashes and hashes[0] not in leaf.children and self.node_at.keys().isdisjoint(pages):
            return self._hang(leaf, hashes, pages, numerics, owner), pages
        standing: list[int] = []
        index, total = 0, len(hashes)
        while index < total:
            child = None
            for candidate in leaf.children.get(hashes[index], ()):
                if candidate.numerics == numerics:
                    child = candidate
            if child is not None:
                matched = common_length(child.hashes, hashes, index, min(len(child.hashes), total - index))
                if matched < len(child.pages):
                    child = self._split(child, matched)
                self._pin_one(child)
            elif pages[index] in self.node_at:
                child = self._reattach(leaf, tuple(pages[index:]))
                self._pin_one(child)
            else:
                end = total
                if not self.node_at.keys().isdisjoint(pages[index:]):
                    end = next(i for i in range(index, total) if pages[i] in self.node_at)
                child = self._hang(leaf, hashes[index:end], pages[index:end], numerics, owner)
            standing += child.pages
            leaf = child
            index += len(child.pages)
        return leaf, standing

    def _hang(
        self,
        leaf: Node,
        hashes: tuple[PageHash, ...],
        pages: list[int],
        numerics: str,
        owner: Incarnation | None,
    ) -> Node:
        child = Node(leaf, hashes, pages, numerics, owner)
        child.pins = 1
        self.pinned_pages += len(pages)
        self._adopt(leaf, child)
        return child

    def _reattach(self, leaf: Node, pages: tuple[int, ...]) -> Node:
        """The detached node that `pages` begin with, below `leaf` from now on, with all its uses."""
        node = self._run(pages, 0)
        former = node.parent
        if not node.detached or former is None:
            raise BrokenInvariant("prefix tree", f"page {pages[0]} stands under two prompts")
        if former is not leaf and node.pins:
            node.former = former
            self.pin(former)
            for _ in range(node.pins):
                self.pin(leaf)
                self.unpin(former)
        node.parent = leaf
        node.detached = False
        self._adopt(leaf, node)
        return node

    def hang_detached(
        self, leaf: Node, hashes: tuple[PageHash, ...], pages: list[int], numerics: str
    ) -> Node:
        """As `extend`, for pages whose context is not in this tree: claimed by others, found by nobody."""
        child = Node(leaf, hashes, pages, numerics, None)
        child.detached = True
        child.pins = 1
        self.pinned_pages += len(pages)
        self.node_at |= dict.fromkeys(pages, child)
        return child

    def _adopt(self, parent: Node, child: Node) -> None:
        parent.children.setdefault(child.hashes[0], []).append(child)
        node_at = self.node_at
        for page in child.pages:
            node_at[page] = child

    def _split(self, node: Node, count: int) -> Node:
        """Cuts a node after `count` pages. The node keeps the lower part (pins name their last node);
        returns the new upper one."""
        parent = node.parent
        assert parent is not None
        upper = Node(parent, node.hashes[:count], node.pages[:count], node.numerics, node.owner)
        upper.pins = node.pins
        upper.lent = dict(node.lent)
        upper.detached = node.detached
        bucket = parent.children.get(node.hashes[0], [])
        if node in bucket:
            bucket[bucket.index(node)] = upper
        node.hashes = node.hashes[count:]
        node.pages = node.pages[count:]
        node.parent = upper
        if not node.detached:
            upper.children[node.hashes[0]] = [node]
        self.node_at.update(dict.fromkeys(upper.pages, upper))
        if node in self.idle:
            self.idle.move_to_end(node)
            self.idle[upper] = None
            self._reorder_above(upper)
        return upper

    # ---- letting go -------------------------------------------------------------------------------

    def evict(self, pages_max: int) -> Freed | None:
        """Takes up to `pages_max` pages from the end of the least recently used idle run.

        Returns (owner, pages), or None where nothing is idle."""
        node = next(iter(self.idle), None)
        if node is None:
            return None
        if node.children:
            self._detach_lent(node)
        self._wake(node)
        left = max(0, len(node.pages) - pages_max)
        taken = node.pages[left:]
        for page in taken:
            del self.node_at[page]
        if not left:
            self._unlink(node)
        else:
            node.pages, node.hashes = node.pages[:left], node.hashes[:left]
            self._rest(node)
            self.idle.move_to_end(node, last=False)
        return node.owner, taken

    def _unlink(self, node: Node) -> None:
        parent = node.parent
        assert parent is not None
        bucket = parent.children[node.hashes[0]]
        bucket.remove(node)
        if not bucket:
            del parent.children[node.hashes[0]]

    def _detach_lent(self, node: Node) -> None:
        """What hangs below the oldest idle node can only be lent: it lives on, but is found no more."""
        for bucket in node.children.values():
            for child in bucket:
                if not child.lent:
                    raise BrokenInvariant("prefix tree", "an idle node is older than its idle child")
                child.detached = True
                self._detach_lent(child)
        node.children.clear()

    # ---- claims of others -------------------------------------------------------------------------

    def lend(self, claimant: Incarnation, pages: tuple[int, ...]) -> None:
        for node in self._runs(pages):
            if not node.lent:
                if node.pins:
                    self.pinned_pages -= len(node.pages)
                else:
                    self._wake(node)
                self.lent_pages += len(node.pages)
            node.lent[claimant] = None

    def take_back(self, claimant: Incarnation, pages: tuple[int, ...]) -> list[Freed]:
        """Ends a claim. Returns the pages that nobody can find any more."""
        freed: list[Freed] = []
        for node in self._runs(pages):
            del node.lent[claimant]
            if node.lent:
                continue
            self.lent_pages -= len(node.pages)
            if node.pins:
                self.pinned_pages += len(node.pages)
            elif node.detached:
                freed.append(self._forget(node))
            else:
                self._rest(node)
                if node.parent is not self.root:
                    self._reorder_above(node)
        return freed

    def _reorder_above(self, node: Node) -> None:
        """A node that rests again must not be younger than its idle ancestors."""
        parent = node.parent
        while parent is not None:
            if parent in self.idle:
                self.idle.move_to_end(parent)
            parent = parent.parent

    def lent_to(self, claimant: Incarnation) -> tuple[int, ...]:
        return tuple(page for node in self.nodes() if claimant in node.lent for page in node.pages)

    def _runs(self, pages: tuple[int, ...]) -> list[Node]:
        """Nodes that hold exactly `pages` (in prompt order), splitting where a border falls inside."""
        runs: list[Node] = []
        index = 0
        while index < len(pages):
            runs.append(self._run(pages, index))
            index += len(runs[-1].pages)
        return runs

    def _run(self, pages: tuple[int, ...], index: int) -> Node:
        """The node that holds a run of `pages` from this index on, and nothing else."""
        node = self.node_at[pages[index]]
        if len(node.pages) == 1:
            return node
        offset = node.pages.index(pages[index])
        if offset:
            self._split(node, offset)
        count = limit = min(len(node.pages), len(pages) - index)
        if node.pages[:limit] != list(pages[index : index + limit]):
            count = next(n for n in range(limit) if node.pages[n] != pages[index + n])
        return self._split(node, count) if count < len(node.pages) else node

    # ---- claims on others -------------------------------------------------------------------------

    def foreign(self, owner: Incarnation) -> list[int]:
        return [page for page, node in self.node_at.items() if node.owner == owner]

    def change_owner(self, pages: list[int], owner: Incarnation | None) -> None:
        remaining = set(pages)
        for page in pages:
            if page not in remaining:
                continue
            node = self.node_at[page]
            if not remaining.issuperset(node.pages):
                node = self._run((page,), 0)
            remaining.difference_update(node.pages)
            if node in self.idle:
                self.idle_foreign_pages += len(node.pages) * ((owner is not None) - (node.owner is not None))
            node.owner = owner

    # ---- books ------------------------------------------------------------------------------------

    def nodes(self) -> list[Node]:
        return list(dict.fromkeys(self.node_at.values()))

    def check(self) -> None:
        """Raises `BrokenInvariant` unless every count, order and pin agrees with the nodes themselves."""
        check_tree(self)
