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


@dataclass(frozen=True)
class Difference(Interval):
    """A paired difference in RMSE, with its test against zero."""

    p_value: float
    """Two-sided, from the same resamples: twice the smaller share of them beyond zero; never below 2 / resamples."""
    effect_size: float
    """Cohen's d of paired values: mean over subjects of the difference in squared error, over its SD."""


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
) -> Difference:
    """RMSE of the method − RMSE of the reference, averaged over the combinations listed, on the same subjects.

    Combinations without a subject are left out of the average; n is the number of subjects in any of them.
    """
    found = paired_resamples(method, reference, weights)
    if found is None:
        return Difference(0, np.nan, np.nan, np.nan, np.nan, np.nan)
    resampled, estimate, n = found
    lower, upper = np.nanpercentile(resampled, [2.5, 97.5])
    beyond = min((resampled <= 0).mean(), (resampled >= 0).mean())
    p_value = float(np.clip(2 * beyond, 2 / len(resampled), 1.0))
    # First the mean of each subject over its seeds and combinations: one subject, one value.
    change = _mean_of_known(np.concatenate([a - b for a, b in zip(method, reference, strict=True)]).T)
    change = change[~np.isnan(change)]
    spread = change.std(ddof=1) if len(change) > 1 else 0.0
    effect = float(change.mean() / spread) if spread > 0 else 0.0
    return Difference(n, estimate, float(lower), float(upper), p_value, effect)


def share_of_gap(
    method: Sequence[Float[Array, "seed subject"]],
    lower: Sequence[Float[Array, "seed subject"]],
    upper: Sequence[Float[Array, "seed subject"]],
    weights: Float[Array, "resample subject"],
) -> Interval:
    """(RMSE of lower − RMSE of method) / (RMSE of lower − RMSE of upper), each averaged over the combinations listed.

    It is 1 where the method is as good as `upper` and 0 where it is as bad as `lower`, on the same subjects throughout.
    All three figures are NaN where the gap's own 95% interval does not lie above zero: there is nothing to share.
    """
    gained = paired_resamples(lower, method, weights)
    gap = paired_resamples(lower, upper, weights)
    if gained is None or gap is None or not gap[1]:
        return Interval(0, np.nan, np.nan, np.nan)
    if not np.nanpercentile(gap[0], 2.5) > 0:
        return Interval(min(gained[2], gap[2]), np.nan, np.nan, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        low, high = np.nanpercentile(gained[0] / gap[0], [2.5, 97.5])
    return Interval(min(gained[2], gap[2]), gained[1] / gap[1], float(low), float(high))


def paired_resamples(
    a: Sequence[Float[Array, "seed subject"]],
    b: Sequence[Float[Array, "seed subject"]],
    weights: Float[Array, "resample subject"],
) -> tuple[Float[Array, " resample"], float, int] | None:
    """Resampled RMSE differences a − b, their estimate, and the number of subjects; None without a subject."""
    differences, estimates, tested = [], [], np.zeros(weights.shape[1], dtype=bool)
    for one, other in zip(a, b, strict=True):
        both = ~np.isnan(one) & ~np.isnan(other)
        resampled_one, estimate_one, n = _mean_rmse(np.where(both, one, np.nan), weights)
        resampled_other, estimate_other, _ = _mean_rmse(np.where(both, other, np.nan), weights)
        if n:
            differences.append(resampled_one - resampled_other)
            estimates.append(estimate_one - estimate_other)
            tested |= both.any(0)
    if not estimates:
        return None
    return _mean_of_known(np.stack(differences, axis=1)), float(np.mean(estimates)), int(tested.sum())


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
    """Each row's mean without its NaNs; NaN, and no warning, for a row of nothing else."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        mean: Array = np.where(known, values, 0.0).sum(1) / known.sum(1)
    return mean
