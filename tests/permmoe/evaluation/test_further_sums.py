"""Bias and intervals from sums alone are those of the errors that the sums are of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from permmoe.evaluation.combinations import ErrorSums, error_sums
from permmoe.evaluation.figures import rmse_figure
from permmoe.evaluation.further_sums import FurtherSums, bias_from_sums, further_sums, go_together, rmse_from_sums
from permmoe.evaluation.intervals import rmse_interval

RANGE = (-18.0, 18.0)
ERRORS = st.lists(st.tuples(st.floats(-18, 18), st.floats(-18, 18)), min_size=1, max_size=23)


def both(pairs: list[tuple[float, float]]) -> tuple[ErrorSums, FurtherSums]:
    prediction, target = np.array(pairs, dtype=np.float64).T
    return error_sums(prediction, target), further_sums(prediction, target)


@given(ERRORS, ERRORS)
def test_sums_of_any_errors_go_together_and_so_do_those_of_two_sites(
    one: list[tuple[float, float]], other: list[tuple[float, float]]
) -> None:
    (sums, further), (sums2, further2) = both(one), both(other)
    assert go_together(sums, further, RANGE) and go_together(sums, further, None)
    together, further_together = both(one + other)
    assert go_together(sums + sums2, further + further2, RANGE)
    assert (further + further2).signed == pytest.approx(further_together.signed, abs=1e-9)
    assert (sums + sums2).n == together.n


@pytest.mark.parametrize(
    "lie",
    [
        FurtherSums(5.0, 9.0),
        FurtherSums(0.0, 0.5),
        FurtherSums(0.0, 1e7),
        FurtherSums(np.nan, 9.0),
        FurtherSums(0.0, -1.0),
    ],
)
def test_sums_that_no_errors_have_do_not_go_together(lie: FurtherSums) -> None:
    sums, _ = both([(1.0, 0.0), (0.0, 1.0), (1.0, 0.0)])
    assert not go_together(sums, lie, RANGE)


def test_unknown_outcomes_are_left_out() -> None:
    assert further_sums(np.array([1.0, 2.0, np.nan]), np.array([0.5, np.nan, 1.0])) == FurtherSums(0.5, 0.0625)


def test_an_rmse_has_the_standard_error_that_patients_alone_would_give() -> None:
    rng = np.random.default_rng(3)
    error = rng.standard_t(4, 211)
    found = rmse_from_sums(*both([(float(e), 0.0) for e in error]))
    reference = rmse_interval(error[None] ** 2)
    figure = rmse_figure(error[None] ** 2)
    assert found.estimate == pytest.approx(reference.estimate) == pytest.approx(figure.value)
    # The quantile differs, since the kurtosis is taken as usual: the ends are a little further out or in.
    assert np.log(found.upper / found.lower) == pytest.approx(np.log(reference.upper / reference.lower), rel=0.25)


def test_intervals_hold_the_true_figures_about_as_often_as_they_say() -> None:
    rng, hits_rmse, hits_bias = np.random.default_rng(7), 0, 0
    for _ in range(400):
        sums, further = both([(float(e), 0.0) for e in rng.normal(0.3, 1.0, 60)])
        rmse, bias = rmse_from_sums(sums, further), bias_from_sums(sums, further)
        hits_rmse += rmse.lower <= np.sqrt(1.09) <= rmse.upper
        hits_bias += bias.lower <= 0.3 <= bias.upper
    assert hits_rmse / 400 >= 0.93 and 0.92 <= hits_bias / 400 <= 0.98


def test_few_patients_have_figures_and_no_intervals() -> None:
    sums, further = both([(1.0, 0.0)] * 9)
    assert (rmse_from_sums(sums, further).estimate, bias_from_sums(sums, further).estimate) == (1.0, 1.0)
    assert np.isnan([rmse_from_sums(sums, further).lower, bias_from_sums(sums, further).upper]).all()
