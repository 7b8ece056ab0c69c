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
    figures = {"seeds": 5, "difference": -0.2, "lower": -0.3, "upper": -0.1, "p_holm": 0.01}
    return pd.DataFrame([row | figures | changes])


def goal(regime: str = "site", difference: float = -0.2, half: float = 0.1, where: str = "with tau") -> Goal:
    names = {"claim": f"A beats B, {where}", "method": "A", "reference": "B", "where": where}
    lower, upper = difference - half, difference + half
    return Goal(**names, regime=regime, n=17, seeds=5, difference=difference, lower=lower, upper=upper, met=upper < 0,
                reversed=lower > 0)  # fmt: skip


@pytest.mark.parametrize(
    ("difference", "p_holm", "met", "sentence"),
    [
        (-0.2, 0.04, True, "0.20 CDR-SB points lower than that of null model, averaged over combinations"),
        (
            -0.2,
            0.05,
            False,
            "(95% interval −0.30 to −0.10, n = 31, 5 training seeds; not beyond chance once all claims are counted)",
        ),
        (0.2, 0.01, False, "0.20 CDR-SB points higher"),
        (0.0031, 0.4, False, "0.0031 CDR-SB points higher"),
    ],
)
def test_a_claim_is_evaluated_by_its_corrected_test_and_stated_whichever_way_it_went(
    difference: float, p_holm: float, met: bool, sentence: str
) -> None:
    [one] = evaluated_goals([CLAIM], compared(difference=difference, p_holm=p_holm), LABELS)
    assert one.met is met and one.reversed is (p_holm < 0.05 and difference > 0)
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


@pytest.mark.parametrize(
    ("changes", "why"),
    [({"seeds": 3}, "3 training seeds, fewer than 5"), ({"n": 9}, "n = 9, fewer than 10")],
    ids=["few seeds", "few subjects"],
)
def test_a_claim_that_is_not_judged_keeps_its_point_and_says_why(changes: dict[str, int], why: str) -> None:
    [one] = evaluated_goals([CLAIM], compared(lower=np.nan, upper=np.nan, p_holm=np.nan, **changes), LABELS)
    assert one.met is None and one.difference == -0.2 and one.why_undecided == why
    assert "0.20 CDR-SB points lower than that of null model" in finding(one, UNIT)
    assert f"not judged: {why})" in finding(one, UNIT) and "95%" not in finding(one, UNIT)
    several = [one.model_copy(update={"claim": name}) for name in ("a", "b", "c")]
    assert findings(several, UNIT, names_regime=False)[0].startswith(f"Of 3 claims none is judged: {why} (")
    over = findings([one, one.model_copy(update={"regime": "other"})], UNIT, names_regime=True)
    assert len(over) == 1 and f"not judged: {why}." in over[0]


def test_another_outcome_is_told_in_its_own_unit() -> None:
    assert "CDR-SB" not in " ".join(findings([goal()], "progression points", names_regime=False))


def test_one_claim_in_many_regimes_is_one_sentence_that_names_where_it_holds() -> None:
    many = [goal("r=0", -0.2), goal("r=½", 0.003), goal("r=1", 0.05)]
    assert findings(many, UNIT, names_regime=True) == [
        "RMSE of A against that of B, with tau: lower beyond chance in 1 of 3 regimes (r=0: −0.20, 95% interval "
        "−0.30 to −0.10, n = 17) and higher beyond chance in 0 of 3 regimes; differences between −0.20 and +0.05 "
        "CDR-SB points, n = 17."
    ]


def test_many_claims_are_led_by_what_held_what_was_reversed_and_what_stays_open() -> None:
    many = [goal(where=f"with {name}", difference=d) for name, d in (("t1", -0.2), ("flair", 0.3), ("tau", 0.004))]
    first, *others = findings(many, UNIT, names_regime=False)
    assert first == (
        "Of 3 claims 1 holds beyond chance: A beats B, with t1 (−0.20 CDR-SB points, 95% interval −0.30 to −0.10, "
        "n = 17). 1 is reversed beyond chance: A beats B, with flair (+0.30 CDR-SB points, 95% interval +0.20 to "
        "+0.40, n = 17). 1 cannot be told from chance (difference +0.0040 CDR-SB points, n = 17)."
    )
    assert others == [finding(one, UNIT) for one in many]


def test_that_nothing_held_is_said_like_that_something_did() -> None:
    many = [goal(where=f"with {name}", difference=0.02) for name in ("t1", "flair", "tau")]
    first = findings(many, UNIT, names_regime=False)[0]
    assert first.startswith("Of 3 claims none hold beyond chance. None are reversed beyond chance. 3 cannot be told")


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
