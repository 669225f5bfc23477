"""A checksum for each page that crosses a network: 8 bytes of XXH3 (xxhash.com), little-endian."""

from __future__ import annotations

from collections.abc import Sequence

import xxhash

__all__ = ["CHECKSUM_BYTES", "page_checksums"]

CHECKSUM_BYTES = 8


def page_checksums(memory: memoryview, page_bytes: int, pages: Sequence[int]) -> bytes:
    """One for each page, in order."""
    digests = (
        xxhash.xxh3_64_intdigest(memory[page * page_bytes : (page + 1) * page_bytes]) for page in pages
    )
    return b"".join(digest.to_bytes(CHECKSUM_BYTES, "little") for digest in digests)
