"""The prefix tree against the obvious model: a dictionary from every path to its page."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from diptych.core.pages.node import Freed, Node
from diptych.core.pages.prefix import PrefixTree
from diptych.core.recipe import OPEN_END, Recipe, join, numerics_at

PAGE = 4
Path = tuple[tuple[bytes, str], ...]
PROMPTS = st.text(alphabet="ab", max_size=7)
RECIPES = st.sampled_from(
    [join(("int8", OPEN_END)), join(("int4", OPEN_END)), join(("int8", 2 * PAGE), ("int4", OPEN_END))]
)


def hashes_of(prompt: str) -> tuple[bytes, ...]:
    return tuple(prompt[: end + 1].encode() for end in range(len(prompt)))


def path_of(hashes: tuple[bytes, ...], recipe: Recipe) -> Path:
    return tuple((name, numerics_at(recipe, index * PAGE)) for index, name in enumerate(hashes))


def pages_of(freed: list[Freed]) -> list[int]:
    assert all(owner is None for owner, _ in freed)
    return [page for _, pages in freed for page in pages]


class User:
    def __init__(self, leaf: Node, path: Path, pages: list[int]) -> None:
        self.leaf = leaf
        self.path = path
        self.pages = pages


class PrefixTreeAgainstModel(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.tree = PrefixTree(PAGE)
        self.found: dict[Path, int] = {}
        self.lost: dict[int, Path] = {}
        """Detached pages: evicted from under, alive while lent or pinned."""
        self.users: list[User] = []
        self.loans: list[tuple[str, tuple[int, ...]]] = []
        self.fresh = 0

    def pins(self) -> Counter[int]:
        return Counter(page for user in self.users for page in user.pages)

    def lent(self) -> set[int]:
        return {page for _, pages in self.loans for page in pages}

    @rule(prompt=PROMPTS, recipe=RECIPES)
    def acquire(self, prompt: str, recipe: Recipe) -> None:
        path = path_of(hashes_of(prompt), recipe)
        expected = []
        while len(expected) < len(path) and path[: len(expected) + 1] in self.found:
            expected.append(self.found[path[: len(expected) + 1]])
        leaf, pages = self.tree.acquire(hashes_of(prompt), recipe)
        assert pages == expected
        self.users.append(User(leaf, path[: len(pages)], pages))

    @precondition(lambda self: self.users)
    @rule(
        data=st.data(),
        tail=st.text(alphabet="ab", min_size=1, max_size=4),
        numerics=st.sampled_from(["int8", "int4"]),
    )
    def extend(self, data: st.DataObject, tail: str, numerics: str) -> None:
        user = data.draw(st.sampled_from(self.users))
        if any(page in self.lost for page in user.pages):
            return
        head = user.path[-1][0].decode() if user.path else ""
        hashes = hashes_of(head + tail)[len(head) :]
        mine = list(range(self.fresh, self.fresh + len(hashes)))
        self.fresh += len(hashes)
        path, expected = user.path, []
        for name, page in zip(hashes, mine, strict=True):
            path = (*path, (name, numerics))
            expected.append(self.found.setdefault(path, page))
        user.leaf, standing = self.tree.extend(user.leaf, hashes, mine, numerics)
        assert standing == expected
        user.path = path
        user.pages = user.pages + standing

    @precondition(lambda self: self.users)
    @rule(data=st.data())
    def unpin(self, data: st.DataObject) -> None:
        user = self.users.pop(data.draw(st.integers(0, len(self.users) - 1)))
        freed = pages_of(self.tree.unpin(user.leaf))
        gone = {page for page in user.pages if page in self.lost} - self.lent() - set(self.pins())
        assert sorted(freed) == sorted(gone)
        for page in gone:
            del self.lost[page]

    @rule(count=st.integers(1, 5))
    def evict(self, count: int) -> None:
        idle = set(self.found.values()) - self.lent() - set(self.pins())
        evicted = self.tree.evict(count)
        if evicted is None:
            assert idle == set()
            return
        owner, pages = evicted
        assert owner is None
        assert 1 <= len(pages) <= count
        assert set(pages) <= idle
        for path in [path for path, page in self.found.items() if page in pages]:
            del self.found[path]
        for path, page in list(self.found.items()):
            if any(path[:end] not in self.found for end in range(1, len(path))):
                assert page in self.lent(), "a page below an evicted one was not lent"
                del self.found[path]
                self.lost[page] = path

    @precondition(lambda self: any(user.pages for user in self.users))
    @rule(data=st.data(), claimant=st.sampled_from("XY"))
    def lend(self, data: st.DataObject, claimant: str) -> None:
        user = data.draw(st.sampled_from([user for user in self.users if user.pages]))
        first = data.draw(st.integers(0, len(user.pages) - 1))
        pages = tuple(user.pages[first : data.draw(st.integers(first + 1, len(user.pages)))])
        held = {page for name, loan in self.loans if name == claimant for page in loan}
        if held.isdisjoint(pages):
            self.tree.lend(claimant, pages)
            self.loans.append((claimant, pages))

    @precondition(lambda self: self.loans)
    @rule(data=st.data())
    def take_back(self, data: st.DataObject) -> None:
        claimant, pages = self.loans.pop(data.draw(st.integers(0, len(self.loans) - 1)))
        freed = pages_of(self.tree.take_back(claimant, pages))
        gone = {page for page in pages if page in self.lost} - self.lent() - set(self.pins())
        assert sorted(freed) == sorted(gone)
        for page in gone:
            del self.lost[page]

    @invariant()
    def books_agree(self) -> None:
        self.tree.check()
        lent, pinned = self.lent(), set(self.pins())
        everything = set(self.found.values()) | set(self.lost)
        assert set(self.tree.node_at) == everything
        assert self.tree.lent_pages == len(lent)
        assert self.tree.pinned_pages == len(pinned - lent)
        assert self.tree.idle_pages == len(everything - pinned - lent)


TestPrefixTree = PrefixTreeAgainstModel.TestCase
TestPrefixTree.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def filled(*prompts: str) -> tuple[PrefixTree, dict[str, int]]:
    """A tree of idle int8 paths, used in the order given; also the page of each prefix."""
    tree, page_of = PrefixTree(PAGE), {}
    for prompt in prompts:
        leaf, held = tree.acquire(hashes_of(prompt), join(("int8", OPEN_END)))
        fresh = list(range(len(page_of), len(page_of) + len(prompt) - len(held)))
        leaf, pages = tree.extend(leaf, hashes_of(prompt)[len(held) :], fresh, "int8")
        page_of |= {prompt[: len(held) + i + 1]: page for i, page in enumerate(pages)}
        tree.unpin(leaf)
    return tree, page_of


def test_eviction_takes_the_least_recently_used_from_its_end() -> None:
    tree, page_of = filled("aaa", "bbb")
    assert tree.evict(2) == (None, [page_of["aa"], page_of["aaa"]])
    assert tree.evict(9) == (None, [page_of["a"]])
    assert tree.evict(9) == (None, [page_of["b"], page_of["bb"], page_of["bbb"]])
    assert tree.evict(1) is None


def test_a_shared_start_outlives_the_older_branch() -> None:
    tree, page_of = filled("aab", "aaa")
    assert tree.evict(9) == (None, [page_of["aab"]])


def test_pages_of_other_numerics_are_no_hit() -> None:
    tree, _ = filled("aaa")
    _, pages = tree.acquire(hashes_of("aaa"), join(("int4", OPEN_END)))
    assert pages == []


def test_a_recipe_that_changes_numerics_inside_a_run_matches_up_to_the_change() -> None:
    tree, page_of = filled("aaa")
    _, pages = tree.acquire(hashes_of("aaa"), join(("int8", 2 * PAGE), ("int4", OPEN_END)))
    assert pages == [page_of["a"], page_of["aa"]]


def test_a_claimed_page_under_an_evicted_one_lives_until_its_claim_ends() -> None:
    tree, page_of = filled("ab")
    tree.lend("other@1", (page_of["ab"],))
    assert tree.evict(5) == (None, [page_of["a"]])
    assert tree.acquire(hashes_of("ab"), join(("int8", OPEN_END)))[1] == []
    assert tree.take_back("other@1", (page_of["ab"],)) == [(None, [page_of["ab"]])]
    tree.check()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_path_is_found_whole_or_in_part(count: int) -> None:
    tree, page_of = filled("abab")
    _, pages = tree.acquire(hashes_of("abab"[:count] + "bbb"[: 4 - count]), join(("int8", OPEN_END)))
    common = next(n for n in range(5) if n == 4 or "abab"[n] != ("abab"[:count] + "bbb"[: 4 - count])[n])
    assert pages == [page_of["abab"[: n + 1]] for n in range(common)]


def test_a_detached_page_that_is_offered_back_is_found_again() -> None:
    tree, page_of = filled("abc")
    lent = (page_of["ab"], page_of["abc"])
    tree.lend("other@1", lent)
    assert tree.evict(5) == (None, [page_of["a"]])
    leaf, _ = tree.acquire((), ())
    leaf, standing = tree.extend(leaf, hashes_of("abc"), [9, *lent], "int8", "other@1")
    assert standing == [9, *lent]
    tree.check()
    assert tree.acquire(hashes_of("abc"), join(("int8", OPEN_END)))[1] == [9, *lent]
    assert tree.take_back("other@1", lent) == []
    tree.check()


def test_a_detached_page_may_come_back_before_pages_that_were_never_here() -> None:
    tree, page_of = filled("ab")
    tree.lend("other@1", (page_of["ab"],))
    assert tree.evict(5) == (None, [page_of["a"]])
    leaf, _ = tree.acquire((), ())
    pages = [9, page_of["ab"], 10, 11]
    leaf, standing = tree.extend(leaf, hashes_of("abcd"), pages, "int8", "other@1")
    assert standing == pages
    tree.check()


def test_pages_that_are_hung_elsewhere_keep_those_that_their_users_read_before_them() -> None:
    """A source computes upon lent context; its target keeps the last page only, and offers it back."""
    tree = PrefixTree(PAGE)
    root, _ = tree.acquire((), ())
    task = tree.hang_detached(root, hashes_of("abc")[1:2], [1], "int8")
    task = tree.hang_detached(task, hashes_of("abc")[2:], [2], "int8")
    other, standing = tree.extend(root, hashes_of("abc"), [8, 9, 2], "int8", "other@1")
    assert standing == [8, 9, 2]
    tree.check()
    assert tree.node_at[1].pins == 1
    assert tree.unpin(other) == []
    assert tree.node_at[1].pins == 1
    assert tree.unpin(task) == [(None, [1])]
    assert (tree.pinned_pages, tree.idle_pages) == (0, 3)
    tree.check()


def test_pages_computed_upon_lent_context_are_found_once_their_context_is_here() -> None:
    tree = PrefixTree(PAGE)
    root, _ = tree.acquire((), ())
    task = tree.hang_detached(root, hashes_of("abc")[1:], [1, 2], "int8")
    leaf, standing = tree.extend(root, hashes_of("abc"), [0, 1, 2], "int8")
    assert standing == [0, 1, 2]
    tree.check()
    assert tree.unpin(leaf) == []
    assert tree.pinned_pages == 3
    assert tree.unpin(task) == []
    assert tree.idle_pages == 3
    tree.check()
