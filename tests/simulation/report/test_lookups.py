"""Look-ups over the tables of a study."""

from __future__ import annotations

from math import nan
from pathlib import Path

import pandas as pd

from permmoe_simulation.report.lookups import Difference, pooled, sample_size, scores, unmirrored
from tests.support.report_page import study_of


def test_one_seed_needs_no_average_and_several_seeds_without_one_are_not_passed_off_as_it() -> None:
    def rows(method: str, *seeds: str) -> pd.DataFrame:
        return pd.DataFrame({"method": method, "regime": "r", "seed": seeds, "rmse": range(len(seeds))})

    table = pd.concat([rows("a", "0", "1", "all"), rows("b", "7"), rows("c", "0", "1")])
    kept = pooled(table)
    assert list(zip(kept["method"], kept["seed"], strict=True)) == [("a", "all"), ("b", "7")]


def test_scores_belong_to_their_method_combination_regime_and_stratum(study: Path) -> None:
    table = pooled(study_of(study).results)
    found = scores(table, "structural", "small_change")
    for (method, combination), score in found.items():
        chosen = table[(table["method"] == method) & (table["combination"] == combination)]
        slow = chosen[chosen["stratum"] == "small_change"].iloc[0]
        assert (score.n, score.rmse, score.lower) == (slow["n"], slow["rmse"], slow["lower"])
    assert len(found) == 6 * 15
    assert scores(table, "another", "all") == {}


def test_a_difference_that_is_not_judged_says_why() -> None:
    few = Difference(9, -0.5, nan, nan, seeds=5)
    assert (few.verdict, few.why_unjudged) == ("unclear", "n = 9, fewer than 10")
    assert Difference(40, -0.5, nan, nan, seeds=3).why_unjudged == "3 training seeds, fewer than 5"
    assert "an earlier version" in Difference(40, -0.5, -0.7, -0.3).why_unjudged
    judged = Difference(10, -0.5, -0.7, -0.3, p_holm=0.01, seeds=5)
    assert (judged.verdict, judged.why_unjudged) == ("better", "")


def test_a_method_that_no_subject_could_judge_does_not_widen_the_sample_size() -> None:
    assert sample_size([0, 219, 219]) == "219"
    assert sample_size([219, 145, 0]) == "145–219"
    assert sample_size([0]) == "0"
    assert sample_size([]) == "–"


def test_a_pair_and_its_mirror_image_are_listed_once() -> None:
    assert unmirrored([("a", "b"), ("b", "a"), ("a", "c"), ("a", "b")]) == [("a", "b"), ("a", "c")]
