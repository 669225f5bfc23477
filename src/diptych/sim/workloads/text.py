"""Texts by identity instead of content: which pages two of them share, and nothing else.

A text is a chain of named pieces. A page is known by the piece its last token lies in, by all pieces
before that one, and by where it ends: texts that begin with the same pieces share the pages within them.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Sequence
from operator import add

from diptych.core.ids import PageHash

_SEED_BYTES = 12
_END_BYTES = 4


class Text:
    """Immutable; `then` makes longer ones."""

    __slots__ = ("_ends", "_seeds", "tokens")

    def __init__(self, ends: tuple[int, ...] = (), seeds: tuple[bytes, ...] = ()) -> None:
        self._ends = ends
        self._seeds = seeds
        self.tokens = ends[-1] if ends else 0

    def pieces(self) -> tuple[tuple[bytes, int], ...]:
        """(identity, tokens) of each piece: texts share what they begin with, identities do."""
        starts = (0, *self._ends)
        return tuple(
            (seed, end - start) for seed, start, end in zip(self._seeds, starts, self._ends, strict=False)
        )

    def then(self, piece: str, tokens: int) -> Text:
        """This text and then `tokens` tokens of the named piece."""
        if tokens <= 0:
            return self
        return Text((*self._ends, self.tokens + tokens), (*self._seeds, self._seed(piece)))

    def _seed(self, piece: str) -> bytes:
        before = self._seeds[-1] if self._seeds else b""
        words = before + f"{self.tokens}/{piece}".encode()
        return hashlib.blake2b(words, digest_size=_SEED_BYTES).digest()

    def page_hashes(self, page_tokens: int, end: int, first_page: int = 0) -> tuple[PageHash, ...]:
        """Of the full pages of the first `end` tokens, from page `first_page` on."""
        count = end // page_tokens
        if count <= first_page:
            return ()
        borders, marks = _borders(page_tokens, count)
        ends, seeds = self._ends, self._seeds
        if not first_page and ends[:count] == borders:
            # Blocks of a trace, each of them a page.
            return tuple(map(add, seeds, marks))
        piece = bisect_left(ends, (first_page + 1) * page_tokens)
        hashes: list[PageHash] = []
        for page in range(first_page, count):
            while ends[piece] < borders[page]:
                piece += 1
            hashes.append(seeds[piece] + marks[page])
        return tuple(hashes)

    def answer_hashes(self, piece: str, tokens: int, page_tokens: int) -> tuple[PageHash, ...]:
        """Of the full pages of this prompt and `tokens` tokens of an answer to it, but for the answer's last
        token, after those that answers share: `then(piece, tokens).page_hashes(...)`, without the text."""
        shared, end = (self.tokens - 1) // page_tokens, self.tokens + tokens - 1
        count = end // page_tokens
        if count <= shared:
            return ()
        marks = _borders(page_tokens, count)[1]
        seed = self._seed(piece)
        # A prompt that ends with a page ends it by itself.
        first = self._seeds[-1] if (shared + 1) * page_tokens == self.tokens else seed
        return (first + marks[shared], *[seed + mark for mark in marks[shared + 1 :]])


_known_borders: dict[int, tuple[tuple[int, ...], tuple[bytes, ...]]] = {}


def _borders(page_tokens: int, count: int) -> tuple[tuple[int, ...], tuple[bytes, ...]]:
    """(where they end, the same as bytes) of the first `count` pages."""
    ends, marks = _known_borders.get(page_tokens, ((), ()))
    if len(ends) < count:
        last = max(count, 2 * len(ends)) * page_tokens
        ends = tuple(range(page_tokens, last + 1, page_tokens))
        marks = tuple(end.to_bytes(_END_BYTES, "big") for end in ends)
        _known_borders[page_tokens] = ends, marks
    return ends[:count], marks[:count]


def block_text(ids: Sequence[int], block_tokens: int, tokens: int) -> Text:
    """The text of a trace that names each block by a number which stands for all tokens up to its end.

    Raises `ValueError` where there are fewer blocks than `tokens` fill."""
    needed = -(-tokens // block_tokens)
    if len(ids) < needed:
        raise ValueError(f"hash_ids: {len(ids)} blocks of {block_tokens} hold no {tokens} tokens")
    ends = tuple(min(end, tokens) for end in range(block_tokens, (needed + 1) * block_tokens, block_tokens))
    return Text(ends, tuple(number.to_bytes(_SEED_BYTES, "big") for number in ids[:needed]))
