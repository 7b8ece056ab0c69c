"""Whole numbers with a Gaussian's law: against the law itself, written out."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from scipy.stats import chisquare

from permmoe.federated.discrete_gaussian import discrete_gaussians

N = 20_000


def law(variance: int, reach: int) -> np.ndarray:
    """P(−reach) … P(reach)."""
    weights = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * variance))
    return weights / weights.sum()


@pytest.mark.parametrize("variance", [1, 3, 11])
def test_numbers_come_as_often_as_the_law_says(variance: int) -> None:
    drawn = discrete_gaussians([variance] * N, Random(5).randrange)
    reach = int(3 * variance**0.5)
    found = np.array([np.sum(np.clip(drawn, -reach, reach) == x) for x in range(-reach, reach + 1)])
    wide = law(variance, 60)
    expected = wide[60 - reach : 61 + reach].copy()
    expected[0] = expected[-1] = wide[: 61 - reach].sum()
    assert chisquare(found, N * expected).pvalue > 1e-3


def test_large_numbers_have_mean_zero_and_their_variance() -> None:
    drawn = discrete_gaussians([1_000_003] * N, Random(6).randrange)
    assert abs(drawn.mean()) < 4 * 1000 / N**0.5
    assert drawn.std() == pytest.approx(1000, rel=0.02)


def test_each_number_has_the_variance_of_its_place() -> None:
    drawn = discrete_gaussians([4, 4_000_000] * 500, Random(7).randrange).reshape(-1, 2)
    assert np.abs(drawn[:, 0]).max() < 20 < 500 < np.abs(drawn[:, 1]).max()


def test_draws_follow_from_their_randomness_alone() -> None:
    one, same, other = (discrete_gaussians([99] * 20, Random(seed).randrange) for seed in (1, 1, 2))
    assert (one == same).all() and (one != other).any()
