"""Pages that a task gets from another pool: offers pulled, copies believed and sealed, failures told.

A target fetches what its source computes, a source fetches the context that only its target has; both put
copies into pages set aside beforehand, and seal them in prompt order, in whatever order they arrive.
"""

from __future__ import annotations

from diptych.core.config import WorkerConfig
from diptych.core.facts import FetchFailed
from diptych.core.ids import CONTROL, Incarnation, PageHash, Pages
from diptych.core.pages.ledger import Ledger
from diptych.core.pages.node import Node
from diptych.core.recipe import Recipe, run_at
from diptych.core.worker.pulls import Pull, Pulls
from diptych.core.worker.sequence import Key, Source, Target


class Fetch:
    def __init__(self, config: WorkerConfig, ledger: Ledger, pulls: Pulls) -> None:
        self.config = config
        self.ledger = ledger
        self.pulls = pulls

    # ---- targets ----------------------------------------------------------------------------------

    def offered(
        self, now_ns: int, task: Target, sender: Incarnation, first_page: int, pages: Pages, claim: int
    ) -> None:
        """Pulls what the source offers next; anything else is not wanted."""
        if sender != task.source or first_page != max(task.asked_page, task.sealed):
            self.pulls.refuse(sender, claim)
            return
        into, task.spare = task.spare[: len(pages)], task.spare[len(pages) :]
        task.asked_page = first_page + len(pages)
        self.pulls.begin(now_ns, task.key, sender, claim, first_page, pages, into)

    def arrived(self, task: Target, pull: Pull) -> None:
        """A copy that may be believed is sealed as soon as all before it are; another sends the request
        back to control."""
        if pull.failure:
            task.spare += pull.into
            if task.source is not None:
                self.fail(task.key, pull.source, pull.failure)
            return
        task.bytes_moved += pull.bytes_moved
        task.pulled_pages += len(pull.into)
        task.pull_ns += pull.took_ns
        task.fetched[pull.first_page] = pull.into
        while task.sealed in task.fetched:
            pages, hashes = task.fetched.pop(task.sealed), task.ask.page_hashes
            task.leaf, standing = self._seal(task.leaf, hashes, task.sealed, pages, task.recipe)
            task.shared += standing
            task.sealed += len(pages)
            task.computed = task.sealed * self.config.page_tokens

    def cancel(self, task: Target) -> bool:
        """The source is lost. Returns whether its pages are all the task's again."""
        for pull in self.pulls.cancel(task.key):
            task.spare += pull.into
        for pages in task.fetched.values():
            task.spare += pages
        task.fetched.clear()
        task.asked_page = 0
        return not self.pulls.any_of(task.key)

    # ---- sources ----------------------------------------------------------------------------------

    def context(self, now_ns: int, task: Source, sender: Incarnation, pages: Pages, claim: int) -> None:
        """Pulls the context that the target lends."""
        into, task.spare = task.spare[: len(pages)], task.spare[len(pages) :]
        self.pulls.begin(now_ns, task.key, sender, claim, task.sealed, pages, into)

    def context_arrived(self, task: Source, pull: Pull) -> None:
        """Sealed as the source's own; what cannot be believed it computes itself."""
        if pull.failure:
            task.spare = pull.into + task.spare
            return
        ask = task.ask
        task.leaf, standing = self._seal(task.leaf, ask.page_hashes, task.sealed, pull.into, ask.recipe)
        task.pages += standing
        task.cached = task.sealed = task.sealed + len(pull.into)
        task.computed = task.sealed * self.config.page_tokens

    # ---- both -------------------------------------------------------------------------------------

    def fail(self, key: Key, source: Incarnation, why: str) -> None:
        """Sends the request back to control."""
        request, attempt = key
        worker = self.config.worker
        fact = FetchFailed(request=request, attempt=attempt, worker=worker, source=source, why=why)
        self.ledger.tell(CONTROL, fact)

    def _seal(
        self,
        leaf: Node | None,
        hashes: tuple[PageHash, ...],
        first_page: int,
        pages: list[int],
        recipe: Recipe,
    ) -> tuple[Node, list[int]]:
        """Copies of the prompt's pages from `first_page` on go into the tree, cut where numerics change.
        Returns the new leaf and the pages that now stand for them."""
        assert leaf is not None
        tokens = self.config.page_tokens
        standing: list[int] = []
        done = 0
        while done < len(pages):
            run = run_at(recipe, (first_page + done) * tokens)
            end = min(len(pages), run.end // tokens - first_page)
            mine = hashes[first_page + done : first_page + end]
            leaf, placed = self.ledger.seal(leaf, mine, pages[done:end], run.numerics)
            standing += placed
            done = end
        return leaf, standing
