"""Chain hashes: the name of a full page is what it and all before it were computed from. Pure.

hash(page) = BLAKE2b-128(hash(previous page) + the page's tokens as little-endian int32), and the first
page's predecessor is the root, a hash of model fingerprint, adapter and tenant salt. Two pages with one
hash hold the same positions of the same text, so one may stand for the other (BLAKE2: RFC 7693).
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from diptych.core.ids import PageHash
from diptych.wire.payload import TOKEN_BYTES, pack_tokens

__all__ = ["HASH_BYTES", "chain_root", "page_hashes", "shared_pages"]

HASH_BYTES = 16


def chain_root(model: str, adapter: str = "", tenant_salt: str = "") -> PageHash:
    """What the first page of a sequence is chained to. Fields are length-prefixed, so that no two
    different triples give the same bytes."""
    digest = blake2b(digest_size=HASH_BYTES)
    for field in (model, adapter, tenant_salt):
        data = field.encode()
        digest.update(len(data).to_bytes(4, "little") + data)
    return digest.digest()


def page_hashes(
    previous: PageHash, tokens: Sequence[int] | npt.NDArray[np.int32], page_tokens: int
) -> tuple[PageHash, ...]:
    """Hashes of the full pages of `tokens`, which begin at a page border after `previous`; a last page
    that is not full has none."""
    data = pack_tokens(tokens)
    page_bytes = page_tokens * TOKEN_BYTES
    hashes: list[PageHash] = []
    for start in range(0, len(data) - page_bytes + 1, page_bytes):
        previous = blake2b(previous + data[start : start + page_bytes], digest_size=HASH_BYTES).digest()
        hashes.append(previous)
    return tuple(hashes)


def shared_pages(prompt_tokens: int, page_tokens: int) -> int:
    """Full pages of a prompt that all its sequences share: the last prompt token is never in one, because
    whoever samples computes it."""
    return (prompt_tokens - 1) // page_tokens
