"""Coverage in a study's report: from what cells keep to what a reader sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from permmoe.data.visits import Visit, VisitTable
from permmoe.modality import all_combinations
from permmoe_simulation.report.coverage import COVERAGE, coverage_of, coverage_section
from permmoe_simulation.report.judged_intervals import TRAINED, UNSEEN
from permmoe_simulation.studies.cell_files import (
    CALIBRATION,
    CellOutcome,
    FinishedCell,
    Predicted,
    publish,
    write_outcome,
)
from tests.support.report_page import page_of, texts, view
from tests.support.tiny_federation import MODEL

COMBINATIONS = all_combinations(MODEL.names)


def visits(rng: np.random.Generator, n: int, start: int, shift: float) -> Predicted:
    """At sites a and b; at b everybody changes by `shift` points more than the model has learned."""
    baseline, site = rng.integers(2, 20, size=n) / 2, np.where(np.arange(n) % 2, "b", "a")
    predictions = rng.normal(1, 1, size=(n, len(COMBINATIONS)))
    has = rng.random((n, 3)) > 0.3
    has[~has.any(1), 0] = True
    for j, combination in enumerate(COMBINATIONS):
        predictions[~has[:, [MODEL.names.index(m) for m in combination]].all(1), j] = np.nan
    target = np.nanmean(predictions, axis=1) + 0.5 * rng.normal(size=n) + shift * (site == "b")
    table = [Visit(f"s{start + i}", str(site[i]), "bl", float(baseline[i]), float(target[i]), 24.0) for i in range(n)]
    return Predicted(VisitTable(tuple(table)), predictions)


def cell(
    folder: Path,
    seed: int,
    *,
    calibrated: int = 400,
    shift: float = 0.0,
    keeps: bool = True,
    unseen: tuple[str, ...] = (),
) -> FinishedCell:
    rng = np.random.default_rng(seed)
    own, new = visits(rng, calibrated, 0, 0.0), visits(rng, 500, calibrated, shift)
    work = folder / f"work-{seed}"
    work.mkdir(parents=True)
    site_of = {v.subject_id: v.site for table in (own.visits, new.visits) for v in table}
    write_outcome(work, CellOutcome(new.visits, new.predictions, calibration=own if keeps else None), site_of)
    card = {"cell": {"model": MODEL.model_dump(mode="json")}, **({"unseen_sites": list(unseen)} if unseen else {})}
    publish(work, folder / f"cell-{seed}", card)
    return FinishedCell("permmoe", "structural", seed, folder / f"cell-{seed}")


def rows(cells: list[FinishedCell]) -> pd.DataFrame:
    return coverage_of(cells)


def test_coverage_is_near_nominal_with_every_combination_and_site_of_exchangeable_visits(tmp_path: Path) -> None:
    found = rows([cell(tmp_path, seed) for seed in range(4)])
    assert len(found) == 2 * (len(COMBINATIONS) + 3) and (found["seeds"] == 4).all()
    assert ((found["coverage"] - found["level"]).abs() < 0.04).all()
    assert (found["pooled"] == 0).all() and (found["width"] > 0).all()
    wide, narrow = (found[found["level"] == level]["width"].to_numpy() for level in (0.95, 0.8))
    assert (wide > narrow).all()


def test_intervals_hold_less_often_at_a_site_whose_patients_changed(tmp_path: Path) -> None:
    found = rows([cell(tmp_path, seed, shift=2.0) for seed in range(2)])
    by_site = found[(found["combination"] == "mean") & (found["level"] == 0.8)].set_index("site")["coverage"]
    assert by_site["a"] > 0.75 > by_site["all"] > by_site["b"]


def test_sites_that_never_trained_are_judged_apart_from_those_that_did(tmp_path: Path) -> None:
    found = rows([cell(tmp_path, 0, shift=2.0, unseen=("b",)), cell(tmp_path, 1, shift=2.0, unseen=("a",))])
    at_80 = found[found["level"] == 0.8]
    means = at_80[at_80["combination"] == "mean"].set_index("site")
    names = {"all", TRAINED, UNSEEN, "a", "a (never trained)", "b", "b (never trained)"}
    assert set(means.index) == names and (means.loc[["a", "b (never trained)"], "seeds"] == 1).all()
    for both, parts in ((UNSEEN, ["a (never trained)", "b (never trained)"]), (TRAINED, ["a", "b"])):
        assert means.loc[both, "n"] == means.loc[parts, "n"].sum()
        weighed = np.average(means.loc[parts, "coverage"], weights=means.loc[parts, "n"])
        assert means.loc[both, "coverage"] == pytest.approx(weighed)
    for kind in ("all", TRAINED, UNSEEN):
        single = at_80[(at_80["site"] == kind) & (at_80["combination"] != "mean")]
        assert len(single) == len(COMBINATIONS) and single["n"].sum() == means.loc[kind, "n"]
    assert means.loc["b (never trained)", "coverage"] < 0.7 < means.loc["a (never trained)", "coverage"]


def test_a_mean_is_over_all_intervals_of_its_parts(tmp_path: Path) -> None:
    found = rows([cell(tmp_path, 0)])
    whole = found[(found["combination"] == "mean") & (found["level"] == 0.8)].set_index("site")
    single = found[(found["combination"] != "mean") & (found["level"] == 0.8)]
    assert whole.loc["all", "n"] == single["n"].sum() == whole.loc["a", "n"] + whole.loc["b", "n"]
    assert whole.loc["all", "coverage"] == pytest.approx(np.average(single["coverage"], weights=single["n"]))


def test_too_few_visits_of_a_combination_are_pooled_and_the_table_says_so(tmp_path: Path) -> None:
    found = rows([cell(tmp_path, 0, calibrated=45)])
    at_95 = found[found["level"] == 0.95].set_index("combination")
    assert at_95.loc["clinical+fluid+gene", "pooled"] == 1 and at_95.loc["clinical+fluid+gene", "coverage"] > 0.8
    assert (found[found["level"] == 0.8]["pooled"] == 0).all()
    assert rows([cell(tmp_path / "fewer", 0, calibrated=5)])["n"].sum() == 0


def test_old_cells_without_validation_predictions_leave_the_table_out(tmp_path: Path) -> None:
    old, new = cell(tmp_path, 0, keeps=False), cell(tmp_path, 1)
    assert not (old.folder / CALIBRATION).exists() and len(rows([old])) == 0
    assert (rows([old, new])["seeds"] == 1).all()


def test_the_section_shows_coverage_beside_width_and_names_what_was_pooled(small: Path, tmp_path: Path) -> None:
    found = rows([cell(tmp_path, seed, calibrated=45) for seed in range(2)])
    found = found[~found["combination"].str.contains("fluid")]
    names = found["combination"].str.replace("clinical", "t1").str.replace("gene", "tau")
    COVERAGE.write(found.assign(combination=names), small)
    told = page_of(small)
    for words in ("80% intervals hold", "over seeds", "by combination and by site", "At 95% too few validation"):
        assert words in told


def test_the_section_tells_sites_that_never_trained_apart(small: Path, tmp_path: Path) -> None:
    found = rows([cell(tmp_path, seed, unseen=("b",)) for seed in range(2)])
    found = found[~found["combination"].str.contains("fluid")]
    names = found["combination"].str.replace("clinical", "t1").str.replace("gene", "tau")
    COVERAGE.write(found.assign(combination=names), small)
    told = page_of(small)
    for words in (
        "nothing about their patients and scanners is in the intervals",
        f", {UNSEEN}<",
        f"By combination, {UNSEEN}",
        "b (never trained)",
    ):
        assert words in told


def test_a_study_without_the_table_says_so_in_a_sentence(small: Path) -> None:
    (small / COVERAGE.file_name).unlink(missing_ok=True)
    assert "Not measured" in texts(coverage_section(view(small)))
