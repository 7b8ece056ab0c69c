"""Hospitals that never trained in a study's report: who calibrates, who is judged, and what a reader sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from permmoe.calibration.score_counts import ScoreCounts
from permmoe.errors import DataError
from permmoe_simulation.report.collection import collected
from permmoe_simulation.report.newcomers import (
    NEWCOMERS,
    FinishedModel,
    Rows,
    newcomers_in,
    newcomers_of,
    with_own_patients,
)
from permmoe_simulation.studies.cell_files import PREDICTIONS, FinishedCell, Matrix, read_predictions
from tests.simulation.report.test_coverage import cell
from tests.support.report_page import page_of

NUMBERS = (10, 50)


def rows(cells: list[FinishedCell], numbers: tuple[int, ...] = NUMBERS) -> pd.DataFrame:
    return newcomers_in(cells, numbers)


def test_a_few_patients_of_a_hospital_bring_intervals_and_errors_back(tmp_path: Path) -> None:
    found = rows([cell(tmp_path, seed, shift=2.0, unseen=("b",)) for seed in range(5)])
    assert list(found["patients"]) == [0, 0, 10, 10, 50, 50] and (found["hospitals"] == 5).all()
    at_80 = found[found["level"] == 0.8].set_index("patients")
    assert at_80.loc[0, "coverage"] < 0.5 < 0.7 < at_80.loc[10, "coverage"]
    assert 0.77 < at_80.loc[50, "coverage"] < 0.9 and at_80.loc[50, "width"] < at_80.loc[10, "width"]
    assert at_80.loc[50, "rmse"] < at_80.loc[10, "rmse"] < at_80.loc[0, "rmse"]
    assert (at_80["n"] == at_80.loc[0, "n"]).all() and np.isnan(at_80.loc[0, "p_holm"])
    for n in NUMBERS:
        change = at_80.loc[n, "rmse"] - at_80.loc[0, "rmse"]
        assert at_80.loc[n, "difference"] == pytest.approx(change)
        assert at_80.loc[n, "upper"] < 0 and at_80.loc[n, "p_holm"] < 0.05


def test_without_patients_of_its_own_a_hospital_has_the_intervals_of_the_model_as_it_is(tmp_path: Path) -> None:
    one = cell(tmp_path, 0, shift=1.0, unseen=("b",))
    before = [j for j in newcomers_of(one, NUMBERS) if j.patients == 0]
    visits = read_predictions(one.folder, PREDICTIONS)
    judged = visits.set_index("subject").loc[list(before[0].subjects)]
    assert set(judged["site"]) == {"b"} and len(judged) == (visits["site"] == "b").sum() - NUMBERS[-1]
    errors = (judged.iloc[:, 3:].to_numpy() - judged["target"].to_numpy()[:, None]) ** 2
    np.testing.assert_allclose(before[0].squared_error, errors)


def test_all_numbers_judge_the_same_patients_and_nobody_who_calibrates(tmp_path: Path) -> None:
    one = cell(tmp_path, 3, unseen=("a", "b"))
    asked: list[set[str]] = []

    def noting(model: FinishedModel, own: Rows) -> tuple[Matrix, ScoreCounts]:
        asked.append(set(model.tested.visits["subject"].to_numpy()[own]))
        return with_own_patients(model, own)

    judged = list(newcomers_of(one, NUMBERS, noting))
    assert [j.patients for j in judged] == [0, 10, 50] * 2
    for ten, fifty, of_site in ((*asked[:2], judged[0]), (*asked[2:], judged[3])):
        assert len(ten) == 10 and ten < fifty and len(fifty) == 50 and not fifty & set(of_site.subjects)
    assert all(j.subjects == judged[0].subjects for j in judged[:3])
    fewer = list(newcomers_of(one, (10,)))
    # The ten of two numbers are the ten of one: whoever calibrates first is the same.
    assert set(judged[0].subjects) < set(fewer[0].subjects) and len(fewer[0].subjects) == len(judged[0].subjects) + 40


def test_a_hospital_of_which_nobody_would_be_left_to_judge_is_named(tmp_path: Path) -> None:
    one = cell(tmp_path, 0, unseen=("b",))
    with pytest.raises(DataError, match="site b has 250 patients with an outcome, so that 250 calibrate"):
        list(newcomers_of(one, (10, 250)))


def test_studies_that_ask_for_nothing_and_cells_without_new_hospitals_leave_the_table_out(tmp_path: Path) -> None:
    assert rows([cell(tmp_path, 0)]).empty and rows([cell(tmp_path, 1, unseen=("b",))], ()).empty


def test_the_page_and_the_chapter_show_every_number_beside_what_it_changed(small: Path, tmp_path: Path) -> None:
    assert "A hospital that never trained" not in page_of(small)
    NEWCOMERS.write(rows([cell(tmp_path, seed, shift=2.0, unseen=("b",)) for seed in range(5)]), small)
    told = page_of(small)
    for words in ("A hospital that never trained", "At 5 hospitals over all seeds", "Own patients", "Change in RMSE"):
        assert words in told
    chapter = collected([small]).page
    assert (
        "| PerM-MoE | structural | 50 |" in chapter
        and "**−1." in chapter
        and "| PerM-MoE | structural | 0 |" in chapter
    )
