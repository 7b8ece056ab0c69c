"""Bootstrap intervals over subjects, for one method and for the paired difference of two.

Errors come as [seed, subject] arrays: seeds may test different subjects (NaN where a seed did not test one). A resample
draws subjects, never rows, so that what one subject contributes in several seeds stays together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

Array = np.ndarray


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95% bootstrap interval over subjects; NaN throughout for n = 0."""

    n: int
    estimate: float
    lower: float
    upper: float


def resampling_weights(n_subjects: int, resamples: int, seed: int) -> Float[Array, "resample subject"]:
    """How often each subject is drawn in each bootstrap resample, with replacement."""
    if n_subjects == 0:
        return np.zeros((resamples, 0))
    generator = np.random.default_rng(seed)
    return generator.multinomial(n_subjects, np.full(n_subjects, 1 / n_subjects), size=resamples).astype(np.float64)


def rmse_interval(squared_error: Float[Array, "seed subject"], weights: Float[Array, "resample subject"]) -> Interval:
    """RMSE averaged over seeds. A subject that a seed did not test is NaN there and counts for other seeds only."""
    resampled, estimate, n = _mean_rmse(squared_error, weights)
    if n == 0:
        return Interval(0, np.nan, np.nan, np.nan)
    lower, upper = np.nanpercentile(resampled, [2.5, 97.5])
    return Interval(n, estimate, float(lower), float(upper))


def paired_difference(
    method: Sequence[Float[Array, "seed subject"]],
    reference: Sequence[Float[Array, "seed subject"]],
    weights: Float[Array, "resample subject"],
) -> Interval:
    """RMSE of the method − RMSE of the reference, averaged over the combinations listed, on the same subjects.

    Combinations without a subject are left out of the average; n is the number of subjects in any of them.
    """
    differences, estimates, tested = [], [], np.zeros(weights.shape[1], dtype=bool)
    for a, b in zip(method, reference, strict=True):
        both = ~np.isnan(a) & ~np.isnan(b)
        a, b = np.where(both, a, np.nan), np.where(both, b, np.nan)
        resampled_a, estimate_a, n = _mean_rmse(a, weights)
        resampled_b, estimate_b, _ = _mean_rmse(b, weights)
        if n:
            differences.append(resampled_a - resampled_b)
            estimates.append(estimate_a - estimate_b)
            tested |= both.any(0)
    if not estimates:
        return Interval(0, np.nan, np.nan, np.nan)
    lower, upper = np.nanpercentile(_mean_of_known(np.stack(differences, axis=1)), [2.5, 97.5])
    return Interval(int(tested.sum()), float(np.mean(estimates)), float(lower), float(upper))


def _mean_rmse(
    squared_error: Float[Array, "seed subject"], weights: Float[Array, "resample subject"]
) -> tuple[Float[Array, " resample"], float, int]:
    known = ~np.isnan(squared_error)
    used = known.any(1)
    if not used.any():
        return np.full(len(weights), np.nan), float("nan"), 0
    squared, known = np.where(known, squared_error, 0.0)[used], known[used].astype(np.float64)
    drawn = weights @ known.T
    with np.errstate(invalid="ignore", divide="ignore"):
        resampled = np.sqrt(weights @ squared.T / drawn)
    estimate = np.sqrt(squared.sum(1) / known.sum(1)).mean()
    return _mean_of_known(np.where(drawn > 0, resampled, np.nan)), float(estimate), int(known.any(0).sum())


def _mean_of_known(values: Float[Array, "row column"]) -> Float[Array, " row"]:
    """Each row's mean without its NaNs; NaN, and no warning, where nothing else is in it."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        mean: Array = np.where(known, values, 0.0).sum(1) / known.sum(1)
    return mean
