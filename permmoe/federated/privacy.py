"""What a patient has lost: ε at a given δ for all that a site has released.

Composed numerically (Gopi, Lee and Wutschitz 2021, arXiv 2106.02848) by Opacus' PRV accountant, rounded up. Valid in
whatever order the parts were released. Neighbouring data sets differ by one patient.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from permmoe.errors import ConfigurationError

EPSILON_ERROR, DELTA_ERROR_SHARE = 1e-3, 1e-3
"""Of the accountant's numbers, added to what it says; δ's as a share of δ."""
LARGEST_COMPOSED = 50.0
"""Above this ε, which promises nobody anything, Rényi's bound is told: composing would take minutes."""
LARGEST_NOISE = 1000.0
PRECISION = 1e-3


@dataclass(frozen=True)
class Spent:
    """Steps of the Gaussian mechanism, each on a Poisson sample of the patients."""

    noise_multiplier: float
    """SD of the noise over the most that one patient can change."""
    sample_rate: float
    """Chance of each patient to be in a step; 1 for figures about all."""
    steps: int


def epsilon(spent: Sequence[Spent], delta: float) -> float:
    """ε of everything together; 0 for nothing."""
    parts = [s for s in spent if s.steps]
    if not parts:
        return 0.0
    history = [(s.noise_multiplier, s.sample_rate, s.steps) for s in parts]
    # Both warn of steps that they take care of: a logarithm of zero, an order at the end of their list.
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _composed(history, delta)


def _composed(history: list[tuple[float, float, int]], delta: float) -> float:
    # Opacus takes seconds to import, and most processes that read records need none of it.
    from opacus.accountants import PRVAccountant, RDPAccountant

    bound, accountant = RDPAccountant(), PRVAccountant()
    bound.history = accountant.history = history
    if (loose := float(bound.get_epsilon(delta))) > LARGEST_COMPOSED:
        return loose
    return float(accountant.get_epsilon(delta, eps_error=EPSILON_ERROR, delta_error=DELTA_ERROR_SHARE * delta))


def noise_multiplier_for(
    target_epsilon: float, delta: float, sample_rate: float, steps: int, already: Sequence[Spent] = ()
) -> float:
    """The least σ, to three digits, that keeps ε within the target for so many steps more.

    Raises ConfigurationError where none does.
    """

    def cost(noise: float) -> float:
        return epsilon([*already, Spent(noise, sample_rate, steps)], delta)

    low, high = 0.0, 1.0
    while cost(high) > target_epsilon:
        low, high = high, 2 * high
        if high > LARGEST_NOISE:
            raise ConfigurationError(
                f"no noise keeps {steps} steps with sample rate {sample_rate:.3f} within ε = {target_epsilon:g} at "
                f"δ = {delta:g}; allow a larger ε, or plan fewer rounds"
            )
    while high - low > PRECISION * high:
        middle = (low + high) / 2
        low, high = (middle, high) if cost(middle) > target_epsilon else (low, middle)
    return high
