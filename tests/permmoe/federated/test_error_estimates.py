"""Means and intervals from counts with noise: right on average, as uncertain as they say, and never nonsense."""

from __future__ import annotations

from collections.abc import Iterator
from math import sqrt

import numpy as np
import pytest

from permmoe.calibration.score_counts import EDGES, N_BINS, ScoreCounts, count_scores
from permmoe.config import EvaluationPrivacy
from permmoe.evaluation.combinations import error_sums
from permmoe.federated.error_estimates import error_estimates, estimated_scores, not_smaller
from permmoe.federated.private_errors import error_bins, error_noise, in_error_bins
from permmoe.federated.summed_scores import calibration_from
from permmoe.modality import all_combinations, combination_name
from tests.support.noised_errors import EASY, noised_plan

NAMES = ("clinical", "fluid", "gene")
BINS = error_bins(EvaluationPrivacy())
SITES = 5
LARGEST = EDGES[BINS[-2]]


def errors(n: int, seed: int = 0) -> np.ndarray:
    """[visit, combination], points; the later of the combinations are rarer."""
    rng = np.random.default_rng(seed)
    own = np.abs(rng.normal(0.0, 1.5, (n, 7)))
    return np.where(rng.random((n, 7)) < np.linspace(1.0, 0.4, 7), own, np.nan)


def counted(of: np.ndarray) -> np.ndarray:
    return count_scores(NAMES, of, np.zeros(len(of), np.int64), 1, [""] * len(of)).counts[:, 0]


def draws(exact: np.ndarray, n: int, seed: int) -> Iterator[np.ndarray]:
    """The counts with the noise of all sites of the plan, so often."""
    rng, noise = np.random.default_rng(seed), sqrt(error_noise(noised_plan()).variance * SITES)
    for _ in range(n):
        yield exact + np.rint(rng.normal(0, noise, exact.shape)).astype(np.int64)


def at_ends(of: np.ndarray) -> np.ndarray:
    """Every error at the upper end of its bin, where it still counts as in it."""
    ends = np.append(EDGES[BINS[:-1]], np.inf)
    place = np.searchsorted(ends, np.nan_to_num(of))
    return np.where(np.isnan(of), np.nan, np.minimum(ends[place], 9.0))


def test_without_noise_worth_speaking_of_means_are_those_of_the_errors() -> None:
    of, plan = errors(5000), noised_plan(target_epsilon=EASY)
    found = error_estimates(in_error_bins(counted(of), BINS), plan, SITES)
    for j, combination in enumerate(all_combinations(NAMES)):
        # "Larger errors count as the largest."
        exact = error_sums(np.minimum(of[:, j], 4.0), np.zeros(len(of)))
        own = found.sums[combination_name(combination)]
        assert own.n == exact.n
        assert own.mae == pytest.approx(exact.mae, rel=0.02) and own.rmse == pytest.approx(exact.rmse, rel=0.03)
        assert np.isnan(own.r2), "no outcome is summed"


def test_over_draws_of_noise_means_are_right() -> None:
    plan, exact = noised_plan(), in_error_bins(counted(errors(1500)), BINS)
    still = error_estimates(exact, noised_plan(target_epsilon=EASY), SITES)
    found = [error_estimates(noisy, plan, SITES) for noisy in draws(exact, 400, 1)]
    for name, sums in still.sums.items():
        told = np.array([draw.sums[name].mae for draw in found])
        assert told.mean() == pytest.approx(sums.mae, abs=4 * told.std() / sqrt(len(found)) + 0.01)


@pytest.mark.parametrize("n", [60, 120, 200, 1500])
def test_of_combinations_of_which_anything_is_said_hardly_one_in_twenty_is_beyond_its_bounds(n: int) -> None:
    """However few of them noise lets be seen, and so however often it is noise that lets them. All errors lie at the
    upper ends of their bins, which no bound has to spare."""
    plan, of = noised_plan(), np.minimum(at_ends(errors(n)), LARGEST)
    exact = in_error_bins(counted(of), BINS)
    beyond = {"visits": 0.0, "mae": 0.0, "rmse": 0.0}
    for noisy in draws(exact, 300, 7):
        bounds = error_estimates(noisy, plan, SITES).bounds
        for j, combination in enumerate(all_combinations(NAMES)):
            if own := bounds.get(combination_name(combination)):
                known = of[:, j][~np.isnan(of[:, j])]
                true = {"visits": len(known), "mae": known.mean(), "rmse": sqrt((known**2).mean())}
                for figure in beyond:
                    low, high = getattr(own, figure)
                    beyond[figure] += (not low - 1e-9 <= true[figure] <= high + 1e-9) / len(bounds)
    assert max(beyond.values()) < 0.06 * 300


@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
def test_bounds_hold_wherever_in_their_bins_errors_lie(place: float) -> None:
    plan = noised_plan(target_epsilon=EASY)
    ends = np.append(0.0, EDGES[BINS[:-1]])
    fine = at_ends(errors(2000))
    of = fine - (1 - place) * 0.999 * (fine - ends[np.searchsorted(ends, np.nan_to_num(fine)) - 1])
    for j, own in enumerate(error_estimates(in_error_bins(counted(of), BINS), plan, SITES).bounds.values()):
        known = np.minimum(of[:, j], LARGEST)
        assert own.mae[0] <= np.nanmean(known) <= own.mae[1]
        assert own.rmse[0] <= sqrt(np.nanmean(known**2)) <= own.rmse[1]


def test_what_is_said_is_not_chosen_for_its_large_errors() -> None:
    """Every other bin is above the mean's: noise that adds visits adds to their errors."""
    plan, exact = noised_plan(), in_error_bins(counted(errors(90)), BINS)
    still = error_estimates(exact, noised_plan(target_epsilon=EASY), SITES)
    off = [
        sums.mae - still.sums[name].mae
        for noisy in draws(exact, 300, 8)
        for name, sums in error_estimates(noisy, plan, SITES).sums.items()
    ]
    assert 100 < len(off) < 0.5 * 7 * 300, "noise decides"
    assert np.mean(off) < 0.3 * np.std(off)


def test_what_is_said_lies_within_its_bounds() -> None:
    plan, exact = noised_plan(), in_error_bins(counted(errors(150)), BINS)
    for noisy in draws(exact, 100, 9):
        found = error_estimates(noisy, plan, SITES)
        assert found.sums.keys() == found.bounds.keys()
        for name, sums in found.sums.items():
            own = found.bounds[name]
            assert own.visits[0] <= sums.n <= own.visits[1]
            assert own.mae[0] <= sums.mae <= own.mae[1] and own.rmse[0] <= sums.rmse <= own.rmse[1]


def test_of_a_combination_that_is_not_seen_behind_the_noise_nothing_is_said() -> None:
    plan, rng = noised_plan(), np.random.default_rng(2)
    noise = sqrt(error_noise(plan).variance * SITES)
    said = 0
    for _ in range(200):
        alone = np.rint(rng.normal(0, noise, (7, len(BINS)))).astype(np.int64)
        found = error_estimates(alone, plan, SITES)
        assert found.sums.keys() == found.bounds.keys() == found.counts.keys()
        said += len(found.sums)
        for sums in found.sums.values():
            assert 0 <= sums.mae <= 4.5 and sums.squared * sums.n >= sums.absolute**2 * (1 - 1e-9)
    assert said < 0.03 * 200 * 7, "three deviations"


def test_counts_below_zero_give_a_card_that_can_be_read() -> None:
    plan, rng = noised_plan(), np.random.default_rng(3)
    exact = in_error_bins(counted(errors(900)), BINS)
    noise = sqrt(error_noise(plan).variance * SITES)
    noisy = exact + np.rint(rng.normal(0, noise, exact.shape)).astype(np.int64)
    assert noisy.min() < 0
    found = error_estimates(noisy, plan, SITES)
    card = calibration_from(estimated_scores(found, SITES), plan)
    assert card and "with noise" in card.source and card.severity_ends == ()
    counts = card.counts(NAMES)
    assert counts.counts.min() == 0
    for name, sums in found.sums.items():
        assert found.counts[name].sum() == sums.n and found.counts[name].min() >= 0


@pytest.mark.parametrize("level", [0.8, 0.95])
@pytest.mark.parametrize("deviation", [3.0, 12.0])
def test_an_interval_is_as_long_as_without_noise_or_longer_nineteen_times_of_twenty(
    level: float, deviation: float
) -> None:
    rng, of = np.random.default_rng(4), errors(700)
    exact = counted(of)[:1]
    in_bins = in_error_bins(exact, BINS)[0]
    without = quantile(not_smaller(in_bins, BINS, 0.0), level)
    shorter = 0
    for _ in range(400):
        noisy = in_bins + np.rint(rng.normal(0, deviation, in_bins.shape)).astype(np.int64)
        shorter += quantile(not_smaller(noisy, BINS, deviation), level) < without
    assert shorter <= 0.08 * 400
    assert without == pytest.approx(quantile(exact[0], level), rel=0.03), "and without noise it is the same"


def quantile(row: np.ndarray, level: float) -> float:
    counts = np.zeros((7, 1, N_BINS), np.int64)
    counts[0, 0] = row
    n = np.array([row.sum()], np.int64)
    return ScoreCounts(NAMES, counts, n, np.ones((8, 1), np.int64)).quantile(all_combinations(NAMES)[0], level)


def test_all_visits_stay_in_the_counts_whatever_noise_says() -> None:
    rng = np.random.default_rng(6)
    for _ in range(300):
        row = rng.integers(-40, 60, len(BINS))
        if row.sum() <= 0:
            continue
        own = not_smaller(row, BINS, 20.0)
        assert own.shape == (N_BINS,) and own.sum() == row.sum() and own.min() >= 0
