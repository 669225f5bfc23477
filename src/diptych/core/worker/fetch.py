"""Pages that a task gets from another pool: offers pulled, copies believed and sealed, failures told.

A target fetches what its source computes, a source fetches the context that only its target has; both put
copies into pages set aside beforehand, and seal them in prompt order, in whatever order they arrive.
"""

from __future__ import annotations

from diptych.core.actions import Send
from diptych.core.config import WorkerConfig
from diptych.core.facts import FetchFailed
from diptych.core.ids import CONTROL, Incarnation, Pages
from diptych.core.pages.ledger import Ledger
from diptych.core.recipe import numerics_at, run_end
from diptych.core.worker.pulls import Pull, Pulls
from diptych.core.worker.sequence import Source, Target


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
                self._fail(task, pull)
            return
        task.bytes_moved += pull.bytes_moved
        task.pulled_pages += len(pull.into)
        task.pull_ns += pull.took_ns
        task.fetched[pull.first_page] = pull.into
        while task.sealed in task.fetched:
            self._seal(task, task.fetched.pop(task.sealed))

    def _seal(self, task: Target, pages: list[int]) -> None:
        tokens = self.config.page_tokens
        index, end = task.sealed, task.sealed + len(pages)
        while index < end:
            stop = min(end, run_end(task.recipe, index * tokens) // tokens)
            mine = pages[index - end + len(pages) : stop - end + len(pages)]
            numerics = numerics_at(task.recipe, index * tokens)
            assert task.leaf is not None
            task.leaf, standing = self.ledger.seal(
                task.leaf, task.ask.page_hashes[index:stop], mine, numerics
            )
            task.shared += standing
            index = stop
        task.sealed = end
        task.computed = end * tokens

    def cancel(self, task: Target) -> bool:
        """The source is lost. Returns whether its pages are all the task's again."""
        for pull in self.pulls.cancel(task.key):
            task.spare += pull.into
        for pages in task.fetched.values():
            task.spare += pages
        task.fetched.clear()
        task.asked_page = 0
        return not self.pulls.any_of(task.key)

    def _fail(self, task: Target, pull: Pull) -> None:
        request, attempt = task.key
        fact = FetchFailed(
            request=request,
            attempt=attempt,
            worker=self.config.worker,
            source=pull.source,
            why=pull.failure,
        )
        self.ledger.outbox.append(Send(to=CONTROL, fact=fact))

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
        tokens, ask = self.config.page_tokens, task.ask
        index, end = task.sealed, task.sealed + len(pull.into)
        while index < end:
            stop = min(end, run_end(ask.recipe, index * tokens) // tokens)
            mine = pull.into[index - end + len(pull.into) : stop - end + len(pull.into)]
            numerics = numerics_at(ask.recipe, index * tokens)
            assert task.leaf is not None
            task.leaf, standing = self.ledger.seal(task.leaf, ask.page_hashes[index:stop], mine, numerics)
            task.pages += standing
            index = stop
        task.cached = task.sealed = end
        task.computed = end * tokens
