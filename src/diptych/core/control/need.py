"""What a request asks of workers: a plain class, made anew for each choice."""

from __future__ import annotations

from diptych.core.facts import RequestArrived
from diptych.core.ids import Incarnation
from diptych.core.recipe import Recipe


class Need:
    """What a request asks of its workers."""

    # fmt: off
    __slots__ = (
        "arrived", "avoid", "border", "known_tokens", "model", "prompt_tokens", "recipe", "split_max",
    )
    # fmt: on

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
