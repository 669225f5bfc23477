"""What the machines decide by figures that no exploration has: every choice is tried instead.

Control routes by rates, queues and by what it remembers of caches. Its router runs as it is; whenever it is
asked, the figures it goes by are set so that each worker in turn is the cheapest target, and each other
worker the cheapest source, of all of the prompt or of one page more than the target holds. A worker takes as
much prompt into a run as its configuration says: one page is the other choice.
"""

from __future__ import annotations

from typing import Any

from diptych.core.config import WorkerConfig
from diptych.core.control.fleet import WorkerView
from diptych.core.control.router import Router

CHEAP, FAIR, DEAR, PROHIBITIVE = 1, 1_000_000, 1_000_000_000, 1_000_000_000_000
"""Nanoseconds for each prompt token."""
MEMORY_PAGES = 1 << 20


class Choices:
    """One way through the choices of an event: those of the script, then the first of each."""

    def __init__(self) -> None:
        self._script: list[int] = []
        self._taken: list[tuple[int, int]] = []

    def begin(self, script: list[int]) -> None:
        self._script, self._taken = script, []

    def choose(self, options: int) -> int:
        place = len(self._taken)
        choice = self._script[place] if place < len(self._script) else 0
        self._taken.append((choice, options))
        return choice

    def following(self) -> list[int] | None:
        """The script of the next way, depth first; None after the last."""
        taken = list(self._taken)
        while taken:
            choice, options = taken.pop()
            if choice + 1 < options:
                return [*(chosen for chosen, _ in taken), choice + 1]
        return None

    # ---- routes -------------------------------------------------------------------------------------

    def advise_route(self, router: Router, need: Any) -> None:
        """Some worker is cheap, and taken to hold all of the prompt or nothing."""
        views = list(router.fleet.workers.values())
        if not views:
            return
        choice = self.choose(2 * len(views))
        for number, view in enumerate(views):
            _advise(view, need, CHEAP if number == choice // 2 else DEAR)
        if choice % 2:
            views[choice // 2].remember(need.arrived.page_hashes, MEMORY_PAGES)

    def advise_replan(self, router: Router, target: WorkerView, held_tokens: int, need: Any) -> None:
        """The target computes it all, or some other does, or has one page more than the target."""
        others = [view for view in router.fleet.workers.values() if view is not target]
        choice = self.choose(1 + 2 * len(others))
        _advise(target, need, FAIR if choice else CHEAP)
        for number, view in enumerate(others):
            mine = choice and number == (choice - 1) // 2
            _advise(view, need, CHEAP if mine and choice % 2 else PROHIBITIVE)
            if mine and not choice % 2:
                pages = held_tokens // view.page_tokens + 1
                view.remember(need.arrived.page_hashes[:pages], MEMORY_PAGES)


def _advise(view: WorkerView, need: Any, rate_ns: int) -> None:
    view.prefill_ns_per_token = rate_ns
    view.decode_ns_per_step = 1
    view.forget(need.arrived.page_hashes)


class FreeChunks:
    """A worker's configuration, but for how much prompt goes into one run."""

    def __init__(self, config: WorkerConfig, choices: Choices) -> None:
        self._config = config
        self._choices = choices

    def __getattr__(self, name: str) -> Any:
        return getattr(self._config, name)

    @property
    def chunk_tokens(self) -> int:
        sizes = (self._config.chunk_tokens, self._config.page_tokens)
        return sizes[self._choices.choose(len(set(sizes)))]

    @property
    def mixed_chunk_tokens(self) -> int:
        sizes = (self._config.mixed_chunk_tokens, self._config.page_tokens)
        return sizes[self._choices.choose(len(set(sizes)))]
