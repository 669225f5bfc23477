"""Recipes: which numerics compute which positions of a sequence, as page-aligned runs.

A numerics id names everything that decides the bits of a result. The recipe of a stream is fixed once
and outlives its workers: whoever goes on with the stream computes each position by the same numerics.
"""

from __future__ import annotations

from diptych.core.recipe_run import Run

OPEN_END = 1 << 60
Recipe = tuple[Run, ...]


def join(*runs: tuple[str, int]) -> Recipe:
    """A recipe from (numerics, end) pairs in order; empty runs vanish and equal neighbours merge."""
    result: list[Run] = []
    position = 0
    for numerics, end in runs:
        if end <= position:
            continue
        if result and result[-1].numerics == numerics:
            result.pop()
        result.append(Run(numerics, end))
        position = end
    return tuple(result)


def extend(head: Recipe, *runs: tuple[str, int]) -> Recipe:
    """`head` (runs of pages already held) followed by `runs`."""
    return join(*((run.numerics, run.end) for run in head), *runs)


def run_at(recipe: Recipe, position: int) -> Run:
    """The run that holds `position`."""
    for run in recipe:
        if position < run.end:
            return run
    raise ValueError(f"position {position} lies beyond the recipe {recipe}")


def numerics_at(recipe: Recipe, position: int) -> str:
    for run in recipe:
        if position < run.end:
            return run.numerics
    raise ValueError(f"position {position} lies beyond the recipe {recipe}")


def run_end(recipe: Recipe, position: int) -> int:
    """End of the run that holds `position`."""
    for run in recipe:
        if position < run.end:
            return run.end
    raise ValueError(f"position {position} lies beyond the recipe {recipe}")


def numerics_of(recipe: Recipe) -> frozenset[str]:
    return frozenset(run.numerics for run in recipe)
