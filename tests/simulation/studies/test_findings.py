"""What a study found, in sentences."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest

from permmoe_simulation.studies.findings import evaluated_goals, finding, findings
from permmoe_simulation.studies.study import Claim
from permmoe_simulation.summary import Goal

LABELS = {"good": "PerM-MoE", "bad": "null model"}
UNIT = "CDR-SB points"
CLAIM = Claim(method="good", reference="bad")


def compared(**changes: Any) -> pd.DataFrame:
    row = {"method": "good", "reference": "bad", "regime": "site", "combination": "mean", "stratum": "all", "n": 31}
    return pd.DataFrame([row | {"difference": -0.2, "lower": -0.3, "upper": -0.1} | changes])


def goal(regime: str = "site", difference: float = -0.2, half: float = 0.1, where: str = "with tau") -> Goal:
    names = {"claim": f"A beats B, {where}", "method": "A", "reference": "B", "where": where}
    lower, upper = difference - half, difference + half
    return Goal(**names, regime=regime, n=7, difference=difference, lower=lower, upper=upper, met=upper < 0)


@pytest.mark.parametrize(
    ("difference", "lower", "upper", "met", "sentence"),
    [
        (-0.2, -0.3, -0.1, True, "0.20 CDR-SB points lower than that of null model, averaged over combinations"),
        (-0.2, -0.5, 0.1, False, "(95% interval −0.50 to +0.10, n = 31; it includes zero)"),
        (0.2, 0.1, 0.3, False, "0.20 CDR-SB points higher"),
        (0.0031, -0.01, 0.02, False, "0.0031 CDR-SB points higher"),
    ],
)
def test_a_claim_is_evaluated_by_its_interval_and_stated_whichever_way_it_went(
    difference: float, lower: float, upper: float, met: bool, sentence: str
) -> None:
    [one] = evaluated_goals([CLAIM], compared(difference=difference, lower=lower, upper=upper), LABELS)
    assert one.met is met
    assert sentence in finding(one, UNIT)


@pytest.mark.parametrize(
    "comparisons",
    [
        compared(n=0, difference=np.nan, lower=np.nan, upper=np.nan),
        compared(method="other"),
        pd.DataFrame(),
    ],
    ids=["nobody tested", "method absent", "nothing compared"],
)
def test_a_claim_that_cannot_be_evaluated_is_kept_without_a_number(comparisons: pd.DataFrame) -> None:
    [one] = evaluated_goals([CLAIM], comparisons, LABELS)
    assert one.met is one.difference is one.lower is one.upper is None
    assert "PerM-MoE beats null model" in finding(one, UNIT) and "not evaluated" in finding(one, UNIT)
    assert "NaN" not in json.dumps(one.model_dump(mode="json"))


def test_another_outcome_is_told_in_its_own_unit() -> None:
    assert "CDR-SB" not in " ".join(findings([goal()], "progression points", names_regime=False))


def test_one_claim_in_many_regimes_is_one_sentence_that_names_where_it_holds() -> None:
    many = [goal("r=0", -0.2), goal("r=½", 0.003), goal("r=1", 0.05)]
    assert findings(many, UNIT, names_regime=True) == [
        "RMSE of A against that of B, with tau: lower beyond chance in 1 of 3 regimes (r=0: −0.20, 95% interval "
        "−0.30 to −0.10, n = 7) and higher beyond chance in 0 of 3 regimes; differences between −0.20 and +0.05 "
        "CDR-SB points, n = 7."
    ]


def test_many_claims_are_led_by_what_held_what_was_reversed_and_what_stays_open() -> None:
    many = [goal(where=f"with {name}", difference=d) for name, d in (("t1", -0.2), ("flair", 0.3), ("tau", 0.004))]
    first, *others = findings(many, UNIT, names_regime=False)
    assert first == (
        "Of 3 claims 1 holds beyond chance: A beats B, with t1 (−0.20 CDR-SB points, 95% interval −0.30 to −0.10, "
        "n = 7). 1 is reversed beyond chance: A beats B, with flair (+0.30 CDR-SB points, 95% interval +0.20 to +0.40, "
        "n = 7). For 1 the interval includes zero (difference +0.0040 CDR-SB points, n = 7)."
    )
    assert others == [finding(one, UNIT) for one in many]


def test_that_nothing_held_is_said_like_that_something_did() -> None:
    many = [goal(where=f"with {name}", difference=0.02) for name in ("t1", "flair", "tau")]
    first = findings(many, UNIT, names_regime=False)[0]
    assert first.startswith("Of 3 claims none hold beyond chance. None are reversed beyond chance. For 3 the")


def test_a_sum_of_claims_over_regimes_names_claim_and_regime() -> None:
    many = [goal(r, d, where=w) for w in ("with t1", "with tau", "with flair") for r, d in (("x", 0.01), ("y", 0.02))]
    many[3] = goal("y", -0.4, where="with tau")
    first, *others = findings(many, UNIT, names_regime=True)
    assert first.startswith("Of 6 tests of 3 claims 1 holds beyond chance: A beats B, with tau, in y (−0.40")
    assert len(others) == 3


def test_a_claim_that_holds_in_several_regimes_is_named_once() -> None:
    many = [goal(r, d, where=w) for w in ("with t1", "with tau", "with flair") for r, d in (("x", 0.01), ("y", 0.02))]
    many[2:4] = [goal("x", -0.2, where="with tau"), goal("y", -0.4, where="with tau")]
    first, *_ = findings(many, UNIT, names_regime=True)
    assert "A beats B, with tau, in x and y (differences between −0.40 and −0.20" in first
