"""Which pages a worker has, what they hold, and how they change hands."""

from diptych.core.pages.counts import PageCounts
from diptych.core.pages.ledger import Ledger

__all__ = ["Ledger", "PageCounts"]
