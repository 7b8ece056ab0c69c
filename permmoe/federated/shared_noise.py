"""Noise of whole numbers that one site adds, or that the sites of a secure sum share.

One site's costs ρ = Δ² / 2σ² of zero-concentrated differential privacy (Canonne, Kamath and Steinke 2020, arXiv
2004.00010, theorem 4). The sum of h sites' shares is no discrete Gaussian, and next to one: ρ = ½ (Δ / √h σ + τ √d)²
for d numbers, with τ as below (Kairouz, Liu and Steinke 2021, arXiv 2102.06387).
"""

from __future__ import annotations

from math import exp, fsum, pi

from permmoe.federated.federation_config import FederationConfig


def honest_shares(federation: FederationConfig) -> int:
    """Sites whose noise is sure to be in what is released: all of a sum are `least_sites` at least, whoever drops out,
    and of these `colluding` may know their own noise, or have added none. Where nothing is shared, 1: the site's own.
    """
    moments = federation.privacy.moments if federation.privacy else None
    return federation.least_sites - moments.colluding if moments and moments.is_shared else 1


def distance(variance: int, shares: int) -> float:
    """τ: how far a sum of so many discrete Gaussians is from one; 0 beside any ε from a deviation of nine steps on."""
    return 10 * fsum(exp(-2 * pi**2 * variance * k / (k + 1)) for k in range(1, shares))
