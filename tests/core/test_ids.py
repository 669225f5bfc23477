"""Extents and incarnations survive their round trips."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from diptych.core.ids import from_extents, incarnation, to_extents, worker_epoch, worker_name


@given(st.sets(st.integers(0, 200)))
def test_extents_name_the_same_pages_in_the_fewest_runs(pages: set[int]) -> None:
    extents = to_extents(list(pages))
    assert from_extents(extents) == sorted(pages)
    assert len(extents) == sum(page - 1 not in pages for page in pages)


@given(st.text(min_size=1), st.integers(1, 10**9))
def test_a_worker_name_may_hold_anything(name: str, epoch: int) -> None:
    worker = incarnation(name, epoch)
    assert (worker_name(worker), worker_epoch(worker)) == (name, epoch)
