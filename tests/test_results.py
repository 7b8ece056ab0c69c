"""Tables from invented predictions, against a plain loop over subjects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from permmoe.modality import all_combinations, combination_name
from permmoe_simulation.results import FinishedCell, StudyErrors, finding, findings, judge_claims
from permmoe_simulation.study import Claim

NAMES = ("t1", "flair", "tau")
COMBINATIONS = [combination_name(c) for c in all_combinations(NAMES)]
LABELS = {"good": "PerM-MoE", "bad": "null model"}
SEEDS = (3, 5)


def write_cell(folder: Path, method: str, seed: int, error: float, *, without: str = "t1+flair+tau") -> FinishedCell:
    """Thirty-seven invented subjects, other ones for each seed; nobody has the combination `without`."""
    truth = np.random.default_rng(0)
    baseline, target = truth.uniform(0, 8, 53), truth.normal(1, 1, 53)
    tested = np.random.default_rng(seed).permutation(53)[:37]
    noise = np.random.default_rng([seed, len(method)]).normal(0, 1, (37, len(COMBINATIONS)))
    prediction = target[tested, None] + error * noise
    prediction[:, COMBINATIONS.index(without)] = np.nan
    prediction[::5, 1] = np.nan
    path = folder / f"{method}-{seed}"
    path.mkdir(parents=True)
    subject = np.array([f"s{i:02d}" for i in tested])
    np.savez(
        path / "predictions.npz",
        subject=subject,
        site=np.full(len(subject), "north"),
        baseline=baseline[tested],
        target=target[tested],
        prediction=prediction,
    )
    card = {"cell": {"model": {"modalities": [{"name": name} for name in NAMES]}}}
    (path / "card.json").write_text(json.dumps(card))
    return FinishedCell(method, "site", seed, path)


@pytest.fixture
def finished(tmp_path: Path) -> list[FinishedCell]:
    return [write_cell(tmp_path, m, s, e) for m, e in (("good", 0.5), ("bad", 1.5)) for s in SEEDS]


@pytest.fixture
def errors(finished: list[FinishedCell]) -> StudyErrors:
    return StudyErrors(finished, NAMES, SEEDS, resamples=200)


def slow_row(cell: FinishedCell, combination: str, stratum: str) -> dict[str, float]:
    with np.load(cell.folder / "predictions.npz") as saved:
        rows = []
        for b, y, p in zip(saved["baseline"], saved["target"], saved["prediction"], strict=True):
            inside = {"all": True, "small_change": 0 < y <= 1, "severe_baseline": b > 5}[stratum]
            if inside and not np.isnan(p[COMBINATIONS.index(combination)]):
                rows.append((y, p[COMBINATIONS.index(combination)]))
    truth = [y for y, _ in rows]
    mean = sum(truth) / len(truth)
    squared = sum((p - y) ** 2 for y, p in rows)
    return {
        "n": len(rows),
        "rmse": (squared / len(rows)) ** 0.5,
        "mae": sum(abs(p - y) for y, p in rows) / len(rows),
        "r2": 1 - squared / sum((y - mean) ** 2 for y in truth),
    }


def test_results_agree_with_a_loop_over_subjects(errors: StudyErrors, finished: list[FinishedCell]) -> None:
    results = errors.results().set_index(["method", "seed", "combination", "stratum"])
    for cell in finished:
        for combination in COMBINATIONS[:-1]:
            for stratum in ("all", "small_change", "severe_baseline"):
                row = results.loc[(cell.method, cell.seed, combination, stratum)]
                for column, value in slow_row(cell, combination, stratum).items():
                    assert row[column] == pytest.approx(value), (cell, combination, stratum, column)
                assert row.lower <= row.rmse <= row.upper


def test_all_seeds_together_are_the_mean_of_the_seeds_over_every_subject_tested(errors: StudyErrors) -> None:
    results = errors.results().query("method == 'good' and combination == 't1' and stratum == 'all'").set_index("seed")
    assert results.loc["all", "rmse"] == pytest.approx(results.loc[list(SEEDS), "rmse"].mean())
    assert results.loc["all", "n"] > 37 == results.loc[3, "n"]


def test_a_combination_that_nobody_has_is_n_0_and_never_a_number(errors: StudyErrors) -> None:
    rows = errors.results().query("combination == 't1+flair+tau'")
    assert len(rows) == 2 * 3 * 3 and rows.n.eq(0).all()
    assert rows[["rmse", "mae", "r2", "lower", "upper"]].isna().all(axis=None)
    compared = errors.comparisons([("good", "bad")]).query("combination == 't1+flair+tau'")
    assert compared.n.eq(0).all() and compared[["difference", "lower", "upper"]].isna().all(axis=None)


def test_a_difference_is_that_of_the_rmse_on_the_subjects_that_both_predicted(
    errors: StudyErrors, finished: list[FinishedCell]
) -> None:
    row = errors.comparisons([("good", "bad")]).query("combination == 'flair' and stratum == 'all'").iloc[0]
    rmse = {(c.method, c.seed): slow_row(c, "flair", "all")["rmse"] for c in finished}
    assert row.difference == pytest.approx(np.mean([rmse["good", s] - rmse["bad", s] for s in SEEDS]))


def test_comparisons_are_paired_so_that_equal_errors_differ_by_exactly_nothing(tmp_path: Path) -> None:
    cells = [write_cell(tmp_path, "same", 3, 1.0), write_cell(tmp_path, "also", 3, 1.0)]
    d = StudyErrors(cells, NAMES, (3,), 200).difference("same", "also", "site", "mean", "all")
    assert (d.estimate, d.lower, d.upper) == (0, 0, 0)


def test_a_pair_of_which_one_did_not_finish_is_not_compared(errors: StudyErrors) -> None:
    assert len(errors.comparisons([("good", "absent")])) == 0


def compared(**changes: Any) -> pd.DataFrame:
    row = {"method": "good", "reference": "bad", "regime": "site", "combination": "mean", "stratum": "all", "n": 31}
    return pd.DataFrame([row | {"difference": -0.2, "lower": -0.3, "upper": -0.1} | changes])


CLAIM = Claim(method="good", reference="bad")


@pytest.mark.parametrize(
    ("difference", "lower", "upper", "met", "sentence"),
    [
        (-0.2, -0.3, -0.1, True, "0.20 points lower than that of null model averaged over combinations"),
        (-0.2, -0.5, 0.1, False, "(95% interval -0.50 to +0.10; the interval includes zero)"),
        (0.2, 0.1, 0.3, False, "0.20 points higher"),
    ],
)
def test_a_claim_is_judged_by_its_interval_and_told_whichever_way_it_went(
    difference: float, lower: float, upper: float, met: bool, sentence: str
) -> None:
    [judged] = judge_claims([CLAIM], compared(difference=difference, lower=lower, upper=upper), LABELS)
    assert judged["met"] is met
    assert sentence in finding(judged)


@pytest.mark.parametrize(
    "comparisons",
    [
        compared(n=0, difference=np.nan, lower=np.nan, upper=np.nan),
        compared(method="other"),
        pd.DataFrame(),
    ],
    ids=["nobody tested", "method absent", "nothing compared"],
)
def test_a_claim_that_cannot_be_judged_is_kept_without_a_number(comparisons: pd.DataFrame) -> None:
    [judged] = judge_claims([CLAIM], comparisons, LABELS)
    assert judged["met"] is judged["difference"] is judged["lower"] is judged["upper"] is None
    assert "PerM-MoE beats null model" in finding(judged) and "not judged" in finding(judged)
    assert "NaN" not in json.dumps(judged)


def test_many_claims_are_led_by_a_sentence_that_sums_them_up() -> None:
    def judged(regime: str, upper: float) -> dict[str, object]:
        figures = {"difference": upper - 0.1, "lower": upper - 0.2, "upper": upper, "n": 7, "met": upper < 0}
        return {"claim": "A beats B, averaged over combinations", "regime": regime, **figures}

    many = [judged("steady", -0.1), judged("joining", 0.1), judged("leaving", 0.5), judged("never", 0.1)]
    first, *others = findings(many, names_regime=True)
    assert first == (
        "Of 4 claims 1 holds: A beats B, averaged over combinations (steady). "
        "1 of the others is reversed beyond chance."
    )
    assert len(others) == 4 and others[1].startswith("joining: RMSE of A is 0.00 points")
    assert findings(many[:3], names_regime=False) == [finding(one) for one in many[:3]]
