"""What follows from counts of errors with noise (permmoe.federated.private_errors): means, and counts for intervals.

Means are linear in the counts, which keep their noise, also below zero: setting each of many counts to zero or more
would add to every sum what noise took away from none. Only the mean itself is brought back to where means can be.

Of few combinations anything can be said, and noise has its part in which: so bounds of what is said are as wide as
their choice needs (Benjamini and Yekutieli 2005, doi 10.1198/016214504000001907).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

import numpy as np
from jaxtyping import Float64, Int64

from permmoe.calibration.score_counts import EDGES, N_EDGES
from permmoe.evaluation.combinations import ErrorSums
from permmoe.federated.plan import RoundPlan
from permmoe.federated.private_errors import ErrorCounts, error_bins, error_noise
from permmoe.federated.summed_scores import SummedScores
from permmoe.modality import all_combinations, combination_name

SURE = 1.645
"""Deviations of the noise that an interval allows for: it is as long as without noise, or longer, 19 times of 20."""
FEWEST_DEVIATIONS = 3.0
"""Of a combination's number of visits, in deviations of its own noise (`_own_noise`), for anything to be said of it."""
UNTRUE = 0.05
"""Of all combinations of which anything is said, the largest share that is expected beyond its bounds."""
ROUNDING = 1e-6
"""Visits: by less than this a share of them is above a whole number because it was divided and multiplied."""

Values = Float64[np.ndarray, " bin"]
"""A figure of each visit whose error lies in a bin, points or points²."""


@dataclass(frozen=True)
class ErrorBounds:
    """Between what a combination's figures are without noise, wherever in their bins errors lie; larger errors than
    `largest_error` count as that here too. Of the combinations that have bounds, 1 in 20 at most is expected beyond."""

    visits: tuple[float, float]
    mae: tuple[float, float]
    """Points."""
    rmse: tuple[float, float]
    """Points."""


@dataclass(frozen=True)
class ErrorEstimates:
    """What is known of the errors of all sites' visits, by combination; nothing of one that is not seen behind the
    noise."""

    sums: Mapping[str, ErrorSums]
    """Number of visits, Σ |error| and Σ error², estimated, of errors of `largest_error` at most; outcomes are not
    summed, so that no R² follows."""
    bounds: Mapping[str, ErrorBounds]
    counts: Mapping[str, Int64[np.ndarray, " bin"]]
    """On the calibration's grid: visits of which no share has less of large errors than the true one, but for chance of
    1 in 20. So an interval that is read from them is longer by what noise may hide."""


def error_estimates(total: ErrorCounts, plan: RoundPlan, sites: int) -> ErrorEstimates:
    """The estimates from counts that are sums over so many sites, each of which added its noise."""
    privacy = plan.federation.privacy
    assert privacy and privacy.evaluation
    bins = error_bins(privacy.evaluation)
    deviation = sqrt(error_noise(plan).variance * sites)
    least, most = _ends(bins, plan.model.unit_points)
    # As if errors were spread evenly over each bin.
    sizes, squares = (least + most) / 2, (least**2 + least * most + most**2) / 3
    told: dict[str, Int64[np.ndarray, " bin"]] = {}
    means: dict[str, float] = {}
    for combination, row in zip(all_combinations(plan.model.names), total, strict=True):
        n, name = int(row.sum()), combination_name(combination)
        if n < plan.federation.min_cell_count:
            continue
        mean = float(np.clip(sizes @ row / n, 0.0, sizes[-1]))
        if n >= FEWEST_DEVIATIONS * deviation * _own_noise(sizes - mean):
            told[name], means[name] = row, mean
    # "Of so many parameters, that share of the chosen ones may be left out by each of their bounds."
    reach = deviation * NormalDist().inv_cdf(1 - UNTRUE * max(len(told), 1) / (2 * len(total)))
    sums: dict[str, ErrorSums] = {}
    for name, row in told.items():
        n, mean = int(row.sum()), means[name]
        # "The mean of squares is no less than the square of the mean."
        square = float(np.clip(squares @ row / n, mean**2, squares[-1]))
        sums[name] = ErrorSums(n, n * square, n * mean, 0.0, 0.0)
    return ErrorEstimates(
        sums,
        {name: _bounds(row, least, most, reach) for name, row in told.items()},
        {name: not_smaller(row, bins, deviation) for name, row in told.items()},
    )


def estimated_scores(found: ErrorEstimates, sites: int) -> SummedScores:
    """The same as the model's card takes it from sums without noise."""
    visits = max((sums.n for sums in found.sums.values()), default=0)
    return SummedScores(found.counts, found.counts, dict.fromkeys(found.counts, sites), visits, sites)


def not_smaller(
    row: Int64[np.ndarray, " bin"], bins: Int64[np.ndarray, " bin"], deviation: float
) -> Int64[np.ndarray, " fine"]:
    """As many visits on the calibration's grid, whose errors are not smaller than the true ones, as far as noise lets
    that be said.

    The share of errors beyond the end of a bin is raised by SURE deviations of its noise, and no share is then less
    than that beyond a later end. Between two ends errors are taken as spread evenly. `deviation`: of each count's
    noise. The row's sum is above zero.
    """
    n = int(row.sum())
    # Beyond each bin's end are the later bins; the share's noise is theirs, less its part of everybody's.
    beyond = (n - row.cumsum()[:-1]) / n
    later = len(row) - 1 - np.arange(len(beyond))
    noise = deviation / n * np.sqrt(later * (1 - beyond) ** 2 + (len(row) - later) * beyond**2)
    raised = np.clip(beyond + SURE * noise, 0.0, 1.0)
    raised = np.maximum.accumulate(raised[::-1])[::-1]
    between = np.interp(EDGES, np.append(0.0, EDGES[bins[:-1]]), np.append(1.0, raised))
    left = np.append(np.ceil(n * between - ROUNDING), 0).astype(np.int64)
    return np.asarray(-np.diff(left, prepend=n))


def _own_noise(apart: Values) -> float:
    """The deviation of the noise on a number of visits, in that of one count, without what it shares with the noise on
    these visits' mean error. `apart`: the bins' errors less that mean.

    There are more bins above the mean than below. So noise that makes visits more makes their errors larger, and who is
    chosen for the whole of it is chosen for large errors.
    """
    return sqrt(len(apart) - apart.sum() ** 2 / (apart**2).sum())


def _bounds(row: Int64[np.ndarray, " bin"], least: Values, most: Values, reach: float) -> ErrorBounds:
    """Between errors that all lie at the lower ends of their bins and such at the upper ends, by so much noise more."""
    n, noise = int(row.sum()), reach * sqrt(len(row))
    squares = _mean(row, least**2, -reach), _mean(row, most**2, reach)
    return ErrorBounds(
        (max(n - noise, 0.0), n + noise),
        (_mean(row, least, -reach), _mean(row, most, reach)),
        (sqrt(squares[0]), sqrt(squares[1])),
    )


def _mean(row: Int64[np.ndarray, " bin"], values: Values, reach: float) -> float:
    """The visits' mean of values, so far beyond it as the noise of each count reaches, where means can be."""
    n = int(row.sum())
    mean = float(values @ row) / n
    return float(np.clip(mean + reach * np.linalg.norm(values - mean) / n, 0.0, values[-1]))


def _ends(bins: Int64[np.ndarray, " bin"], unit_points: float) -> tuple[Values, Values]:
    """Where each bin begins and ends, points. All errors of the last count as where it begins."""
    most = unit_points * EDGES[np.minimum(bins, N_EDGES - 1)]
    least = np.append(0.0, most[:-1])
    most[-1] = least[-1]
    return least, most
