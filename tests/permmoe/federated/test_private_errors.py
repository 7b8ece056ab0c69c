"""What noise on counts of errors costs: against an independent accountant, by the most that a patient changes, and
against an attack."""

from __future__ import annotations

from dataclasses import replace
from math import log
from random import Random

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent
from dp_accounting.pld import PLDAccountant
from scipy.stats import beta

from permmoe.calibration.score_counts import EDGES, N_BINS, N_EDGES, count_scores
from permmoe.config import EvaluationPrivacy
from permmoe.federated.accounting import epsilon
from permmoe.federated.moment_noise import moment_noise
from permmoe.federated.private_errors import SMALLEST_ERROR, ErrorNoise, error_bins, error_noise, in_error_bins
from permmoe.federated.study_budget import evaluation_multiplier, spent_on_evaluations
from tests.support.noised_errors import noised_plan
from tests.support.tiny_federation import MODEL

DELTA = 1e-5
NAMES = ("a", "b", "c")


def counts_of(scores: np.ndarray) -> np.ndarray:
    """In the bins of a private study. `scores`: [visit, combination], NaN where a visit lacks it."""
    counted = count_scores(NAMES, scores, np.zeros(len(scores), np.int64), 1, [""] * len(scores)).counts[:, 0]
    return in_error_bins(counted, error_bins(EvaluationPrivacy()))


@pytest.mark.parametrize("is_shared", [False, True])
@pytest.mark.parametrize("target", [1.0, 2.0, 8.0])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.8])
def test_moments_and_evaluations_together_keep_the_target_and_an_independent_accountant_says_so(
    target: float, share: float, is_shared: bool
) -> None:
    plan = noised_plan(is_shared=is_shared, share=share, target_epsilon=target)
    assert plan.federation.n_evaluations == 2
    spent = [moment_noise(plan.federation, 21).spent(), *2 * [error_noise(plan).spent()]]
    claimed = epsilon(spent, DELTA)
    # Shares have whole numbers as variances, here of a few patients.
    assert (0.85 if is_shared else 0.93) * target < claimed <= target
    accountant = PLDAccountant()
    for part in spent:
        accountant.compose(GaussianDpEvent(part.noise_multiplier))
    assert accountant.get_epsilon(DELTA) <= claimed < 1.1 * accountant.get_epsilon(DELTA)
    assert epsilon([spent[0], replace(spent[1], noise_multiplier=0.8 * spent[1].noise_multiplier, steps=2)], DELTA) > (
        claimed
    )


def test_a_share_of_the_target_is_what_dp_sgd_leaves_for_its_evaluations() -> None:
    federation = noised_plan(target_epsilon=4.0).federation
    [of_all] = spent_on_evaluations(federation)
    assert of_all.steps == 2 and of_all.noise_multiplier == evaluation_multiplier(federation)
    assert 0 < epsilon([of_all], DELTA) < 4.0
    assert spent_on_evaluations(federation.model_copy(update={"privacy": None})) == ()


@pytest.mark.parametrize("target", [2.0, 60.0, 600.0])
def test_coarse_shares_are_paid_for(target: float) -> None:
    """So little noise that a sum of shares is no discrete Gaussian: τ is no more nothing."""
    plan = noised_plan(is_shared=True, target_epsilon=target)
    noise = error_noise(plan)
    assert noise.spent().noise_multiplier >= evaluation_multiplier(plan.federation)
    if noise.variance > 1:
        fewer = replace(noise, variance=noise.variance - 1)
        assert fewer.spent().noise_multiplier < evaluation_multiplier(plan.federation)


@pytest.mark.parametrize("error", [0.0, SMALLEST_ERROR, 1.7, 25.0, np.inf])
def test_attack_no_patient_changes_the_counts_by_more_than_the_noise_is_made_for(error: float) -> None:
    rng = np.random.default_rng(3)
    others = rng.exponential(size=(11, 7))
    odd = np.full((1, 7), error)
    apart = counts_of(np.concatenate([others, odd])) - counts_of(others)
    assert np.linalg.norm(apart) <= np.sqrt(7) and np.abs(apart).sum() == 7, "once in each combination"
    partly = np.where(np.arange(7) < 3, odd, np.nan)
    assert np.linalg.norm(counts_of(np.concatenate([others, partly])) - counts_of(others)) <= np.sqrt(3)


def test_every_error_has_its_bin_and_none_has_two() -> None:
    bins = error_bins(EvaluationPrivacy(largest_error=4.0))
    assert bins[-1] == N_EDGES and (np.diff(bins) > 0).all()
    assert EDGES[bins[-3]] < 4.0 <= EDGES[bins[-2]]
    fine = np.random.default_rng(5).integers(0, 9, (3, N_BINS))
    slow = np.zeros((3, len(bins)), np.int64)
    for bin_of in range(N_BINS):
        slow[:, next(place for place, end in enumerate(bins) if bin_of <= end)] += fine[:, bin_of]
    assert (in_error_bins(fine, bins) == slow).all()


def test_attack_who_knows_all_other_patients_tells_no_better_than_is_claimed() -> None:
    """The best test there is for a Gaussian, with and without one patient; and it would notice less noise."""
    others, odd = np.random.default_rng(4).exponential(size=(5, 7)), np.full((1, 7), 3.0)
    with_odd, without = counts_of(np.concatenate([others, odd])), counts_of(others)
    noise = error_noise(noised_plan(share=0.8, target_epsilon=1.5))
    claimed = epsilon([noise.spent()], DELTA)
    assert found_by_attack(with_odd, without, noise) <= claimed
    assert found_by_attack(with_odd, without, replace(noise, variance=noise.variance // 16)) > claimed


def found_by_attack(with_odd: np.ndarray, without: np.ndarray, noise: ErrorNoise, n: int = 1500) -> float:
    """A lower bound of ε, true with a chance of 99%, from how often the attack is right."""
    randomness = Random(11)
    weights = with_odd - without
    # Where the two are alike there is nothing to be learned, and drawing noise takes time.
    few = replace(noise, combinations=1, bins=int((weights != 0).sum()))

    def drawn(sums: np.ndarray) -> np.ndarray:
        own = sums[weights != 0]
        return np.array([weights[weights != 0] @ (own + few.drawn(randomness.randrange)[0]) for _ in range(n)])

    scores = np.stack([drawn(with_odd), drawn(without)])
    best = 0.0
    for threshold in np.quantile(scores, [0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98]):
        hits, alarms = (scores > threshold).sum(1)
        surely, at_most = beta.ppf(0.005, hits, n - hits + 1), beta.ppf(0.995, alarms + 1, n - alarms)
        best = max(best, log(max(surely - DELTA, 1e-9) / at_most))
    return best


def test_noise_is_as_large_as_what_is_charged() -> None:
    noise, randomness = error_noise(noised_plan()), Random(2)
    drawn = np.stack([noise.drawn(randomness.randrange) for _ in range(40)])
    assert drawn.var() == pytest.approx(noise.variance, rel=0.1)
    assert noise.spent().noise_multiplier == pytest.approx(np.sqrt(noise.variance / 7))


def test_noise_has_the_shape_of_the_counts() -> None:
    noise = error_noise(noised_plan())
    assert noise.shape == (7, len(error_bins(EvaluationPrivacy()))) and len(MODEL.names) == 3
    assert noise.drawn(Random(1).randrange).shape == noise.shape
