"""Laws that are known are found again, and projections say how far they reach."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from permmoe_benchmarks.pages.laws import FURTHEST, NoLawError, best_law, end_exponent, power_law, straight_line

PLACES = (3.0, 5.0, 7.0, 11.0)


@given(st.floats(-3, 3), st.floats(1e-6, 1e6))
def test_a_known_power_law_is_found_again(exponent: float, factor: float) -> None:
    law = power_law(PLACES, [factor * x**exponent for x in PLACES])
    assert law.b == pytest.approx(exponent, abs=1e-6) and law.a == pytest.approx(factor, rel=1e-5)
    assert law.residual < 1e-6
    at = law.at(110.0)
    assert at.y == pytest.approx(factor * 110**exponent, rel=1e-4) and at.beyond == pytest.approx(10.0)


@given(st.floats(0.01, 100), st.floats(0.01, 100))
def test_a_known_fixed_part_is_found_again_and_preferred_to_a_power(fixed: float, each: float) -> None:
    values = [fixed + each * x for x in PLACES]
    law = straight_line(PLACES, values)
    assert (law.a, law.b) == (pytest.approx(fixed, rel=1e-5), pytest.approx(each, rel=1e-5))
    assert best_law(PLACES, values).at(110.0).y == pytest.approx(fixed + each * 110, rel=1e-4)


def test_scatter_does_not_hide_the_slope_behind_a_fixed_part() -> None:
    # A power law lies closer to these, and would say 16 at 1,000.
    at = best_law((3.0, 6.0, 12.0, 24.0), (2.27, 2.91, 3.46, 4.73)).at(1000.0)
    assert at.lower < 2 + 0.105 * 1000 < at.upper


def test_a_quadratic_cost_is_no_straight_line() -> None:
    law = best_law(PLACES, [0.1 * x**2 for x in PLACES])
    assert law.form == "power" and law.b == pytest.approx(2.0)


def test_a_line_that_would_start_below_zero_is_not_taken() -> None:
    assert best_law(PLACES, [x - 2.0 for x in PLACES]).form == "power"


@pytest.mark.parametrize("x", [(), (3.0,), (3.0, 5.0), (3.0, 5.0, 5.0)])
@pytest.mark.parametrize("fit", [power_law, straight_line, best_law, end_exponent])
def test_fewer_than_three_points_give_no_law(fit: Any, x: tuple[float, ...]) -> None:
    with pytest.raises(NoLawError, match="too few"):
        fit(x, [1.0 + value for value in x])


@pytest.mark.parametrize("y", [(1.0, 2.0, 0.0, 3.0), (1.0, -2.0, 1.0, 1.0), (1.0, float("nan"), 1.0, 1.0), (1.0, 2.0)])
def test_points_that_are_none_give_no_law(y: tuple[float, ...]) -> None:
    with pytest.raises(NoLawError):
        best_law(PLACES, y)


@pytest.mark.parametrize("fit", [power_law, straight_line])
def test_no_projection_reaches_further_than_its_limit(fit: Any) -> None:
    law = fit(PLACES, [2.0 * x for x in PLACES])
    law.at(11.0 * FURTHEST)
    with pytest.raises(NoLawError, match="not a projection"):
        law.at(11.1 * FURTHEST)
    with pytest.raises(NoLawError):
        law.at(0.0)


@pytest.mark.parametrize("fit", [power_law, straight_line])
def test_an_interval_holds_its_value_and_widens_with_distance_and_scatter(fit: Any) -> None:
    calm = fit(PLACES, [3.1, 4.9, 7.1, 10.9])
    wild = fit(PLACES, [4.0, 4.0, 9.0, 10.0])
    near, far = calm.at(11.0), calm.at(110.0)
    for at in (near, far, wild.at(11.0)):
        assert at.lower < at.y < at.upper
    assert far.upper / far.y > near.upper / near.y
    assert wild.at(11.0).upper / wild.at(11.0).y > near.upper / near.y


def test_intervals_cover_what_comes_next_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    x = [3.0, 5.0, 7.0, 11.0, 13.0]
    hits = 0
    for _ in range(400):
        values = [2.0 * place**1.5 * float(np.exp(rng.normal(0, 0.1))) for place in x]
        at = power_law(x, values).at(29.0)
        hits += at.lower <= 2.0 * 29.0**1.5 * float(np.exp(rng.normal(0, 0.1))) <= at.upper
    assert 0.91 <= hits / 400 <= 0.985


def test_the_end_of_a_sum_of_costs_is_steeper_than_its_law() -> None:
    values = [1.0 + 0.1 * x**2 for x in PLACES]
    assert power_law(PLACES, values).b < end_exponent(PLACES, values) < 2.0
