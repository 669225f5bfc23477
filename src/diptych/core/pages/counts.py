"""What a worker's pages are used for, as a value."""

from __future__ import annotations

import msgspec


class PageCounts(msgspec.Struct, frozen=True):
    """`free + held + cached == total`; pages lent out are counted by their claimant, who paid for them."""

    free: int
    held: int
    cached: int
    total: int
