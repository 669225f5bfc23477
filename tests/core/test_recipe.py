"""Recipes as functions from position to numerics: every operation keeps that function."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.core import recipe as recipes
from diptych.core.recipe import OPEN_END, Recipe, extend, join, numerics_at, numerics_of, run_end
from diptych.core.recipe_run import Run

PAIRS = st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 30)), max_size=6)


def spelled(*runs: tuple[str, int]) -> str:
    """The recipe as one letter a position, by the plainest reading of its runs."""
    text = ""
    for numerics, end in runs:
        text += numerics * max(0, end - len(text))
    return text


@given(PAIRS)
def test_join_keeps_the_numerics_of_every_position(pairs: list[tuple[str, int]]) -> None:
    recipe, text = join(*pairs), spelled(*pairs)
    assert "".join(numerics_at(recipe, position) for position in range(len(text))) == text
    assert numerics_of(recipe) == frozenset(text)


@given(PAIRS)
def test_runs_are_maximal_and_rise(pairs: list[tuple[str, int]]) -> None:
    recipe = join(*pairs)
    assert all(a.numerics != b.numerics and a.end < b.end for a, b in itertools.pairwise(recipe))
    assert all(run.end > 0 for run in recipe)


@given(PAIRS, PAIRS)
def test_extend_is_join_of_both(head: list[tuple[str, int]], tail: list[tuple[str, int]]) -> None:
    assert extend(join(*head), *tail) == join(*head, *tail)


@given(PAIRS)
def test_run_end_is_where_the_letters_change(pairs: list[tuple[str, int]]) -> None:
    recipe, text = join(*pairs), spelled(*pairs)
    for position in range(len(text)):
        end = run_end(recipe, position)
        assert set(text[position:end]) == {text[position]}
        assert end == len(text) or text[end] != text[position]


@pytest.mark.parametrize("function", [numerics_at, run_end])
def test_positions_beyond_the_recipe_are_refused(function: object) -> None:
    recipe: Recipe = (Run("a", 4),)
    with pytest.raises(ValueError, match="position 4"):
        getattr(recipes, function.__name__)(recipe, 4)  # type: ignore[attr-defined]


def test_an_open_end_has_no_last_position() -> None:
    assert numerics_at(join(("a", 4), ("b", OPEN_END)), 1 << 40) == "b"
