"""What a request asks of workers, what those of one pool have of its prompt, and the choice between them.

Plain classes, for they are made many times a request and live as long as one choice.
"""

from __future__ import annotations

from diptych.core.control.fleet import WorkerView
from diptych.core.facts import RequestArrived
from diptych.core.recipe import Recipe


class Need:
    """What a request asks of its workers."""

    __slots__ = ("arrived", "border", "known_tokens", "model", "prompt_tokens", "recipe", "split_max")

    def __init__(
        self,
        model: str,
        prompt_tokens: int,
        border: int,
        split_max: int,
        known_tokens: int,
        recipe: Recipe,
        arrived: RequestArrived,
    ) -> None:
        self.model = model
        self.prompt_tokens = prompt_tokens
        self.border = border
        """Last page border before the last prompt token."""
        self.split_max = split_max
        """Neither split nor prefix reuse passes it (echo with log-probabilities)."""
        self.known_tokens = known_tokens
        """Prompt and emitted tokens: what a target must have computed before it can go on."""
        self.recipe = recipe
        self.arrived = arrived


class Quote:
    """What one worker is taken to have of the prompt, and to need as a source of the rest."""

    __slots__ = ("held", "queue_ns", "rate", "view")

    def __init__(self, view: WorkerView, held: int, queue_ns: float, rate: float) -> None:
        self.view = view
        self.held = held
        """Prompt tokens it probably caches, as far as the request may use them."""
        self.queue_ns = queue_ns
        self.rate = rate
        """Nanoseconds for each prompt token: less, the longer nobody has measured it, and more where it
        prefers to decode."""

    def wait_ns(self, split: int, at_hand: int) -> float:
        """Until it has all pages up to the split for a target that has `at_hand` tokens."""
        missing = split - max(self.held, at_hand)
        return self.queue_ns + self.rate * missing if missing > 0 else 0.0


class Route:
    """A choice of target, source and split."""

    __slots__ = ("cost_ns", "held", "other_ns", "quote", "source", "source_tokens", "split", "target")

    def __init__(self, target: WorkerView, held: int, split: int, cost_ns: int, quote: Quote | None) -> None:
        self.target = target
        self.held = held
        """Prompt tokens that the target holds, or is taken to hold."""
        self.split = split
        """Prompt tokens that come from the source, or are held by the target already."""
        self.cost_ns = cost_ns
        self.quote = quote
        self.source = quote.view if quote is not None else None
        self.source_tokens = max(0, split - max(quote.held, held)) if quote is not None else 0
        """Prompt tokens that the source will have to compute."""
        self.other_ns: int | None = None
        """Cost of the best choice of the other kind: without a source, or with one."""
