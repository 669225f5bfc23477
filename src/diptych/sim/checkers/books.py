"""A worker's own books, and that they agree with those kept from the messages alone."""

from __future__ import annotations

from diptych.core.ids import Incarnation
from diptych.core.worker import Worker
from diptych.sim.events import Violation
from diptych.sim.pool import Pool


def check_counts(name: Incarnation, worker: Worker) -> None:
    """free + held + cached = total."""
    counts = worker.pages()
    if counts.free + counts.held + counts.cached != counts.total or min(counts.free, counts.held) < 0:
        raise Violation("pages do not add up", f"{name} {counts}")


def check_worker(name: Incarnation, worker: Worker, pool: Pool) -> None:
    """In full: so each page has one owner over all workers and all gifts in flight."""
    worker.check()
    check_counts(name, worker)
    at_hand, owned = set(worker.ledger.at_hand()), pool.owned(name)
    # Answers that wait for a settlement have left the books and not the worker.
    given = {page for gifts in worker.ledger.given.values() for _, pages in gifts for page in pages}
    if not (at_hand <= owned <= at_hand | given):
        raise Violation("books differ", f"{name} books {sorted(at_hand ^ owned)} otherwise than the messages")
    foreign = {page for page, node in worker.ledger.tree.node_at.items() if node.owner is not None}
    # While an estate is settled answers wait, and what was offered stays so.
    offered = {n for n, page in enumerate(pool.pages) if any(offer[1] == name for offer in page.offers)}
    unclaimed = foreign - pool.claimed(name) - offered
    if unclaimed:
        raise Violation("books differ", f"{name} reads {sorted(unclaimed)} unclaimed")
