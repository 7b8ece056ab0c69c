"""What noise on moments costs: against independent accountants, exact laws and an attack."""

from __future__ import annotations

from dataclasses import replace
from math import log
from random import Random
from typing import Any

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.pld.privacy_loss_distribution import from_discrete_gaussian_mechanism
from scipy.special import logsumexp
from scipy.stats import beta

from permmoe.errors import ConfigurationError
from permmoe.federated.accounting import Spent, distinct, epsilon, noise_multiplier_for
from permmoe.federated.federation_config import FederationConfig
from permmoe.federated.moment_noise import (
    STEP,
    MomentNoise,
    moment_noise,
    privacy_loss,
    sensitivity,
)
from permmoe.federated.private_moments import summed_products
from permmoe.federated.shared_noise import honest_shares

DELTA = 1e-5


def federation(target: float = 8.0, **settings: Any) -> FederationConfig:
    moments = {"is_shared": settings.pop("is_shared", False), "colluding": settings.pop("colluding", 1)}
    privacy = {"target_epsilon": target, "delta": DELTA, "moments": moments}
    return FederationConfig.model_validate({"rounds": 1, "evaluate_every": 0, "privacy": privacy, **settings})


def shared(**settings: Any) -> FederationConfig:
    return federation(**{"secure": True, "is_shared": True, "min_sites": 6, **settings})


@pytest.mark.parametrize("target", [0.5, 1.0, 2.0, 8.0])
@pytest.mark.parametrize("config", [federation, shared])
def test_a_release_keeps_its_target_and_less_noise_would_not(config: Any, target: float) -> None:
    noise = moment_noise(config(target=target), 13)
    assert 0.97 * target < epsilon([noise.spent()], DELTA) <= target
    assert epsilon([replace(noise, variance=int(0.97 * noise.variance)).spent()], DELTA) > target


@pytest.mark.parametrize("target", [1.0, 2.0, 8.0])
def test_the_cost_is_no_less_than_independent_accountants_say_and_hardly_more(target: float) -> None:
    """Of a Gaussian with as much noise (Balle and Wang 2018), and of whole numbers in one dimension, both exact."""
    noise = moment_noise(federation(target), 13)
    spent = noise.spent()
    accountant = PLDAccountant()
    accountant.compose(GaussianDpEvent(spent.noise_multiplier))
    claimed = epsilon([spent], DELTA)
    assert accountant.get_epsilon(DELTA) <= claimed < 1.1 * accountant.get_epsilon(DELTA)
    whole = from_discrete_gaussian_mechanism(10 * spent.noise_multiplier, 10)
    assert whole.get_epsilon_for_delta(DELTA) <= claimed < 1.1 * whole.get_epsilon_for_delta(DELTA)


@pytest.mark.parametrize(("variance", "shares"), [(1, 2), (1, 3), (1, 6), (2, 3)])
@pytest.mark.parametrize("order", [1.5, 2.0, 4.0])
@pytest.mark.parametrize("change", [1, 2, 3])
def test_a_sum_of_shares_diverges_no_more_than_is_claimed_by_its_exact_law(
    variance: int, shares: int, order: float, change: int
) -> None:
    """In Rényi's divergence, of shares so coarse that their sum is no discrete Gaussian: the claim without τ is
    false."""
    numbers = np.arange(-150, 151)
    one = np.exp(-(numbers**2) / (2 * variance))
    law = np.array([1.0])
    for _ in range(shares):
        law = np.convolve(law, one / one.sum())
    logs = np.log(law[law > 1e-200])
    divergence = logsumexp(order * logs[change:] + (1 - order) * logs[:-change]) / (order - 1)
    # A number off the diagonal, which stands for two.
    loss = privacy_loss(change * 2**0.5, variance, shares, n_numbers=1)
    assert divergence <= order * loss**2 / 2


def test_shares_are_for_the_sites_that_are_sure_to_be_honest() -> None:
    assert honest_shares(federation()) == 1
    assert honest_shares(shared(colluding=1)) == 5
    assert honest_shares(shared(colluding=0, min_sites=2)) == 3, "as many as hold a block that is released"
    own, share = moment_noise(federation(), 13), moment_noise(shared(), 13)
    assert share.variance == pytest.approx(own.variance / 5, rel=0.01)
    assert epsilon([share.spent(shares=1)], DELTA) > 2 * epsilon([share.spent()], DELTA)


def test_noise_on_the_diagonal_has_twice_the_variance() -> None:
    noise = MomentNoise(size=3, row_norm=2.0, variance=7, shares=1)
    assert noise.variances == [14, 7, 7, 14, 7, 14]
    assert len(noise.drawn(Random(1).randrange)) == 6


def change_of(rows: np.ndarray, other: np.ndarray, row_norm: float) -> float:
    """How far the sums of two cohorts are apart, as a change of the whole matrix, in steps."""
    first, second = np.triu_indices(rows.shape[1])
    apart = summed_products(rows, row_norm) - summed_products(other, row_norm)
    return float(np.sqrt((np.where(first == second, 1, 2) * apart.astype(float) ** 2).sum()))


@pytest.mark.parametrize("far", [0.01, 1.0, 30.0, 1e6])
@pytest.mark.parametrize("row_norm", [0.5, 3.0])
def test_attack_no_patient_changes_the_moments_by_more_than_the_noise_is_made_for(far: float, row_norm: float) -> None:
    rng = np.random.default_rng(3)
    others = rng.normal(size=(11, 7))
    for _ in range(20):
        odd = far * rng.normal(size=(1, 7)) ** 3
        assert change_of(np.concatenate([others, odd]), others, row_norm) <= sensitivity(row_norm, 7)


def test_attack_who_knows_all_other_patients_tells_no_better_than_is_claimed() -> None:
    """The best test there is for a Gaussian, with and without one patient; and it would notice less noise."""
    others, odd = np.random.default_rng(4).normal(size=(5, 3)), np.full((1, 3), 2.0)
    with_odd = summed_products(np.concatenate([others, odd]), 2.0)
    without = summed_products(others, 2.0)
    target = 1.5
    multiplier = noise_multiplier_for(target, DELTA, 1.0, 1, is_discrete=True)
    enough = int((multiplier * sensitivity(2.0, 3)) ** 2 / 2) + 1
    assert found_by_attack(with_odd, without, MomentNoise(3, 2.0, enough, 1)) <= target
    assert found_by_attack(with_odd, without, MomentNoise(3, 2.0, enough // 16, 1)) > target


def found_by_attack(with_odd: np.ndarray, without: np.ndarray, noise: MomentNoise, n: int = 4000) -> float:
    """A lower bound of ε, true with a chance of 99%, from how often the attack is right."""
    randomness = Random(11)
    weights = (with_odd - without) / np.array(noise.variances)

    def drawn(sums: np.ndarray) -> np.ndarray:
        return np.array([weights @ (sums + noise.drawn(randomness.randrange)) for _ in range(n)])

    scores = np.stack([drawn(with_odd), drawn(without)])
    best = 0.0
    for threshold in np.quantile(scores, [0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98]):
        hits, alarms = (scores > threshold).sum(1)
        surely, at_most = beta.ppf(0.005, hits, n - hits + 1), beta.ppf(0.995, alarms + 1, n - alarms)
        best = max(best, log(max(surely - DELTA, 1e-9) / at_most))
    return best


def test_the_same_bits_released_again_count_once_and_other_bits_again() -> None:
    one, other = (replace(moment_noise(federation(), 5).spent(), release=name) for name in ("a", "b"))
    assert epsilon(distinct([one, one, one]), DELTA) == epsilon([one], DELTA)
    assert epsilon(distinct([one, other, one]), DELTA) == epsilon([one, other], DELTA) > epsilon([one], DELTA)
    steps = Spent(2.0, 0.1, 10)
    assert distinct([steps, steps]) == [steps, steps], "two trainings of DP-SGD are two"


def test_releases_compose_with_steps_of_training_as_the_independent_accountant_says() -> None:
    release, steps = moment_noise(federation(2.0), 13).spent(), Spent(1.1, 1.0, 3)
    accountant = PLDAccountant()
    for part in (release, steps):
        accountant.compose(GaussianDpEvent(part.noise_multiplier), part.steps)
    assert accountant.get_epsilon(DELTA) <= epsilon([release, steps], DELTA) < 1.1 * accountant.get_epsilon(DELTA)


def test_a_target_that_no_noise_keeps_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match="larger ε"):
        moment_noise(federation(1e-6), 5)


def test_noise_is_far_coarser_than_the_steps_that_it_is_drawn_in() -> None:
    assert moment_noise(shared(target=50.0, min_sites=100), 13).deviation > 9 * STEP
