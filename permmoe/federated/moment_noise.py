"""How much noise the moments of a ridge need, once, and what it costs a patient: ρ of zero-concentrated differential
privacy, whose ε the accountant tells (permmoe.federated.accounting).

A patient is a row u, shortened to a norm of R at most, and adds u uᵀ to the moments: over the whole matrix that is a
change of ‖u‖² ≤ R². Its upper triangle travels, in whole steps of `STEP`. An entry off the diagonal stands for two, so
its noise has half the variance; then a change of the matrix by Δ in all costs ρ = Δ² / 2σ², with σ² the variance on the
diagonal (Canonne, Kamath and Steinke 2020, arXiv 2004.00010, theorem 4, entry by entry).

Where sites share the noise, the sum of h sites' numbers is no discrete Gaussian, and next to one: ρ = ½ (Δ / √h σ +
τ √d)² for d numbers, with τ as below (Kairouz, Liu and Steinke 2021, arXiv 2102.06387).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, exp, fsum, pi, sqrt

import numpy as np
from jaxtyping import Int64

from permmoe.config import PrivacyConfig
from permmoe.federated.accounting import Spent, noise_multiplier_for
from permmoe.federated.discrete_gaussian import Below, discrete_gaussians
from permmoe.federated.federation_config import FederationConfig

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
    noise = ceil((_multiplier(privacy) * change) ** 2 / (2 * shares))
    return MomentNoise(size, privacy.moments.row_norm, noise, shares)


def honest_shares(federation: FederationConfig) -> int:
    """Sites whose noise is sure to be in what is released: all of a sum are `least_sites` at least, whoever drops out,
    and of these `colluding` may know their own noise, or have added none. Where nothing is shared, 1: the site's own.
    """
    moments = federation.privacy.moments if federation.privacy else None
    return federation.least_sites - moments.colluding if moments and moments.is_shared else 1


def sensitivity(row_norm: float, size: int) -> float:
    """The most that one patient changes the matrix by, in steps: R², and what rounding its numbers adds, half a step in
    each of size² entries."""
    return row_norm**2 / STEP + size / 2


def privacy_loss(change: float, variance: int, shares: int, n_numbers: int) -> float:
    """√2ρ of one release: of numbers that one patient changes by `change` in all, under the noise of so many sites.
    `variance` is that off the diagonal."""
    return change / sqrt(2 * shares * variance) + _distance(variance, shares) * sqrt(n_numbers)


def _multiplier(privacy: PrivacyConfig) -> float:
    if privacy.noise_multiplier:
        return privacy.noise_multiplier
    assert privacy.target_epsilon
    return noise_multiplier_for(privacy.target_epsilon, privacy.delta, 1.0, 1, is_discrete=True)


def _distance(variance: int, shares: int) -> float:
    """τ: how far a sum of so many discrete Gaussians is from one; 0 beside any ε from a deviation of nine steps on."""
    return 10 * fsum(exp(-2 * pi**2 * variance * k / (k + 1)) for k in range(1, shares))
