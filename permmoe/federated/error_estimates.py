"""What follows from counts of errors with noise (permmoe.federated.private_errors): means, and counts for intervals.

Means are linear in the counts, which keep their noise, also below zero: setting each of many counts to zero or more
would add to every sum what noise took away from none. Only the mean itself is brought back to where means can be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt

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
FEWEST_DEVIATIONS = 2.0
"""Of a combination's number of visits, and of its mean error, in deviations of their own noise, for anything to be said
of it."""
ROUNDING = 1e-6
"""Visits: by less than this a share of them is above a whole number because it was divided and multiplied."""


@dataclass(frozen=True)
class ErrorDeviation:
    """How far noise takes two figures of a combination from what they would be without: SD, points."""

    mae: float
    rmse: float


@dataclass(frozen=True)
class ErrorEstimates:
    """What is known of the errors of all sites' visits, by combination; nothing of one that is not seen behind the
    noise."""

    sums: Mapping[str, ErrorSums]
    """Number of visits, Σ |error| and Σ error², estimated, of errors of `largest_error` at most; outcomes are not
    summed, so that no R² follows."""
    deviations: Mapping[str, ErrorDeviation]
    counts: Mapping[str, Int64[np.ndarray, " bin"]]
    """On the calibration's grid: visits of which no share has less of large errors than the true one, but for chance of
    1 in 20. So an interval that is read from them is longer by what noise may hide."""


def error_estimates(total: ErrorCounts, plan: RoundPlan, sites: int) -> ErrorEstimates:
    """The estimates from counts that are sums over so many sites, each of which added its noise."""
    privacy = plan.federation.privacy
    assert privacy and privacy.evaluation
    bins = error_bins(privacy.evaluation)
    deviation = sqrt(error_noise(plan).variance * sites)
    sizes, squares = _means(bins, plan.model.unit_points)
    sums: dict[str, ErrorSums] = {}
    deviations: dict[str, ErrorDeviation] = {}
    counts: dict[str, Int64[np.ndarray, " bin"]] = {}
    for combination, row in zip(all_combinations(plan.model.names), total, strict=True):
        n, name = int(row.sum()), combination_name(combination)
        if n < max(plan.federation.min_cell_count, FEWEST_DEVIATIONS * deviation * sqrt(len(bins))):
            continue
        mean = float(np.clip(sizes @ row / n, 0.0, sizes[-1]))
        # "The mean of squares is no less than the square of the mean."
        square = float(np.clip(squares @ row / n, mean**2, squares[-1]))
        noise = deviation * float(np.linalg.norm(sizes - mean)) / n
        if mean < FEWEST_DEVIATIONS * noise:
            continue
        sums[name] = ErrorSums(n, n * square, n * mean, 0.0, 0.0)
        noise_of_squares = deviation * float(np.linalg.norm(squares - square)) / n
        deviations[name] = ErrorDeviation(noise, noise_of_squares / (2 * sqrt(square)))
        counts[name] = not_smaller(row, bins, deviation)
    return ErrorEstimates(sums, deviations, counts)


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


def _means(
    bins: Int64[np.ndarray, " bin"], unit_points: float
) -> tuple[Float64[np.ndarray, " bin"], Float64[np.ndarray, " bin"]]:
    """The mean error and its mean square in each bin, points: as if errors were spread evenly over it. All errors of
    the last count as where it begins."""
    ends = unit_points * EDGES[np.minimum(bins, N_EDGES - 1)]
    starts = np.append(0.0, ends[:-1])
    ends[-1] = starts[-1]
    return (starts + ends) / 2, (starts**2 + starts * ends + ends**2) / 3
