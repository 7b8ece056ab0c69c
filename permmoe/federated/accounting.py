"""What a patient has lost: ε at a given δ for all that a site has released.

Composed numerically (Gopi, Lee and Wutschitz 2021, arXiv 2106.02848) by Opacus' PRV accountant, rounded up; by Rényi's
divergence where noise was of whole numbers. Valid in whatever order the parts were released. Neighbouring data sets
differ by one patient.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from permmoe.errors import ConfigurationError

EPSILON_ERROR, DELTA_ERROR_SHARE = 5e-3, 1e-3
"""Bounds of the accountant's own numerical error, which are added to its answer; the second is a share of δ."""
LARGEST_COMPOSED = 50.0
"""Above this ε, which promises nothing, Rényi's bound is returned: composing would take minutes."""
LARGEST_NOISE = 1000.0
PRECISION = 5e-3
ORDERS = [*range(2, 64), 80, 96, 128, 192, 256, 512]
"""Orders of Rényi's divergence that the bound is minimised over."""


@dataclass(frozen=True)
class Spent:
    """Steps of the Gaussian mechanism, each on a Poisson sample of the patients."""

    noise_multiplier: float
    """SD of the noise over the most that one patient can change."""
    sample_rate: float
    """Chance of each patient to be in a step; 1 for figures about all."""
    steps: int
    is_discrete: bool = False
    """Whether the noise is of whole numbers (permmoe.federated.discrete_gaussian). Its Rényi divergence is no more than
    the Gaussian's, and of the rest of its law nothing is used."""
    release: str = ""
    """SHA-256 of what was released, where it may be released again: the same bits tell nothing more. Empty: each time
    something new."""


def distinct(spent: Iterable[Spent]) -> list[Spent]:
    """What counts of releases some of which were of the same bits: each of these once."""
    found: dict[str, Spent] = {}
    others = [part for part in spent if not part.release or found.setdefault(part.release, part) is None]
    return [*others, *found.values()]


def epsilon(spent: Sequence[Spent], delta: float) -> float:
    """ε of everything together; 0 for nothing."""
    history = _merged(spent)
    if not history:
        return 0.0
    # Opacus' own orders, fractional ones among them, take up to seconds: only for what the whole ones leave open.
    loose = _renyi(history, delta)
    is_discrete = any(part.is_discrete for part in spent)
    if is_discrete or loose > LARGEST_COMPOSED:
        loose = _renyi(history, delta, is_tight=True)
    return loose if is_discrete or loose > LARGEST_COMPOSED else _composed(history, delta)


def is_within(spent: Sequence[Spent], delta: float, limit: float) -> bool:
    """Whether ε of everything together is at most the limit; told at once where the looser bound says so already."""
    history = _merged(spent)
    return not history or _renyi(history, delta) <= limit or epsilon(spent, delta) <= limit


def noise_multiplier_for(
    target_epsilon: float,
    delta: float,
    sample_rate: float,
    steps: int,
    already: Sequence[Spent] = (),
    *,
    is_discrete: bool = False,
) -> float:
    """The least σ, to half a percent, that keeps ε within the target for `steps` further steps.

    Raises ConfigurationError where none does.
    """

    def fits(noise: float) -> bool:
        return is_within([*already, Spent(noise, sample_rate, steps, is_discrete)], delta, target_epsilon)

    low, high = 0.0, 1.0
    is_possible = is_within(already, delta, target_epsilon)
    while not is_possible or not fits(high):
        low, high = high, 2 * high
        if not is_possible or high > LARGEST_NOISE:
            raise ConfigurationError(
                f"no noise keeps {steps} steps with sample rate {sample_rate:.3f} within ε = {target_epsilon:g} at "
                f"δ = {delta:g}; allow a larger ε, or plan fewer rounds"
            )
    while high - low > PRECISION * high:
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


def _merged(spent: Sequence[Spent]) -> list[tuple[float, float, int]]:
    """(σ, sample rate, steps), equal steps put together: composing takes time for each part."""
    steps: dict[tuple[float, float], int] = {}
    for s in spent:
        steps[s.noise_multiplier, s.sample_rate] = steps.get((s.noise_multiplier, s.sample_rate), 0) + s.steps
    return [(noise, rate, n) for (noise, rate), n in steps.items() if n]


def _renyi(history: list[tuple[float, float, int]], delta: float, *, is_tight: bool = False) -> float:
    """An upper bound, some 10% higher and told at once (Mironov 2017, arXiv 1702.07476).

    It is of whole orders only. `is_tight`: of Opacus' fractional ones too, which take up to seconds, lower the bound by
    a few per cent where ε is of any use, and by a lot where it is in the hundreds.
    """
    # Opacus takes seconds to import, and most processes that read records need none of it.
    from opacus.accountants import RDPAccountant

    accountant = RDPAccountant()
    accountant.history = history
    with warnings.catch_warnings():
        # That the best order is the last of its list: the bound is one all the same.
        warnings.simplefilter("ignore")
        return float(accountant.get_epsilon(delta, alphas=None if is_tight else ORDERS))


def _composed(history: list[tuple[float, float, int]], delta: float) -> float:
    from opacus.accountants import PRVAccountant

    accountant = PRVAccountant()
    accountant.history = history
    with np.errstate(all="ignore"), warnings.catch_warnings():
        # It takes the size of its grid from Rényi's bound, and warns where the best order is the last of a list.
        warnings.simplefilter("ignore")
        return float(accountant.get_epsilon(delta, eps_error=EPSILON_ERROR, delta_error=DELTA_ERROR_SHARE * delta))
