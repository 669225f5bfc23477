"""What a request asks of workers, what each of them is taken to offer, and the choice between them.

Plain classes, for they are made many times a request and live as long as one choice.
"""

from __future__ import annotations

from diptych.core.control.fleet import WorkerView
from diptych.core.facts import RequestArrived
from diptych.core.ids import Incarnation
from diptych.core.recipe import Recipe


class Need:
    """What a request asks of its workers."""

    __slots__ = (
        "arrived",
        "avoid",
        "border",
        "known_tokens",
        "model",
        "prompt_tokens",
        "recipe",
        "split_max",
    )

    def __init__(
        self,
        model: str,
        prompt_tokens: int,
        border: int,
        split_max: int,
        known_tokens: int,
        recipe: Recipe,
        arrived: RequestArrived,
        avoid: tuple[Incarnation, ...] = (),
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
        self.avoid = avoid
        """Sources whose pages this request could not get over to its target."""


class Quote:
    """What one worker is taken to have and cost for one request."""

    __slots__ = ("held", "hope", "load", "rate", "view")

    def __init__(self, view: WorkerView, held: int, rate: int, hope: float, load: int) -> None:
        self.view = view
        self.held = held
        """Prompt tokens it probably caches, as far as the request may use them."""
        self.rate = rate
        """Nanoseconds for each prompt token, as last measured: what it costs as a target."""
        self.hope = hope
        """The same as it is taken for a source: less, the longer nobody has measured it."""
        self.load = load


class Route:
    __slots__ = ("cost_ns", "other_ns", "source", "source_rate", "split", "target")

    def __init__(
        self,
        target: WorkerView,
        source: WorkerView | None,
        split: int,
        cost_ns: int,
        source_rate: float = 0.0,
    ) -> None:
        self.target = target
        self.source = source
        self.split = split
        """Prompt tokens that come from the source, or are held by the target already."""
        self.cost_ns = cost_ns
        self.source_rate = source_rate
        """Nanoseconds for each prompt token that the source was taken to need."""
        self.other_ns: int | None = None
        """Cost of the best choice of the other kind: without a source, or with one."""
