"""Means over cohorts: each weighs alike, people of two cohorts are never taken for one, and no other study has any."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from permmoe.evaluation.figures import mean_over_cohorts, rmse_figure
from permmoe.evaluation.intervals import over_seeds
from permmoe_simulation.report.cohorts import OVER_COHORTS, over_cohorts_rows
from permmoe_simulation.report.collection import collected
from permmoe_simulation.studies.finished_study import FinishedStudy
from permmoe_simulation.studies.prediction_errors import PredictionErrors
from permmoe_simulation.studies.results import difference
from tests.simulation.studies.test_results import NAMES, SEEDS, done, write_cell
from tests.support.report_page import page_of
from tests.support.study_files import write_study


def cohorts(folder: Path, *, are_cohorts: bool = True) -> FinishedStudy:
    """Two methods on three cohorts, whose people have the same names; the good one is worse on the last."""
    cells = [
        replace(write_cell(folder / regime, method, seed, error + (method == "good") * worse), regime=regime)
        for regime, worse in (("first", 0.0), ("second", 0.1), ("third", 1.4))
        for method, error in (("good", 0.5), ("bad", 1.5))
        for seed in SEEDS
    ]
    study = done(PredictionErrors(cells, NAMES, SEEDS), ("good", "bad"))
    regimes = dict.fromkeys(("first", "second", "third"), next(iter(study.config.regimes.values())))
    config = study.config.model_copy(update={"regimes": regimes, "regimes_are_cohorts": are_cohorts})
    return replace(study, config=config)


def test_each_cohort_weighs_alike_and_everybody_of_each_counts(tmp_path: Path) -> None:
    study = cohorts(tmp_path)
    rows = over_cohorts_rows(study).set_index("combination")
    for combination in ("mean", "t1"):
        single = [difference(study.errors, "good", "bad", r, combination) for r in study.config.regimes]
        assert rows.loc[combination, "difference"] == pytest.approx(np.mean([one.estimate for one in single]))
        assert rows.loc[combination, "n"] == sum(one.n for one in single)
    assert (rows["cohorts"] == 3).all() and rows["lower"].lt(rows["upper"])[rows["n"] > 0].all()


def test_a_study_whose_regimes_share_their_patients_has_no_mean_over_cohorts(tmp_path: Path) -> None:
    assert not len(over_cohorts_rows(cohorts(tmp_path, are_cohorts=False)))


def test_a_pair_that_did_not_finish_on_every_cohort_has_none(tmp_path: Path) -> None:
    study = cohorts(tmp_path)
    del study.errors.by_method["bad", "second"]
    assert not len(over_cohorts_rows(study))


def test_luck_of_subjects_averages_out_over_cohorts_and_luck_that_seeds_share_does_not() -> None:
    draw = np.random.default_rng(0)
    subjects = [rmse_figure(draw.chisquare(1, (1, 400)).repeat(6, axis=0)) for _ in range(4)]
    alone, together = over_seeds(subjects[0]), over_seeds(mean_over_cohorts(subjects))
    assert together.standard_error == pytest.approx(alone.standard_error / 2, rel=0.15)
    luck = draw.uniform(0.5, 2.0, (6, 1))
    seeds = [rmse_figure(luck * np.ones((6, 400))) for _ in range(4)]
    assert over_seeds(mean_over_cohorts(seeds)).standard_error == pytest.approx(over_seeds(seeds[0]).standard_error)


def test_figures_of_other_numbers_of_seeds_have_no_mean() -> None:
    with pytest.raises(ValueError, match="the same seeds"):
        mean_over_cohorts([rmse_figure(np.ones((2, 9))), rmse_figure(np.ones((3, 9)))])
    with pytest.raises(ValueError, match="one figure"):
        mean_over_cohorts([])


def test_the_report_and_the_page_of_findings_have_the_means_and_say_what_is_beyond_chance(tmp_path: Path) -> None:
    folder = write_study(tmp_path / "study")
    assert "All cohorts together" not in page_of(folder)
    row = {"method": "permmoe", "reference": "flexmoe", "cohorts": 3, "n": 870, "seeds": 5, "upper": -0.1}
    rows = pd.DataFrame(
        [{**row, "combination": "mean", "difference": -0.2, "lower": -0.3, "p_value": 0.001, "p_holm": 0.002},
         {**row, "combination": "t1", "difference": -0.4, "lower": -0.7, "p_value": 0.2, "p_holm": 0.6}]
    )  # fmt: skip
    OVER_COHORTS.write(rows, folder)
    html, page = page_of(folder), collected([folder], "").page
    assert "combinations: the first method errs less than Flex-MoE beyond chance." in page
    assert all("errs less beyond chance in 0 and more in 0 of 1." in text for text in (html, page))
    assert "All cohorts together" in html
    OVER_COHORTS.write(rows.assign(p_holm=0.2), folder)
    assert "1 pair averaged over combinations: nothing is beyond chance." in collected([folder], "").page
    assert "| PerM-MoE − Flex-MoE | **−0.200 (−0.300 to −0.100)** | 870 | 0.002 |" in page
