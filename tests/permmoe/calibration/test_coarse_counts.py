"""No bin tells few patients' errors, and no interval becomes shorter for it."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from permmoe.calibration.coarse_counts import coarsened, lowest

COUNTS = st.lists(st.integers(0, 4), min_size=1, max_size=23).map(lambda found: np.array(found, dtype=np.int64))


@given(COUNTS, st.integers(1, 7))
def test_each_bin_is_empty_or_full_and_no_visit_is_lost_or_moves_down(counts: np.ndarray, least: int) -> None:
    found = coarsened(counts, least)
    assert found.sum() == counts.sum()
    if counts.sum() >= least:
        assert not ((found > 0) & (found < least)).any()
    # "Scores only rise": below every edge there are no more visits than before.
    assert (found.cumsum() <= counts.cumsum()).all()
    assert (coarsened(found, least) == found).all()


@given(COUNTS, st.integers(1, 7))
def test_no_visit_came_from_below_its_lowest_bin(counts: np.ndarray, least: int) -> None:
    found = lowest(coarsened(counts, least))
    assert found.sum() == counts.sum()
    assert (found.cumsum() >= counts.cumsum()).all()
    assert lowest(np.array([0, 0, 5, 0, 0, 0, 7])).tolist() == [5, 0, 0, 7, 0, 0, 0]


def test_what_is_left_above_joins_the_last_bin() -> None:
    assert coarsened(np.array([2, 0, 3, 1, 0, 4, 2]), 3).tolist() == [0, 0, 5, 0, 0, 0, 7]
