"""Two more sums over the visits of `ErrorSums`, with which a finished model is judged: its bias, and an interval."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from permmoe.evaluation.combinations import ErrorSums
from permmoe.evaluation.consistent_sums import TOLERANCE
from permmoe.evaluation.intervals import FEWEST_SUBJECTS, USUAL_KURTOSIS, Estimate, Interval


@dataclass(frozen=True)
class FurtherSums:
    """Sums over the visits of one combination."""

    signed: float
    """Σ (prediction − target), points: above zero where a model predicts too much."""
    fourth: float
    """Σ (prediction − target)⁴: how much the squared errors vary from patient to patient."""

    def __add__(self, other: FurtherSums) -> FurtherSums:
        return FurtherSums(self.signed + other.signed, self.fourth + other.fourth)


def further_sums(prediction: Float[np.ndarray, " visit"], target: Float[np.ndarray, " visit"]) -> FurtherSums:
    """Sums over the visits whose prediction and target are known (not NaN)."""
    error = (prediction - target)[~np.isnan(prediction) & ~np.isnan(target)]
    return FurtherSums(float(error.sum()), float((error**4).sum()))


def go_together(sums: ErrorSums, further: FurtherSums, outcome_range: tuple[float, float] | None) -> bool:
    """Whether the same errors can have these sums."""
    if not (math.isfinite(further.signed) and math.isfinite(further.fourth) and further.fourth >= 0):
        return False
    rules = [
        # "The sum of errors is no larger than that of their sizes."
        (abs(further.signed), sums.absolute),
        # "The mean of squares is no less than the square of the mean", of errors and of their squares.
        (further.signed * further.signed, sums.n * sums.squared),
        (sums.squared * sums.squared, sums.n * further.fourth),
    ]
    if outcome_range:
        # "No prediction is further from its outcome than the range is wide."
        rules.append((further.fourth, (outcome_range[1] - outcome_range[0]) ** 2 * sums.squared))
    return all(less <= more + TOLERANCE * max(1.0, abs(less), abs(more)) for less, more in rules)


def rmse_from_sums(sums: ErrorSums, further: FurtherSums) -> Interval:
    """The RMSE of one trained model with its 95% interval over patients, from sums alone.

    As permmoe.evaluation.intervals.of_one_model has it (delta method, Student's quantile), except that the kurtosis of
    squared errors is taken as usual (USUAL_KURTOSIS): to estimate it would need one more sum. Patients of the same
    hospitals vary; another hospital is not in the interval. Without ends (NaN) for fewer than FEWEST_SUBJECTS visits.
    """
    n, rmse = sums.n, sums.rmse
    if n < FEWEST_SUBJECTS or not rmse > 0:
        return Interval(n, rmse, math.nan, math.nan)
    variance_of_squares = max(further.fourth / n - (sums.squared / n) ** 2, 0.0)
    standard_error = math.sqrt(variance_of_squares / n) / (2 * rmse)
    degrees = float(np.clip(2 * n / (USUAL_KURTOSIS - 1), 2.0, n - 1))
    return Interval(n, rmse, *Estimate(rmse, standard_error, degrees, is_rmse=True).bounds())


def bias_from_sums(sums: ErrorSums, further: FurtherSums) -> Interval:
    """The mean of prediction − target with its 95% interval over patients, points."""
    n = sums.n
    bias = further.signed / n if n else math.nan
    if n < FEWEST_SUBJECTS:
        return Interval(n, bias, math.nan, math.nan)
    spread = math.sqrt(max(sums.squared / n - bias * bias, 0.0) * n / (n - 1))
    return Interval(n, bias, *Estimate(bias, spread / math.sqrt(n), n - 1.0).bounds())
