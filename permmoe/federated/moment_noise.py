"""How much noise the moments of a ridge need, once, and what it costs a patient: ρ of zero-concentrated differential
privacy, whose ε the accountant tells (permmoe.federated.accounting).

A patient is a row u, shortened to a norm of R at most, and adds u uᵀ to the moments: over the whole matrix that is a
change of ‖u‖² ≤ R². Its upper triangle travels, in whole steps of `STEP`. An entry off the diagonal stands for two, so
its noise has half the variance; then a change of the matrix by Δ in all costs ρ = Δ² / 2σ², with σ² the variance on the
diagonal (Canonne, Kamath and Steinke 2020, arXiv 2004.00010, theorem 4, entry by entry).

What shares of noise are worth together is in permmoe.federated.shared_noise.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, sqrt

import numpy as np
from jaxtyping import Int64

from permmoe.federated.accounting import Spent
from permmoe.federated.discrete_gaussian import Below, discrete_gaussians
from permmoe.federated.federation_config import FederationConfig
from permmoe.federated.shared_noise import distance, honest_shares
from permmoe.federated.study_budget import release_multiplier

STEP = 2.0**-6
"""Products are rounded to multiples of this: far finer than the noise, and sums of ten thousand patients stay exact in
32-bit floating point."""


@dataclass(frozen=True)
class MomentNoise:
    """The noise of one site on the moments of rows of `size` numbers."""

    size: int
    row_norm: float
    variance: int
    """σ² of the site's numbers off the diagonal, in steps²; on it twice that."""
    shares: int
    """So many sites' noise is in what is released: 1, or in a shared sum those that are sure to be honest."""

    @property
    def variances(self) -> list[int]:
        """By entry of the upper triangle, row by row."""
        rows, columns = np.triu_indices(self.size)
        return [self.variance * (2 if is_diagonal else 1) for is_diagonal in (rows == columns).tolist()]

    @property
    def deviation(self) -> float:
        """Standard deviation of the site's noise off the diagonal, in the unit of the moments."""
        return STEP * sqrt(self.variance)

    def spent(self, shares: int | None = None) -> Spent:
        """What the release costs a patient; `shares`: had only so many sites added noise."""
        change, n_numbers = sensitivity(self.row_norm, self.size), len(self.variances)
        loss = privacy_loss(change, self.variance, shares or self.shares, n_numbers)
        return Spent(1 / loss, 1.0, 1, is_discrete=True)

    def drawn(self, below: Below) -> Int64[np.ndarray, " entry"]:
        """The site's noise for the upper triangle, in steps."""
        return discrete_gaussians(self.variances, below)


def moment_noise(federation: FederationConfig, size: int) -> MomentNoise:
    """The noise that each site of a study adds to the moments of rows of `size` numbers. The study has
    `privacy.moments`. Raises ConfigurationError where no noise keeps its target."""
    privacy = federation.privacy
    assert privacy and privacy.moments
    shares, change = honest_shares(federation), sensitivity(privacy.moments.row_norm, size)
    noise = ceil((release_multiplier(federation) * change) ** 2 / (2 * shares))
    return MomentNoise(size, privacy.moments.row_norm, noise, shares)


def sensitivity(row_norm: float, size: int) -> float:
    """The most that one patient changes the matrix by, in steps: R², and what rounding its numbers adds, half a step in
    each of size² entries."""
    return row_norm**2 / STEP + size / 2


def privacy_loss(change: float, variance: int, shares: int, n_numbers: int) -> float:
    """√2ρ of one release: of numbers that one patient changes by `change` in all, under the noise of so many sites.
    `variance` is that off the diagonal."""
    return change / sqrt(2 * shares * variance) + distance(variance, shares) * sqrt(n_numbers)
