"""A model at a hospital that did not train it: the limits of few and many patients, and what holds on average."""

from __future__ import annotations

import numpy as np
import pytest

from permmoe.calibration.at_hospital import (
    CHOSEN,
    LEAST_PATIENTS,
    NORMAL_REACH,
    AtHospital,
    Matrix,
    at_hospital,
)
from permmoe.errors import DataError


def patients(
    rng: np.random.Generator, n: int, *, offset: float = 0.0, slope: float = 1.0, scatter: float = 1.0
) -> tuple[Matrix, np.ndarray]:
    """Predictions of three combinations, of which patients lack some, and outcomes; the model's errors have SD 1."""
    predictions = rng.normal(1, 1.5, size=(n, 1)).repeat(3, axis=1)
    predictions[:, 1:][rng.random((n, 2)) < 0.4] = np.nan
    return predictions, offset + slope * predictions[:, 0] + scatter * rng.normal(size=n)


def fitted(predictions: Matrix, target: np.ndarray) -> AtHospital:
    return at_hospital(predictions, target, np.full(predictions.shape, NORMAL_REACH))


def share_held(found: AtHospital, predictions: Matrix, target: np.ndarray) -> float:
    at = found.line.intercept + found.line.slope * predictions[:, 0]
    return float((np.abs(target - at) <= found.widening * NORMAL_REACH).mean())


@pytest.mark.parametrize("n", [10, 20, 50])
def test_at_a_hospital_like_the_models_own_intervals_hold_within_three_points_of_what_they_promise(n: int) -> None:
    rng = np.random.default_rng(n)
    held = [share_held(fitted(*patients(rng, n)), *patients(rng, 500)) for _ in range(200)]
    assert 0.77 < np.mean(held) < 0.83


@pytest.mark.parametrize("n", [10, 20, 50])
def test_at_hospitals_that_differ_as_the_prior_says_they_hold_too_and_the_models_own_do_not(n: int) -> None:
    rng, held, before = np.random.default_rng(n), [], []
    for _ in range(300):
        about = {
            "offset": rng.normal(0, CHOSEN.offset_worth**-0.5),
            "slope": rng.normal(1, 0.5),
            "scatter": np.exp(rng.normal(0, 0.25)),
        }
        own, new = patients(rng, n, **about), patients(rng, 500, **about)
        held.append(share_held(fitted(*own), *new))
        before.append(float((np.abs(new[1] - new[0][:, 0]) <= NORMAL_REACH).mean()))
    assert 0.77 < np.mean(held) < 0.83 and np.mean(before) < 0.72


def test_many_patients_are_believed_and_few_change_little() -> None:
    rng, about = np.random.default_rng(0), {"offset": -2.0, "slope": 0.6, "scatter": 1.5}
    many = fitted(*patients(rng, 4000, **about))
    assert many.line.intercept == pytest.approx(-2.0, abs=0.1) and many.line.slope == pytest.approx(0.6, abs=0.05)
    assert many.widening == pytest.approx(1.5, abs=0.1)
    few = [fitted(*patients(rng, 10, **about)) for _ in range(200)]
    assert np.mean([np.log(one.widening) for one in few]) < 0.6 * np.log(1.7)
    assert 0.6 < np.mean([one.line.slope for one in few]) < 1


def test_an_offset_is_drawn_to_zero_as_if_three_more_patients_had_none() -> None:
    predictions = np.tile([[0.0], [2.0]], (10, 1))
    found = fitted(predictions, predictions[:, 0] - 1.0)
    assert found.line.slope == 1.0
    assert found.line.intercept == pytest.approx(-20 / (20 + CHOSEN.offset_worth))
    # What is left of the offset is the error of each patient, whom the others did not know.
    error = 1 - 19 / (19 + CHOSEN.offset_worth)
    assert found.widening == pytest.approx((error / NORMAL_REACH) ** (20 / (20 + CHOSEN.scale_worth)))


def test_neither_the_order_of_patients_nor_how_many_combinations_they_have_changes_anything() -> None:
    rng = np.random.default_rng(3)
    predictions, target = patients(rng, 31, offset=1.0)
    order = rng.permutation(31)
    found, shuffled = fitted(predictions, target), fitted(predictions[order], target[order])
    twice = fitted(np.concatenate([predictions, predictions], axis=1), target)
    for other in (shuffled, twice):
        assert other.line.intercept == pytest.approx(found.line.intercept)
        assert other.line.slope == pytest.approx(found.line.slope)
        assert other.widening == pytest.approx(found.widening)


def test_patients_without_an_outcome_and_predictions_without_an_interval_do_not_count() -> None:
    rng = np.random.default_rng(4)
    predictions, target = patients(rng, 23)
    found = fitted(predictions, target)
    more, unknown = np.concatenate([predictions, np.ones((2, 3))]), np.concatenate([target, [np.nan, np.nan]])
    assert fitted(more, unknown) == found
    reach = np.full((23, 4), NORMAL_REACH)
    reach[:, 3] = np.inf
    wider = np.concatenate([predictions, np.full((23, 1), 40.0)], axis=1)
    assert at_hospital(wider, target, reach) == found


def test_a_slope_below_zero_turns_no_order_around() -> None:
    predictions = np.linspace(-5, 5, 40)[:, None]
    assert fitted(predictions, -3 * predictions[:, 0]).line.slope == 0.0


def test_too_few_patients_and_a_single_outcome_are_refused() -> None:
    rng = np.random.default_rng(5)
    predictions, target = patients(rng, LEAST_PATIENTS)
    assert fitted(predictions, target).widening > 0
    with pytest.raises(DataError, match="9 visits with an outcome are too few"):
        fitted(predictions[1:], target[1:])
    with pytest.raises(DataError, match="all 10 visits have the same outcome, 2"):
        fitted(predictions, np.full(10, 2.0))
