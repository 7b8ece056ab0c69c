"""Shares with their intervals, and where a curve reaches 80%."""

from __future__ import annotations

from math import sqrt

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from permmoe_simulation.power.curves import Needed, patients_needed, power_rows, share_with_interval
from permmoe_simulation.power.truth import Truth

KEY = ("linear", "federated", "local", "mean")


def about(needed: Needed) -> float:
    assert needed.relation == "about"
    return needed.patients


def wilson(found: int, n: int) -> tuple[float, float]:
    """By the formula: the shares p whose distance from found / n is 1.96 standard errors of p."""
    z, share = 1.959963984540054, found / n
    middle, reach = share + z**2 / (2 * n), z * sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return (middle - reach) / (1 + z**2 / n), (middle + reach) / (1 + z**2 / n)


@pytest.mark.parametrize(("found", "n"), [(0, 5), (3, 5), (5, 5), (7, 11), (1, 1)])
def test_the_interval_is_wilson_s(found: int, n: int) -> None:
    share, lower, upper = share_with_interval(found, n)
    assert share == found / n
    assert (lower, upper) == pytest.approx(wilson(found, n), abs=1e-9)


def test_of_no_cohort_there_is_no_share() -> None:
    assert np.isnan(share_with_interval(0, 0)).all()


def test_between_two_points_the_line_is_read_over_the_logarithm_of_patients() -> None:
    assert about(patients_needed([100, 400], [0.6, 1.0])) == pytest.approx(200)
    assert about(patients_needed([400, 100], [1.0, 0.6])) == pytest.approx(200)
    assert about(patients_needed([100, 200, 400], [0.0, 0.8, 1.0])) == pytest.approx(200)


def test_a_curve_that_never_reaches_80_needs_more_and_one_that_begins_there_at_most_its_first_point() -> None:
    assert patients_needed([100, 200], [0.2, 0.79]).in_words() == "more than 200"
    assert patients_needed([1600, 100], [1.0, 0.8]).in_words() == "at most 100"
    assert patients_needed([1600], [0.4]).in_words() == "more than 1,600"
    assert patients_needed([100], [1.0]).in_words() == "at most 100"


def test_what_a_curve_falls_behind_again_is_not_counted() -> None:
    assert about(patients_needed([100, 200, 400, 800], [1.0, 0.6, 1.0, 1.0])) == pytest.approx(200 * 2**0.5)
    assert patients_needed([100, 200, 400], [1.0, 1.0, 0.6]).in_words() == "more than 400"


def test_points_without_a_share_are_left_out() -> None:
    assert about(patients_needed([50, 100, 400], [float("nan"), 0.6, 1.0])) == pytest.approx(200)
    assert patients_needed([100], [float("nan")]).in_words() == "–"


@given(st.lists(st.floats(0, 1), min_size=2, max_size=7))
def test_a_rising_curve_needs_patients_between_the_points_around_80(shares: list[float]) -> None:
    rising = sorted(shares)
    patients = [100 * 2**j for j in range(len(rising))]
    needed = patients_needed(patients, rising)
    enough = [p for p, share in zip(patients, rising, strict=True) if share >= 0.8]
    if not enough:
        assert needed == Needed("more than", float(patients[-1]))
    elif enough[0] == patients[0]:
        assert needed == Needed("at most", 100.0)
    else:
        assert needed.relation == "about"
        assert enough[0] / 2 * (1 - 1e-9) <= needed.patients <= enough[0] * (1 + 1e-9)


def rows(said: list[str], truth: Truth) -> dict[str, object]:
    table = pd.DataFrame(
        [{"patients": 40, "sites": 2, "cohort": 500 + j, **dict(zip(("regime", "method", "reference", "combination"),
          KEY, strict=True)), "seeds": 5, "difference": -0.1 * j, "p_holm": 0.5, "verdict": word}
         for j, word in enumerate(said)]
    )  # fmt: skip
    [row] = power_rows(table, {KEY: truth}).to_dict("records")
    return row


SAID = ["lower", "lower", "higher", "not told", "not judged"]


@pytest.mark.parametrize(
    ("expected", "found", "false"),
    [("lower", 2, 1), ("higher", 1, 2), ("not lower", 2, 2), ("no difference", 3, 3), ("not known", 2, None)],
)
def test_the_truth_says_which_verdicts_are_found_and_which_are_false(expected, found, false) -> None:  # type: ignore[no-untyped-def]
    row = rows(SAID, Truth(expected, "", -0.2))
    assert (row["cohorts"], row["not_judged"], row["found"]) == (4, 1, found)
    assert row["share"] == found / 4
    assert row["share_from"], row["share_to"] == pytest.approx(wilson(found, 4))
    assert np.isnan(row["false_finds"]) if false is None else row["false_finds"] == false


def test_where_no_cohort_is_judged_there_is_no_share_and_no_find() -> None:
    row = rows(["not judged"] * 3, Truth("lower", ""))
    assert (row["cohorts"], row["not_judged"], row["found"]) == (0, 3, 0) and np.isnan(row["share"])
