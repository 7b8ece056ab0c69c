"""Visits of the synthetic cohort before the index visit: only where they are asked for, and on the same way."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from permmoe.data.adni import select_visits
from permmoe.data.cohort import CohortConfig, Subject, draw_subjects
from permmoe.data.cohort.clinical_visits import EARLIER_MONTHS
from permmoe.data.cohort.disease import cdrsb_at, cdrsb_before
from permmoe.data.cohort.release_tables import release_tables
from permmoe.data.cohort.tables import adnimerge_table, cdr_table
from permmoe.data.target_rule import TargetRule
from permmoe.modality import Modality

SETTINGS: dict[str, Any] = {"subjects": 600, "realism": "adni-like", "sites": "adni", "release_tables": True}


@pytest.fixture(scope="module")
def plain() -> tuple[Subject, ...]:
    return draw_subjects(CohortConfig(**SETTINGS))


@pytest.fixture(scope="module")
def followed() -> tuple[Subject, ...]:
    return draw_subjects(CohortConfig(**SETTINGS, earlier_share=0.6))


def test_a_cohort_that_does_not_ask_for_earlier_visits_keeps_its_digest() -> None:
    assert "earlier_share" not in CohortConfig().model_dump()
    assert CohortConfig(earlier_share=0.1).digest() != CohortConfig().digest()


def test_everything_from_the_index_visit_on_is_as_without_earlier_visits(
    plain: tuple[Subject, ...], followed: tuple[Subject, ...]
) -> None:
    for old, new in zip(plain, followed, strict=True):
        shift = new.index_month - old.index_month
        assert replace(new, index_month=old.index_month, visits=old.visits) == old
        known = [replace(visit, month=visit.month - shift) for visit in new.visits if not visit.is_earlier]
        assert known == list(old.visits)


def test_about_the_share_asked_for_is_seen_before_the_index_visit_up_to_three_years(
    followed: tuple[Subject, ...],
) -> None:
    ill = [s for s in followed if s.visits[0].is_earlier or s.index_month == 0]
    seen = [s for s in ill if s.visits[0].is_earlier]
    assert len(seen) / len(ill) == pytest.approx(0.6, abs=0.06)
    assert {s.index_month for s in seen} == set(EARLIER_MONTHS)
    for subject in seen:
        days = [visit.day for visit in subject.visits]
        assert days == sorted(days) and subject.visits[0].month == 0
        assert all(visit.day < subject.index_visit.day for visit in subject.visits if visit.is_earlier)
        assert {visit.diagnosis for visit in subject.visits if visit.is_earlier} <= {"", "CN", "MCI"}


def test_the_way_to_the_index_visit_meets_it_with_its_slope_and_never_falls_below_zero(
    plain: tuple[Subject, ...],
) -> None:
    for latents in (subject.latents for subject in plain):
        course = [cdrsb_before(latents, months) for months in (0, 6, 12, 24, 36)]
        assert course[0] == cdrsb_at(latents, 0) and min(course) >= 0
        if latents.decline_points_per_year > 0:
            assert course == sorted(course, reverse=True)
            if course[1] > 0:
                assert course[0] - course[1] <= latents.decline_points_per_year / 2 + 1e-12


def test_ratings_before_scatter_around_the_way_as_ratings_after_do(followed: tuple[Subject, ...]) -> None:
    off = [
        visit.cdrsb - cdrsb_before(subject.latents, subject.index_month - visit.month)
        for subject in followed
        for visit in subject.visits
        if visit.is_earlier and visit.cdrsb >= 0
    ]
    assert abs(float(np.mean(off))) < 0.06
    assert 0.25 < float(np.std(off)) < 0.5


def write_tables(folder: Path, subjects: tuple[Subject, ...], config: CohortConfig) -> Path:
    folder.mkdir()
    (folder / "dataset_description.json").write_text('{"SYNTHETIC": true}')
    tables: dict[str, pd.DataFrame] = {
        "ADNIMERGE.csv": adnimerge_table(subjects, config),
        "CDR.csv": cdr_table(subjects),
        **release_tables(subjects, config),
    }
    for name, table in tables.items():
        table.to_csv(folder / name, index=False)
    return folder


def test_a_study_finds_the_same_index_visits_and_outcomes_and_histories_beside_them(
    plain: tuple[Subject, ...], followed: tuple[Subject, ...], tmp_path: Path
) -> None:
    modalities = (
        Modality(name="t1", kind="tabular", columns=("UCSFFSX.ST29SV",)),
        Modality(name="history", kind="history", columns=("score_per_year", "ADAS13_per_year", "years_before")),
    )
    configs = CohortConfig(**SETTINGS), CohortConfig(**SETTINGS, earlier_share=0.6)
    old, new = (
        {visit.subject_id: visit for visit in select_visits(folder, None, TargetRule(), modalities).visits}
        for folder in (
            write_tables(tmp_path / "old", plain, configs[0]),
            write_tables(tmp_path / "new", followed, configs[1]),
        )
    )
    assert old.keys() == new.keys()
    for name, visit in old.items():
        assert new[name].baseline_cdrsb == visit.baseline_cdrsb and new[name].delta_cdrsb == visit.delta_cdrsb
        assert new[name].tables.get("t1") == visit.tables.get("t1")
    share = np.mean(["history" in visit.tables for visit in new.values()])
    assert 0.5 < share < 0.7 and np.mean(["history" in visit.tables for visit in old.values()]) < 0.15
    told = [
        (v.tables["history"][0], v.delta_cdrsb)
        for v in new.values()
        if "history" in v.tables and v.delta_cdrsb is not None
    ]
    assert np.corrcoef(np.array(told).T)[0, 1] > 0.2
