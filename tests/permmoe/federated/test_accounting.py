"""The accountant against an independent one, and what must hold of any."""

from __future__ import annotations

import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant

from permmoe.errors import ConfigurationError
from permmoe.federated.accounting import EPSILON_ERROR, LARGEST_COMPOSED, Spent, epsilon, noise_multiplier_for

DELTA = 1e-5
STEP = 3e-4
"""Losses closer than this are one to the independent accountant: three times its default, which moves no ε by 1e-4."""


def independent(spent: list[Spent]) -> float:
    accountant = PLDAccountant(value_discretization_interval=STEP)
    for s in spent:
        event = PoissonSampledDpEvent(s.sample_rate, GaussianDpEvent(s.noise_multiplier))
        accountant.compose(SelfComposedDpEvent(event, s.steps))
    return float(accountant.get_epsilon(DELTA))


@pytest.mark.parametrize("noise", [0.7, 1.1, 3.0])
@pytest.mark.parametrize("rate", [0.01, 0.13, 1.0])
@pytest.mark.parametrize("steps", [1, 70])
def test_epsilon_agrees_with_an_independent_accountant_to_one_percent(noise: float, rate: float, steps: int) -> None:
    spent = [Spent(noise, rate, steps)]
    # Rounded up by the accountant's own error, which is more than 1% only of an ε under 0.1.
    expected = independent(spent)
    if expected <= LARGEST_COMPOSED:
        assert expected - 1e-3 <= epsilon(spent, DELTA) <= expected * 1.01 + EPSILON_ERROR


def test_a_loss_beyond_any_promise_is_told_as_an_upper_bound_at_once() -> None:
    spent = [Spent(0.7, 1.0, 900)]
    expected = independent(spent)
    assert expected < epsilon(spent, DELTA) < 1.3 * expected


def test_unequal_parts_compose_as_the_independent_accountant_says() -> None:
    spent = [Spent(4.0, 1.0, 1), Spent(1.1, 0.2, 50), Spent(0.9, 0.05, 300)]
    assert epsilon(spent, DELTA) == pytest.approx(independent(spent), rel=0.01)
    assert epsilon(spent, DELTA) > epsilon(spent[:2], DELTA) > epsilon(spent[:1], DELTA) > epsilon([], DELTA) == 0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("noise", [0.6, 1.0, 20.0, 400.0])
def test_the_libraries_behind_it_warn_nobody(noise: float) -> None:
    assert epsilon([Spent(noise, 0.9, 24)], DELTA) > 0


def test_more_steps_cost_more_and_more_noise_costs_less() -> None:
    assert epsilon([Spent(1.0, 0.1, 20)], DELTA) < epsilon([Spent(1.0, 0.1, 21)], DELTA)
    assert epsilon([Spent(1.1, 0.1, 20)], DELTA) < epsilon([Spent(1.0, 0.1, 20)], DELTA)


@pytest.mark.parametrize("target", [0.5, 2.0, 8.0])
def test_the_noise_found_for_a_target_keeps_it_and_little_less_would_not(target: float) -> None:
    already = [Spent(20.0, 1.0, 1)]
    noise = noise_multiplier_for(target, DELTA, 0.25, 100, already)
    assert epsilon([*already, Spent(noise, 0.25, 100)], DELTA) <= target
    assert epsilon([*already, Spent(noise * 0.98, 0.25, 100)], DELTA) > target


def test_a_target_that_no_noise_keeps_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ConfigurationError, match="larger ε, or plan fewer rounds"):
        noise_multiplier_for(0.01, DELTA, 0.5, 100, [Spent(0.5, 1.0, 10)])
