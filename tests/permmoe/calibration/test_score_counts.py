"""Counts of scores: exact coverage on exchangeable draws, additive over hospitals, never below the exact quantile."""

from __future__ import annotations

from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from permmoe.calibration.score_counts import EDGES, RATIO, ScoreCounts, count_scores, least_visits, rank
from permmoe.modality import all_combinations

NAMES = ("t1", "flair", "tau")
COMBINATIONS = all_combinations(NAMES)


def exact_quantile(scores: np.ndarray, level: float) -> float:
    """The plain reference: sort, and take the corrected rank."""
    k = rank(len(scores), level)
    return float(np.sort(scores)[k - 1]) if k <= len(scores) else inf


def draws(rng: np.random.Generator, n: int, missing: float = 0.3) -> np.ndarray:
    """Scores of visits that lack modalities at random, so that smaller combinations have more visits."""
    has = rng.random((n, len(NAMES))) > missing
    has[~has.any(1), 0] = True
    scores = np.abs(rng.normal(size=(n, len(COMBINATIONS)))) * rng.uniform(0.5, 3)
    for j, combination in enumerate(COMBINATIONS):
        scores[~has[:, [NAMES.index(m) for m in combination]].all(1), j] = np.nan
    return scores


def counted(scores: np.ndarray, rng: np.random.Generator, groups: int = 2) -> ScoreCounts:
    return count_scores(NAMES, scores, rng.integers(groups, size=len(scores)), groups, ["north"] * len(scores))


@given(st.integers(0, 2**32), st.integers(1, 120), st.sampled_from([0.5, 0.8, 0.95]))
def test_a_quantile_is_never_below_the_exact_one_and_one_bin_above_at_most(seed: int, n: int, level: float) -> None:
    rng = np.random.default_rng(seed)
    scores = draws(rng, n)
    found = counted(scores, rng)
    for j, combination in enumerate(COMBINATIONS):
        own = scores[~np.isnan(scores[:, j]), j]
        exact, rounded = exact_quantile(own, level), found.quantile(combination, level)
        assert rounded >= exact
        assert rounded <= max(EDGES[0], exact * RATIO * (1 + 1e-12))


@given(st.integers(0, 2**32), st.lists(st.integers(0, 30), min_size=1, max_size=5))
def test_the_counts_of_hospitals_add_up_to_the_counts_of_all_their_visits(seed: int, sizes: list[int]) -> None:
    rng = np.random.default_rng(seed)
    n = sum(sizes)
    scores, severity = draws(rng, n), rng.integers(3, size=n)
    site = np.repeat(np.arange(len(sizes)), sizes)
    together = count_scores(NAMES, scores, severity, 3, [str(s) for s in site])
    merged = ScoreCounts.none(NAMES, 4)
    for s in range(len(sizes)):
        own = site == s
        merged = merged + count_scores(NAMES, scores[own], severity[own], 3, [str(s)] * int(own.sum()))
    for field in ("counts", "visits", "sites"):
        assert np.array_equal(getattr(together, field), getattr(merged, field))
    assert np.array_equal(together.counts[:, 0], together.counts[:, 1:].sum(1))


@pytest.mark.parametrize("level", [0.8, 0.95])
@pytest.mark.parametrize("n", [41, 111])
def test_coverage_of_exchangeable_draws_is_what_theory_says(level: float, n: int) -> None:
    """P(new score ≤ quantile) = ⌈(n+1)·level⌉ / (n+1), and what a bin adds, whatever the scores' distribution."""
    rng = np.random.default_rng(7)
    repeats, held = 6000, 0
    for _ in range(repeats):
        scores = rng.lognormal(size=(n + 1, 1))
        found = count_scores(("t1",), scores[:-1], np.zeros(n, dtype=int), 1, ["north"] * n)
        held += scores[-1, 0] <= found.quantile(("t1",), level)
    exact = rank(n, level) / (n + 1)
    three_errors = 3 * np.sqrt(exact * (1 - exact) / repeats)
    assert exact >= level and exact - three_errors <= held / repeats <= exact + 0.004 + three_errors


def test_each_combination_covers_though_their_errors_differ() -> None:
    """One quantile for all covers on average and no combination; conditional ones cover each."""
    rng = np.random.default_rng(3)
    spread = 1.2 ** np.arange(len(COMBINATIONS))
    scores, new = np.abs(rng.normal(size=(2, 4000, len(COMBINATIONS)))) * spread
    found = counted(scores, rng)
    by_combination = [(new[:, j] <= found.quantile(c, 0.8)).mean() for j, c in enumerate(COMBINATIONS)]
    pooled = [(new[:, j] <= found.pooled_quantile(0.8)).mean() for j in range(len(COMBINATIONS))]
    assert np.abs(np.array(by_combination) - 0.8).max() < 0.03
    assert pooled[0] > 0.9 and pooled[-1] < 0.7 and abs(np.mean(pooled) - 0.8) < 0.03


def test_the_least_number_of_visits_leaves_the_worst_score_out() -> None:
    assert (least_visits(0.8), least_visits(0.95)) == (9, 39)
    for level in (0.8, 0.95):
        n = least_visits(level)
        assert rank(n, level) == n - 1 and rank(n - 1, level) == n - 1


def test_too_few_visits_have_no_finite_quantile() -> None:
    found = count_scores(("t1",), np.ones((3, 1)), np.zeros(3, dtype=int), 1, ["north"] * 3)
    assert found.quantile(("t1",), 0.8) == inf and found.pooled_quantile(0.8) == inf
    assert ScoreCounts.none(("t1",), 1).pooled_quantile(0.5) == inf


def test_scores_beyond_the_grid_have_no_end_and_lose_nobody() -> None:
    scores = np.array([[0.0], [EDGES[0]], [EDGES[-1]], [EDGES[-1] * 1.001], [1e9]])
    found = count_scores(("t1",), scores, np.zeros(5, dtype=int), 1, ["north"] * 5)
    assert found.counts.sum() == 5 and found.counts[0, 0, 0] == 2 and found.counts[0, 0, -1] == 2
    assert found.quantile(("t1",), 0.5) == EDGES[-1] and found.quantile(("t1",), 0.8) == inf


def test_the_pool_corrects_for_visits_and_not_for_their_combinations() -> None:
    """Nine visits with seven combinations each are nine independent visits, not sixty-three."""
    scores = np.tile(np.arange(1.0, 10.0)[:, None], (1, 7))
    found = count_scores(NAMES, scores, np.zeros(9, dtype=int), 1, ["north"] * 9)
    assert found.visits[0] == 9
    assert 8.0 <= found.pooled_quantile(0.8) <= 8.0 * RATIO
    assert found.pooled_quantile(0.95) == inf


def test_an_error_below_zero_or_counts_of_other_modalities_are_refused() -> None:
    with pytest.raises(ValueError, match="below zero"):
        count_scores(("t1",), np.array([[-0.1]]), np.zeros(1, dtype=int), 1, ["north"])
    with pytest.raises(ValueError, match="cannot be added"):
        _ = ScoreCounts.none(("t1",), 1) + ScoreCounts.none(("t1",), 2)
    with pytest.raises(ValueError, match="not those of"):
        ScoreCounts(("t1", "tau"), *(getattr(ScoreCounts.none(("t1",), 1), f) for f in ("counts", "visits", "sites")))


def test_stretched_counts_have_quantiles_that_many_times_as_large_and_the_same_visits() -> None:
    rng = np.random.default_rng(7)
    found = counted(draws(rng, 300), rng)
    for factor in (0.5, 1.0, 1.7):
        longer = found.stretched(factor)
        assert (longer.counts.sum(2) == found.counts.sum(2)).all() and (longer.visits == found.visits).all()
        for combination in COMBINATIONS:
            before, after = (counts.quantile(combination, 0.8) for counts in (found, longer))
            assert after == pytest.approx(factor * before, rel=RATIO - 1)
    assert (found.stretched(1.0).counts == found.counts).all()
    assert (found.stretched(1e9).counts[:, :, -1] == found.counts.sum(2)).all()


def test_a_score_beyond_the_grid_stays_beyond_it_however_short_intervals_become() -> None:
    beyond = count_scores(NAMES, np.full((50, len(COMBINATIONS)), 1e6), np.zeros(50, dtype=int), 1, ["a"] * 50)
    assert beyond.stretched(0.2).quantile(COMBINATIONS[0], 0.8) == inf
