"""Intervals over seeds and subjects: what they are made of, what leaves them alone, and where there is none.

How often they hold the truth is simulated in tests/benchmarks/test_verdicts.py.
"""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from permmoe.evaluation.figures import contrast, difference_figure, mean_figure, ratio_change, rmse_figure
from permmoe.evaluation.intervals import (
    Interval,
    judged_interval,
    judged_p_value,
    of_one_model,
    over_seeds,
    paired_difference,
    rmse_interval,
    share_of_gap,
    why_not_judged,
)

pytestmark = pytest.mark.filterwarnings("error")


def errors(seed: int, seeds: int = 5, subjects: int = 37, tested: int = 23) -> np.ndarray:
    """Squared errors; every seed tests some of the subjects."""
    rng = np.random.default_rng(seed)
    squared = rng.exponential(size=(seeds, subjects))
    for row in squared:
        row[rng.permutation(subjects)[tested:]] = np.nan
    return squared


def ends(interval: Interval) -> tuple[float, float, float]:
    return interval.estimate, interval.lower, interval.upper


def test_the_influence_of_a_subject_is_what_leaving_it_out_changes() -> None:
    """Draw by draw, seed by seed: the jackknife in a loop."""
    squared = errors(0)
    figure = rmse_figure(squared)
    for row, value, influence in zip(squared, figure.by_seed, figure.influence, strict=True):
        here = np.flatnonzero(~np.isnan(row))
        without = np.array([np.sqrt(np.mean(np.delete(row[here], j))) for j in range(len(here))])
        assert value == pytest.approx(np.sqrt(np.mean(row[here])))
        scale = np.sqrt((len(here) - 1) / len(here))
        assert influence[here] == pytest.approx((without.mean() - without) * scale)
        assert (np.delete(influence, here) == 0).all()
    assert figure.n == (~np.isnan(squared)).any(0).sum() and figure.seeds == 5


def test_one_seed_and_no_split_is_the_jackknife_of_scipys_standard_error() -> None:
    squared = np.random.default_rng(1).exponential(size=(1, 4001))
    reference = scipy.stats.bootstrap(
        (squared[0],), lambda x, axis: np.sqrt(x.mean(axis)), n_resamples=1000, rng=np.random.default_rng(0)
    ).standard_error
    assert of_one_model(rmse_figure(squared)).standard_error == pytest.approx(reference, rel=0.1)


def test_copies_of_one_seed_add_nothing_to_what_the_subjects_say() -> None:
    """Five seeds that agree on the same subjects are as good as one: the interval stays as wide."""
    squared = errors(2, seeds=1, tested=37)
    once, copied = of_one_model(rmse_figure(squared)), over_seeds(rmse_figure(np.repeat(squared, 5, axis=0)))
    assert copied.standard_error == pytest.approx(once.standard_error)


def test_seeds_that_differ_for_everybody_widen_the_interval_as_their_own_t_test_does() -> None:
    """With many subjects and a shift of whole seeds only the seeds matter: Student's interval over five values."""
    rng = np.random.default_rng(3)
    squared = (2.0 + rng.normal(0, 0.5, size=(5, 1)) + rng.normal(0, 0.01, size=(5, 4001))) ** 2
    reference = (np.full((5, 4001), 1.0) + rng.normal(0, 0.01, size=(5, 4001))) ** 2
    found = paired_difference([squared], [reference])
    by_seed = difference_figure([squared], [reference]).by_seed
    student = scipy.stats.t.interval(0.95, 4, by_seed.mean(), scipy.stats.sem(by_seed))
    assert (found.lower, found.upper) == pytest.approx(student, rel=1e-3)


def test_adding_the_same_errors_changes_no_p_value_and_the_order_of_seeds_and_subjects_neither() -> None:
    a, b = errors(4), errors(4) + np.random.default_rng(5).uniform(0, 0.3, size=(5, 37))
    found = paired_difference([a], [b])
    seeds, subjects = np.random.default_rng(6).permutation(5), np.random.default_rng(7).permutation(37)
    moved = paired_difference([a[seeds][:, subjects]], [b[seeds][:, subjects]])
    assert ends(moved) == pytest.approx(ends(found)) and moved.p_value == pytest.approx(found.p_value)
    swapped = paired_difference([b], [a])
    assert (swapped.lower, swapped.upper) == pytest.approx((-found.upper, -found.lower))
    assert swapped.p_value == pytest.approx(found.p_value)


def test_a_constant_added_to_both_figures_changes_nothing_of_their_difference() -> None:
    """A figure is its seeds' values and influences: what is common to all seeds and subjects has neither."""
    a, b = rmse_figure(errors(8)), rmse_figure(errors(8) + 0.1)
    plain = contrast([a, b], [1.0, -1.0])
    raised = [type(f)(f.by_seed + 7.0, f.influence, f.known, f.tested) for f in (a, b)]
    assert ends(judged_interval(contrast(raised, [1.0, -1.0]))) == pytest.approx(ends(judged_interval(plain)))


def test_pairing_cancels_what_both_methods_share() -> None:
    rng = np.random.default_rng(9)
    shared = errors(9) * 10
    a, b = shared + 0.1, shared + rng.uniform(0, 0.02, size=shared.shape)
    interval, apart = paired_difference([a], [b]), rmse_interval(a)
    assert interval.upper - interval.lower < 0.1 * (apart.upper - apart.lower)
    assert 0 < interval.lower < interval.estimate < interval.upper


def test_a_method_differs_from_itself_by_exactly_nothing_and_that_is_no_verdict() -> None:
    found = paired_difference([errors(10), errors(11)], [errors(10), errors(11)])
    assert (*ends(found), found.p_value, found.effect_size) == (0, 0, 0, 1, 0)


def test_constant_errors_have_an_interval_without_width() -> None:
    assert ends(rmse_interval(np.full((5, 11), 4.0))) == (2.0, 2.0, 2.0)
    assert ends(rmse_interval(np.zeros((5, 11)))) == (0.0, 0.0, 0.0)
    found = paired_difference([np.full((5, 11), 4.0)], [np.full((5, 11), 1.0)])
    assert (*ends(found), found.p_value) == (1.0, 1.0, 1.0, 0.0)


def test_only_subjects_that_both_methods_tested_count() -> None:
    a, b = np.array([[1.0, 4.0, np.nan, 9.0]]), np.array([[1.0, np.nan, 4.0, 1.0]])
    found = paired_difference([a], [b])
    assert found.n == 2 and found.estimate == pytest.approx(np.sqrt(5) - 1)


def test_combinations_without_a_subject_are_left_out_of_the_average() -> None:
    a, b, nobody = np.full((5, 11), 9.0), np.full((5, 11), 4.0), np.full((5, 11), np.nan)
    found = paired_difference([a, nobody], [b, nobody])
    assert (found.n, *ends(found)) == (11, 1.0, 1.0, 1.0)


def test_a_seed_that_tested_nobody_leaves_the_estimate_to_the_others_and_is_not_counted() -> None:
    squared = errors(12, seeds=7)
    squared[3] = np.nan
    found = rmse_interval(squared)
    assert found.estimate == pytest.approx(np.mean([np.sqrt(np.nanmean(row)) for row in np.delete(squared, 3, 0)]))
    assert found.seeds == 6
    full = rmse_interval(np.delete(squared, 3, 0))
    assert found.upper - found.lower == pytest.approx(full.upper - full.lower, rel=0.2)


@pytest.mark.parametrize(
    ("n", "seeds", "why"),
    [
        (0, 5, "no subject"),
        (400, 4, "4 training seeds, fewer than 5"),
        (400, 1, "1 training seed, fewer than 5"),
        (9, 5, "n = 9, fewer than 10"),
        (10, 5, ""),
    ],
)
def test_too_few_seeds_or_subjects_have_a_point_and_no_judgement(n: int, seeds: int, why: str) -> None:
    assert why_not_judged(n, seeds) == why
    a = np.random.default_rng(13).exponential(size=(seeds, n))
    found = paired_difference([a], [a * 4])
    assert (found.n, found.seeds) == (n, seeds if n else 0) and np.isnan(found.estimate) == (n == 0)
    if n:
        assert found.estimate == pytest.approx(-np.sqrt(a.mean(1)).mean())
    assert np.isnan(found.p_value) == np.isnan(found.lower) == np.isnan(found.upper) == bool(why)


def test_one_trained_model_has_an_interval_over_subjects_and_two_to_four_seeds_have_none() -> None:
    one = errors(14, seeds=1)
    assert 0 < rmse_interval(one).lower < rmse_interval(one).estimate < rmse_interval(one).upper
    assert np.isnan(rmse_interval(one[:, :9]).lower)
    assert np.isnan(rmse_interval(errors(14, seeds=4)).lower) and rmse_interval(errors(14, seeds=4)).estimate > 0
    with pytest.raises(ValueError, match="no spread over seeds"):
        over_seeds(rmse_figure(one))


def test_nobody_gives_n_0_and_no_figure() -> None:
    nobody = np.full((5, 7), np.nan)
    for found in (
        rmse_interval(nobody),
        rmse_interval(np.zeros((1, 0))),
        paired_difference([nobody], [np.ones((5, 7))]),
        paired_difference([], []),
        share_of_gap(rmse_figure(nobody), rmse_figure(nobody)),
    ):
        assert found.n == 0 and np.isnan(ends(found)).all()
    with pytest.raises(ValueError, match="one combination"):
        mean_figure([])
    with pytest.raises(ValueError, match="percentage of nothing"):
        ratio_change(rmse_figure(np.ones((5, 7))), rmse_figure(np.zeros((5, 7))))


def test_a_percentage_is_that_of_the_means_and_does_not_depend_on_the_unit() -> None:
    a, b = errors(15), errors(15) * 1.5 + 0.2
    change = ratio_change(rmse_figure(a), rmse_figure(b))
    means = [np.mean([np.sqrt(np.nanmean(row)) for row in e]) for e in (a, b)]
    assert change.value == pytest.approx(100 * (means[0] / means[1] - 1))
    scaled = ratio_change(rmse_figure(a * 49), rmse_figure(b * 49))
    assert ends(judged_interval(scaled)) == pytest.approx(ends(judged_interval(change)))
    assert judged_p_value(change) == pytest.approx(judged_p_value(difference_figure([a], [b])), rel=0.3, abs=1e-4)


def gap(low: float, method: float, high: float, noise: float) -> Interval:
    rng = np.random.default_rng(16)
    error = rng.uniform(1, 2, size=(5, 41))

    def squared(scale: float) -> list[np.ndarray]:
        return [(scale * error + rng.normal(0, noise, size=(5, 41))) ** 2]

    lower, own, upper = squared(low), squared(method), squared(high)
    return share_of_gap(difference_figure(lower, own), difference_figure(lower, upper))


def test_a_share_is_nought_at_the_lower_method_one_at_the_upper_and_half_between() -> None:
    for method, share in ((3.0, 0.0), (2.0, 0.5), (1.0, 1.0)):
        assert ends(gap(3.0, method, 1.0, 0.0)) == pytest.approx((share, share, share), abs=1e-6)


def test_the_ends_of_a_share_are_where_the_test_turns_and_infinite_for_a_gap_that_may_be_nothing() -> None:
    found = gap(3.0, 2.0, 1.0, 0.5)
    assert found.lower < 0.5 < found.upper and found.upper - found.lower < 0.4
    assert gap(3.0, 3.1, 3.0, 0.5).upper == np.inf or gap(3.0, 3.1, 3.0, 0.5).lower == -np.inf
