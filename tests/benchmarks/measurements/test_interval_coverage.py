"""The benchmark of intervals on a cohort that is too small to say anything."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from permmoe_benchmarks.measurements import interval_coverage
from permmoe_benchmarks.measurements.interval_coverage import (
    DEFAULT,
    KINDS,
    cohort,
    expected_and_found,
    judged,
    measured,
)
from permmoe_benchmarks.pages.intervals import intervals_page, next_scans_chapter


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    with pytest.MonkeyPatch.context() as patch:
        _small(patch)
        return measured(3, tuple(KINDS))


def _small(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(interval_coverage, "SUBJECTS", 420)
    patch.setattr(interval_coverage, "TRAIN", interval_coverage.TRAIN.model_copy(update={"epochs": 1}))


def test_every_kind_is_judged_on_the_same_visits(rows: pd.DataFrame) -> None:
    everybody = rows[rows["severity"] == -1]
    assert set(everybody["kind"]) == set(KINDS) and everybody["coverage"].between(0, 1).all()
    assert (everybody.groupby(["combination", "level"])["judged"].nunique() == 1).all()
    by_group = rows[rows["severity"] >= 0].groupby(["kind", "combination", "level"], sort=False)["judged"].sum()
    assert (by_group.to_numpy() == everybody["judged"].to_numpy()).all()


def test_the_page_names_what_was_measured_and_which_kind_is_default(rows: pd.DataFrame) -> None:
    page = intervals_page(rows.assign(calibrated=150), (3,), 420, 61.0, DEFAULT)
    assert f"**{DEFAULT}** is the default" in page and "15 of 15 combinations" in page and "invented patients" in page
    assert all(f"| {kind} | 80% |" in page for kind in KINDS)
    few = intervals_page(
        rows.assign(calibrated=np.where(rows["combination"] == "t1", 150, 99)), (3,), 420, 61.0, DEFAULT
    )
    assert "1 of 15 combinations" in few and "| t1+tau |" not in few


def test_a_model_without_spread_predicts_the_same_and_scales_by_the_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    _small(monkeypatch)
    found = judged(cohort(3), "gaussian")
    plain, trained = found.without_spread(), judged(cohort(3), "none")
    assert np.array_equal(plain.new, trained.new, equal_nan=True)
    assert np.array_equal(plain.own_scale, trained.own_scale, equal_nan=True)


def test_expectations_of_a_scan_stand_beside_what_happened(monkeypatch: pytest.MonkeyPatch) -> None:
    _small(monkeypatch)
    found = expected_and_found(3)
    assert len(found) and (found["judged"] > 0).all()
    chapter = next_scans_chapter(found)
    assert all(f"| {row.combination} | {row.scan} |" in chapter for row in found.itertuples())
