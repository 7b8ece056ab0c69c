"""How large a model's errors are, with differential privacy of every patient: one histogram, and every figure from it.

A patient counts once in each combination of modalities that he has, in the bin that his error lies in. So one patient
more or less changes C numbers by 1, where C is the number of combinations: an L2 norm of √C, whatever his error is.
Noise is put on these counts, once for each evaluation, and numbers of visits, mean errors and intervals are read from
them (permmoe.federated.error_estimates): they cost nothing more. A site without a combination sends its noise alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np
from jaxtyping import Int64

from permmoe.calibration.score_counts import EDGES, N_EDGES
from permmoe.config import EvaluationPrivacy
from permmoe.federated.accounting import Spent
from permmoe.federated.discrete_gaussian import Below, discrete_gaussians
from permmoe.federated.plan import RoundPlan
from permmoe.federated.shared_noise import distance, honest_shares
from permmoe.federated.study_budget import evaluation_multiplier
from permmoe.modality import all_combinations

SMALLEST_ERROR = 0.5
"""Units; smaller errors are not told apart."""
TOGETHER = 23
"""So many bins of the calibration's grid are one here, whose ends are 26% apart: each bin has noise of its own."""

ErrorCounts = Int64[np.ndarray, "combination size"]
"""Visits by combination, as `all_combinations` orders them, and bin of `error_bins`; below zero where noise says so."""


def error_bins(evaluation: EvaluationPrivacy) -> Int64[np.ndarray, " bin"]:
    """For each bin the highest of the calibration's grid that belongs to it. The last has the errors that count as the
    largest, and no end."""
    first = int(np.searchsorted(EDGES, SMALLEST_ERROR))
    ends = np.arange(first, N_EDGES, TOGETHER)
    return np.append(ends[: 1 + int(np.searchsorted(EDGES[ends], evaluation.largest_error))], N_EDGES)


def in_error_bins(counts: Int64[np.ndarray, "combination fine"], bins: Int64[np.ndarray, " bin"]) -> ErrorCounts:
    """Counts on the calibration's grid in these bins."""
    return np.asarray(np.diff(counts.cumsum(1)[:, bins], prepend=0))


@dataclass(frozen=True)
class ErrorNoise:
    """The noise of one site on the counts of one evaluation."""

    combinations: int
    bins: int
    variance: int
    """σ² of each of the site's counts, visits²."""
    shares: int
    """So many sites' noise is in what is released: 1, or in a shared sum those that are sure to be honest."""

    @property
    def shape(self) -> tuple[int, int]:
        """Of the counts."""
        return self.combinations, self.bins

    @property
    def size(self) -> int:
        """Counts in all."""
        return self.combinations * self.bins

    def spent(self, shares: int | None = None) -> Spent:
        """What the release costs a patient; `shares`: had only so many sites added noise."""
        loss = _loss(self.combinations, self.bins, self.variance, shares or self.shares)
        return Spent(1 / loss, 1.0, 1, is_discrete=True)

    def drawn(self, below: Below) -> ErrorCounts:
        """The site's noise."""
        return np.asarray(discrete_gaussians([self.variance] * self.size, below).reshape(self.shape))


def error_noise(plan: RoundPlan) -> ErrorNoise:
    """The noise that each site of a study adds to the counts of one evaluation. The study has `privacy.evaluation`.
    Raises ConfigurationError where no noise keeps its target."""
    privacy = plan.federation.privacy
    assert privacy and privacy.evaluation
    combinations, bins = len(all_combinations(plan.model.names)), len(error_bins(privacy.evaluation))
    multiplier, shares = evaluation_multiplier(plan.federation), honest_shares(plan.federation)
    variance = ceil(multiplier**2 * combinations / shares)
    # Of coarse shares the sum costs a bit more than as much noise of one site.
    while _loss(combinations, bins, variance, shares) > 1 / multiplier:
        variance += 1
    return ErrorNoise(combinations, bins, variance, shares)


def _loss(combinations: int, bins: int, variance: int, shares: int) -> float:
    """√2ρ of one release, as permmoe.federated.shared_noise has it."""
    return sqrt(combinations / (shares * variance)) + distance(variance, shares) * sqrt(combinations * bins)
