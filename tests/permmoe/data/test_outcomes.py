"""A histogram in a model's card is about the set: no bar holds few visits, and no edge is one visit's outcome."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from permmoe.data.outcomes import BARS, LEAST_VISITS, Outcomes, outcomes_of

CHANGES = st.lists(st.floats(-18, 18, allow_nan=False, width=32), min_size=0, max_size=60)


@given(CHANGES)
def test_no_bar_holds_few_visits_and_none_is_lost(changes: list[float]) -> None:
    target = torch.tensor(changes)
    found = outcomes_of(torch.zeros(len(changes)), target)
    if found is None:
        return
    assert min(found.counts) >= LEAST_VISITS and found.visits == len(changes)
    assert len(found.counts) <= BARS + 2
    assert found.edges[0] <= target.min() + 1e-4 and found.edges[-1] >= target.max() - 1e-4
    assert found.mean == pytest.approx(float(target.double().mean()), abs=1e-4)


def test_edges_are_round_numbers_that_tell_no_extreme() -> None:
    changes = torch.linspace(-1.37, 9.13, 97)
    found = outcomes_of(torch.zeros(97), changes)
    assert found is not None
    assert all(float(edge * 2).is_integer() for edge in found.edges)
    assert not {found.edges[0], found.edges[-1]} & {-1.37, 9.13}


def test_visits_whose_change_is_unknown_do_not_count() -> None:
    changes = torch.cat([torch.arange(20.0), torch.full((7,), torch.nan)])
    found = outcomes_of(torch.arange(27.0), changes)
    assert found is not None and found.visits == 20 and found.mean == 9.5 and found.mean_score == 9.5


def test_the_line_is_that_of_least_squares() -> None:
    rng = np.random.default_rng(2)
    score = rng.uniform(0, 8, 80)
    change = 0.5 + 0.3 * score + rng.normal(size=80)
    found = outcomes_of(torch.tensor(score), torch.tensor(change))
    assert found is not None
    slope, intercept = np.polyfit(score, change, 1)
    assert found.expected(5.0) == pytest.approx(intercept + 5 * slope, abs=1e-4)


@pytest.mark.parametrize("changes", [[], [1.0] * 9, [1.0] * 30, [0.0] * 4 + [9.0] * 4])
def test_too_few_visits_or_too_equal_ones_have_no_distribution(changes: list[float]) -> None:
    assert outcomes_of(torch.zeros(len(changes)), torch.tensor(changes)) is None


@pytest.mark.parametrize(
    ("edges", "counts"),
    [((0, 1, 2), (9, 4)), ((0, 1), (9, 9)), ((0, 2, 1), (9, 9)), ((0, 0, 1), (9, 9)), ((0, 1, float("inf")), (9, 9))],
)
def test_a_card_that_shows_few_visits_or_no_histogram_is_refused(edges: tuple[float, ...], counts: tuple[int]) -> None:
    with pytest.raises(ValidationError):
        Outcomes(edges=edges, counts=counts, mean=1, mean_score=1, slope=0)
