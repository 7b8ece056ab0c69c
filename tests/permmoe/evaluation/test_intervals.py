"""Bootstrap intervals over subjects cover, pair, and say nothing where there is nothing to say."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from permmoe.evaluation.intervals import paired_difference, resampling_weights, rmse_interval, share_of_gap

pytestmark = pytest.mark.filterwarnings("error")


def slow_rmse_interval(squared_error: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    """Draw by draw, seed by seed."""
    resampled = []
    for weight in weights:
        of_seeds = []
        for errors in squared_error:
            drawn = [e for e, times in zip(errors, weight, strict=True) for _ in range(int(times)) if not np.isnan(e)]
            if drawn:
                of_seeds.append(np.sqrt(np.mean(drawn)))
        if of_seeds:
            resampled.append(np.mean(of_seeds))
    return np.percentile(resampled, 2.5), np.percentile(resampled, 97.5)


def test_weights_draw_every_resample_with_replacement_and_depend_on_the_seed_only() -> None:
    weights = resampling_weights(11, 300, seed=3)
    assert weights.shape == (300, 11)
    assert (weights.sum(1) == 11).all()
    assert weights.max() > 1 and weights.min() == 0
    assert weights.mean(0) == pytest.approx(np.ones(11), abs=0.3)
    assert np.array_equal(weights, resampling_weights(11, 300, seed=3))
    assert not np.array_equal(weights, resampling_weights(11, 300, seed=4))


def test_interval_agrees_with_drawing_one_subject_at_a_time() -> None:
    errors = np.random.default_rng(0).exponential(size=(3, 7))
    errors[0, 1] = errors[2, 5] = errors[1, :6] = np.nan
    weights = resampling_weights(7, 101, seed=0)
    interval = rmse_interval(errors, weights)
    assert (interval.lower, interval.upper) == pytest.approx(slow_rmse_interval(errors, weights))
    assert interval.estimate == pytest.approx(np.mean([np.sqrt(np.nanmean(row)) for row in errors]))
    assert interval.n == 7


def test_95_percent_intervals_cover_the_truth_about_95_times_in_100() -> None:
    rng = np.random.default_rng(1)
    weights = resampling_weights(79, 400, seed=0)
    covered = 0
    for _ in range(300):
        interval = rmse_interval(rng.normal(0, 1.5, size=(1, 79)) ** 2, weights)
        covered += interval.lower <= 1.5 <= interval.upper
    assert 0.89 <= covered / 300 <= 0.98


def test_subject_of_several_seeds_is_drawn_with_all_of_them() -> None:
    """Copies of one seed add no information: the interval stays as wide."""
    errors = np.random.default_rng(2).exponential(size=(1, 31))
    weights = resampling_weights(31, 500, seed=0)
    once, copied = rmse_interval(errors, weights), rmse_interval(np.repeat(errors, 5, axis=0), weights)
    assert (copied.lower, copied.estimate, copied.upper) == pytest.approx((once.lower, once.estimate, once.upper))
    assert copied.n == once.n == 31


def test_nobody_gives_n_0_and_no_figure() -> None:
    weights = resampling_weights(5, 50, seed=0)
    for interval in (
        rmse_interval(np.full((2, 5), np.nan), weights),
        rmse_interval(np.zeros((1, 0)), resampling_weights(0, 50, seed=0)),
        paired_difference([np.full((1, 5), np.nan)], [np.ones((1, 5))], weights),
        paired_difference([], [], weights),
    ):
        assert interval.n == 0
        assert np.isnan([interval.estimate, interval.lower, interval.upper]).all()


def test_one_subject_among_many_gives_its_own_error_as_interval() -> None:
    errors = np.full((2, 13), np.nan)
    errors[1, 4] = 9.0
    interval = rmse_interval(errors, resampling_weights(13, 200, seed=0))
    assert (interval.n, interval.estimate, interval.lower, interval.upper) == (1, 3.0, 3.0, 3.0)
    paired = paired_difference([errors], [errors / 9], resampling_weights(13, 200, seed=0))
    assert (paired.n, paired.estimate, paired.lower, paired.upper) == (1, 2.0, 2.0, 2.0)


def test_constant_error_has_an_interval_without_width() -> None:
    interval = rmse_interval(np.full((3, 7), 4.0), resampling_weights(7, 100, seed=0))
    assert (interval.estimate, interval.lower, interval.upper) == (2.0, 2.0, 2.0)


def test_method_differs_from_itself_by_exactly_0() -> None:
    errors = [np.random.default_rng(i).exponential(size=(3, 17)) for i in range(2)]
    errors[0][1, :5] = np.nan
    interval = paired_difference(errors, errors, resampling_weights(17, 100, seed=0))
    assert (interval.n, interval.estimate, interval.lower, interval.upper) == (17, 0.0, 0.0, 0.0)


def test_pairing_cancels_what_both_methods_share() -> None:
    rng = np.random.default_rng(3)
    shared = rng.exponential(size=(1, 101)) * 10
    a, b = shared + 0.1, shared + rng.uniform(0, 0.02, size=(1, 101))
    weights = resampling_weights(101, 1000, seed=0)
    interval, apart = paired_difference([a], [b], weights), rmse_interval(a, weights)
    assert interval.upper - interval.lower < 0.1 * (apart.upper - apart.lower)
    assert 0 < interval.lower < interval.estimate < interval.upper
    swapped = paired_difference([b], [a], weights)
    assert (swapped.lower, swapped.upper) == pytest.approx((-interval.upper, -interval.lower))


def test_only_subjects_that_both_methods_tested_count() -> None:
    a, b = np.array([[1.0, 4.0, np.nan, 9.0]]), np.array([[1.0, np.nan, 4.0, 1.0]])
    interval = paired_difference([a], [b], resampling_weights(4, 100, seed=0))
    assert interval.n == 2
    assert interval.estimate == pytest.approx(np.sqrt(5) - 1)


def test_combinations_without_a_subject_are_left_out_of_the_average() -> None:
    a, b, nobody = np.full((1, 5), 9.0), np.full((1, 5), 4.0), np.full((1, 5), np.nan)
    interval = paired_difference([a, nobody], [b, nobody], resampling_weights(5, 100, seed=0))
    assert (interval.n, interval.estimate, interval.lower, interval.upper) == (5, 1.0, 1.0, 1.0)


def test_paired_difference_agrees_with_scipys_bootstrap() -> None:
    """One seed, one combination, nothing missing: then the cluster bootstrap is the ordinary paired one."""
    rng = np.random.default_rng(4)
    a = rng.normal(0, 1.0, 61) ** 2
    b = a + rng.normal(0.3, 0.4, 61) ** 2
    found = paired_difference([a[None]], [b[None]], resampling_weights(61, 8000, seed=0))
    reference = scipy.stats.bootstrap(
        (a, b), lambda x, y, axis: np.sqrt(x.mean(axis)) - np.sqrt(y.mean(axis)), paired=True, vectorized=True,
        n_resamples=8000, method="percentile", rng=np.random.default_rng(1),
    ).confidence_interval  # fmt: skip
    assert (found.lower, found.upper) == pytest.approx((reference.low, reference.high), abs=0.01)
    assert found.effect_size == pytest.approx((a - b).mean() / (a - b).std(ddof=1))
    assert found.p_value == 2 / 8000


def test_p_value_is_about_uniform_where_two_methods_are_alike() -> None:
    rng = np.random.default_rng(5)
    weights = resampling_weights(59, 400, seed=0)
    found = []
    for _ in range(300):
        a, b = rng.normal(0, 1, (2, 1, 59)) ** 2
        found.append(paired_difference([a], [b], weights).p_value)
    assert np.mean(np.array(found) < 0.05) == pytest.approx(0.05, abs=0.04)
    assert np.mean(np.array(found) < 0.5) == pytest.approx(0.5, abs=0.1)


def test_share_of_the_gap_is_nought_at_the_lower_method_one_at_the_upper_and_half_between() -> None:
    weights = resampling_weights(41, 300, seed=0)
    error = np.random.default_rng(6).uniform(1, 2, size=(3, 41))
    low, middle, high = ([(scale * error) ** 2] for scale in (3.0, 2.0, 1.0))
    for method, share in ((low, 0.0), (middle, 0.5), (high, 1.0)):
        found = share_of_gap(method, low, high, weights)
        assert (found.estimate, found.lower, found.upper) == pytest.approx((share, share, share))
    assert share_of_gap([np.full((3, 41), np.nan)], low, high, weights).n == 0


def test_a_gap_that_may_be_nothing_has_no_shares() -> None:
    weights = resampling_weights(41, 300, seed=0)
    rng = np.random.default_rng(7)
    low, high = (rng.normal(0, 1, size=(1, 41)) ** 2 for _ in range(2))
    found = share_of_gap([low], [low], [high], weights)
    assert found.n == 41 and np.isnan([found.estimate, found.lower, found.upper]).all()
