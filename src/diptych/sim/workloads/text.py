"""Texts by identity instead of content: which pages two of them share, and nothing else.

A text is a chain of named pieces. A page is known by the piece its last token lies in, by all pieces
before that one, and by where it ends: texts that begin with the same pieces share the pages within them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from diptych.core.ids import PageHash

_SEED_BYTES = 12
_END_BYTES = 4


class Text:
    """Immutable; `answered` and `then` make longer ones."""

    __slots__ = ("_ends", "_seeds")

    def __init__(self, ends: tuple[int, ...] = (), seeds: tuple[bytes, ...] = ()) -> None:
        self._ends = ends
        self._seeds = seeds

    @property
    def tokens(self) -> int:
        return self._ends[-1] if self._ends else 0

    def then(self, piece: str, tokens: int) -> Text:
        """This text and then `tokens` tokens of the named piece."""
        if tokens <= 0:
            return self
        before = self._seeds[-1] if self._seeds else b""
        words = before + f"{self.tokens}/{piece}".encode()
        seed = hashlib.blake2b(words, digest_size=_SEED_BYTES).digest()
        return Text((*self._ends, self.tokens + tokens), (*self._seeds, seed))

    def page_hashes(self, page_tokens: int, end: int, first_page: int = 0) -> tuple[PageHash, ...]:
        """Of the full pages of the first `end` tokens, from page `first_page` on."""
        hashes: list[PageHash] = []
        ends, seeds = self._ends, self._seeds
        piece = 0
        for border in range((first_page + 1) * page_tokens, end + 1, page_tokens):
            while ends[piece] < border:
                piece += 1
            hashes.append(seeds[piece] + border.to_bytes(_END_BYTES, "big"))
        return tuple(hashes)


def block_text(ids: Sequence[int], block_tokens: int, tokens: int) -> Text:
    """The text of a trace that names each block by a number which stands for all tokens up to its end.

    Raises `ValueError` where there are fewer blocks than `tokens` fill."""
    needed = -(-tokens // block_tokens)
    if len(ids) < needed:
        raise ValueError(f"hash_ids: {len(ids)} blocks of {block_tokens} hold no {tokens} tokens")
    ends = tuple(min(end, tokens) for end in range(block_tokens, (needed + 1) * block_tokens, block_tokens))
    return Text(ends, tuple(number.to_bytes(_SEED_BYTES, "big") for number in ids[:needed]))
