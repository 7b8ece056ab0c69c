"""Figures of a comparison, each kept as what every training seed and every test subject contributes to it.

Errors come as [seed, subject] arrays: a seed stands for a training and for the split that it was trained on, so seeds
may test different subjects (NaN where a seed did not test one). Every figure that a study states is an RMSE or made of
RMSEs: a difference, a mean over combinations, a percentage, a slope over regimes. All of them keep the same two axes,
so that permmoe.evaluation.intervals has one rule for all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

Array = np.ndarray


@dataclass(frozen=True)
class Figure:
    """A figure averaged over seeds, and where it comes from."""

    by_seed: Float[Array, " seed"]
    """Its value with each seed; their mean is the figure. A seed that tested nobody has the others' mean."""
    influence: Float[Array, "seed subject"]
    """By how much each subject moves the seed's value (jackknife); 0 where the seed did not test it. Squares that are
    summed over subjects are the variance of the seed's value that comes from which subjects are tested."""
    known: Bool[Array, " seed"]
    """Seeds that tested somebody."""
    tested: Bool[Array, " subject"]
    """Subjects whom some seed tested."""

    @property
    def value(self) -> float:
        """The figure itself; NaN where nobody was tested."""
        return float(self.by_seed.mean()) if self.n else float("nan")

    @property
    def n(self) -> int:
        """Subjects whom some seed tested."""
        return int(self.tested.sum())

    @property
    def seeds(self) -> int:
        """Seeds that tested somebody."""
        return int(self.known.sum())


def rmse_figure(squared_error: Float[Array, "seed subject"]) -> Figure:
    """RMSE. The influence of a subject is what leaving it out changes (Efron & Stein 1981, the jackknife)."""
    is_known = ~np.isnan(squared_error)
    n = is_known.sum(1, keepdims=True)
    squared = np.where(is_known, squared_error, 0.0)
    total = squared.sum(1, keepdims=True)
    rmse = np.sqrt(total / np.maximum(n, 1))[:, 0]
    without = np.where(is_known, np.sqrt(np.maximum(total - squared, 0.0) / np.maximum(n - 1, 1)), 0.0)
    mean = without.sum(1, keepdims=True) / np.maximum(n, 1)
    influence = np.where(is_known & (n > 1), (mean - without) * np.sqrt(np.maximum(n - 1, 0) / np.maximum(n, 1)), 0.0)
    return _filled(rmse, influence, n[:, 0] > 0, is_known.any(0))


def average_figure(values: Float[Array, "seed subject"]) -> Figure:
    """The mean over subjects; a subject's influence is what leaving it out changes, as of an RMSE."""
    is_known = ~np.isnan(values)
    n = is_known.sum(1, keepdims=True)
    mean = np.where(is_known, values, 0.0).sum(1, keepdims=True) / np.maximum(n, 1)
    moved = np.where(is_known, values - mean, 0.0) / np.sqrt(np.maximum(n * (n - 1), 1))
    return _filled(mean[:, 0], moved, n[:, 0] > 0, is_known.any(0))


def _filled(
    values: Float[Array, " seed"],
    influence: Float[Array, "seed subject"],
    known: Bool[Array, " seed"],
    tested: Bool[Array, " subject"],
) -> Figure:
    """A figure whose mean over all seeds, and what moves it, are those of the seeds that tested somebody."""
    if not known.any():
        return Figure(np.zeros(len(known)), influence, known, tested)
    mean, scale = values[known].mean(), len(known) / known.sum()
    return Figure(mean + np.where(known, scale * (values - mean), 0.0), scale * influence, known, tested)


def difference_figure(
    method: Sequence[Float[Array, "seed subject"]], reference: Sequence[Float[Array, "seed subject"]]
) -> Figure:
    """RMSE of the method − RMSE of the reference on the subjects that both tested, averaged over the combinations.

    Combinations without a subject are left out of the average. Raises ValueError where none is listed.
    """
    return mean_figure([contrast(paired_rmse(a, b), [1.0, -1.0]) for a, b in zip(method, reference, strict=True)])


def paired_rmse(method: Float[Array, "seed subject"], reference: Float[Array, "seed subject"]) -> tuple[Figure, Figure]:
    """The RMSE of either on the subjects that both tested with a seed."""
    is_known = ~np.isnan(method) & ~np.isnan(reference)
    return rmse_figure(np.where(is_known, method, np.nan)), rmse_figure(np.where(is_known, reference, np.nan))


def mean_figure(figures: Sequence[Figure]) -> Figure:
    """The mean of those that have a subject; known with a seed where any of them is. Raises ValueError for none."""
    if not figures:
        raise ValueError("a mean needs a figure; list one combination at least")
    used = [figure for figure in figures if figure.n] or list(figures)
    known = np.any([figure.known for figure in used], axis=0)
    return _combined(used, [1 / len(used)] * len(used), known)


def mean_over_cohorts(figures: Sequence[Figure]) -> Figure:
    """The mean of figures of different people: each cohort weighs alike, and no subject is in two of them.

    A seed's value is its mean over the cohorts, for what a seed draws for one it draws for all. Raises ValueError for
    no cohort, and where they have different numbers of seeds.
    """
    if not figures or len({len(figure.by_seed) for figure in figures}) != 1:
        raise ValueError("a mean over cohorts needs one figure at least, all of them with the same seeds")
    share = 1 / len(figures)
    return Figure(
        share * np.sum([figure.by_seed for figure in figures], axis=0),
        share * np.concatenate([figure.influence for figure in figures], axis=1),
        np.all([figure.known for figure in figures], axis=0),
        np.concatenate([figure.tested for figure in figures]),
    )


def contrast(figures: Sequence[Figure], weights: Sequence[float]) -> Figure:
    """The weighted sum of figures; known with a seed where all of them are."""
    return _combined(figures, weights, np.all([figure.known for figure in figures], axis=0))


def ratio_change(method: Figure, reference: Figure) -> Figure:
    """100 · (method / reference − 1), percent, to first order about the means over seeds (the delta method).

    Raises ValueError where the reference is 0 or nobody was tested.
    """
    if not (method.n and reference.n and reference.value):
        raise ValueError("there is no percentage of nothing; check the reference first")
    ratio = method.value / reference.value
    slopes = [100 / reference.value, -100 * ratio / reference.value]
    moved = contrast([method, reference], slopes)
    by_seed = 100 * (ratio - 1) + moved.by_seed - moved.by_seed.mean()
    return Figure(by_seed, moved.influence, moved.known, moved.tested)


def _combined(figures: Sequence[Figure], weights: Sequence[float], known: Bool[Array, " seed"]) -> Figure:
    by_seed = sum(w * f.by_seed for w, f in zip(weights, figures, strict=True))
    influence = sum(w * f.influence for w, f in zip(weights, figures, strict=True))
    tested = np.any([f.tested for f in figures], axis=0)
    return Figure(np.asarray(by_seed), np.asarray(influence), known, tested)
