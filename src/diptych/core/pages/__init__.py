"""Which pages a worker has, what they hold, and how they change hands."""

from diptych.core.pages.ledger import Ledger, PageCounts

__all__ = ["Ledger", "PageCounts"]
