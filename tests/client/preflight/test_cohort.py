"""The visits and images that a site has, as far as they can be read."""

from __future__ import annotations

import re

import pytest

from permmoe.config import ModelConfig
from permmoe.data.cohort import CohortConfig, write_cohort
from permmoe.data.image_names import PTID
from permmoe.modality import ADNI_MODALITIES
from permmoe_client.preflight.report import Verdict
from tests.support.preflight_hospital import (
    MODEL,
    STUDY,
    Hospital,
)
from tests.support.preflight_reports import shown, wrong


def test_progress_is_told_of_every_image(hospital: Hospital) -> None:
    told: list[tuple[int, int]] = []
    hospital.check(offline=True, progress=lambda done, total: told.append((done, total)))
    assert told == [(i + 1, 10) for i in range(10)]


def test_a_waiting_study_of_another_horizon_is_warned_of_before_anybody_approves_it(hospital: Hospital) -> None:
    hospital.study(STUDY.model_copy(update={"name": "three years", "horizon_months": 36.0}))
    [found] = [f for f in hospital.check(offline=True, images=False).findings if f.check == "data.horizon"]
    assert found.verdict is Verdict.WARNING
    assert found.detail == (
        "'three years': the study predicts over 36 months, and outcomes here are 24 months after the visit"
    )
    assert found.remedy == "name a manifest of outcomes 36 months after the visit, or decline the study"
    hospital.column("horizon_months", "36")
    [found] = [f for f in hospital.check(offline=True, images=False).findings if f.check == "data.horizon"]
    assert (found.verdict, found.detail) == (Verdict.OK, "36 months")


@pytest.fixture
def folders(hospital: Hospital) -> Hospital:
    """The hospital with ADNI-like folders in place of a manifest, on which the word SYNTHETIC is written."""
    grid = MODEL.grid
    write_cohort(hospital.folder / "adni", CohortConfig(subjects=30, sites=2, seed=7, grid=grid), workers=1)
    hospital.settings(manifest=None, folders={"tables": "adni/clinical", "images": "adni"})
    hospital.model = ModelConfig.model_validate({**MODEL.model_dump(), "modalities": ADNI_MODALITIES})
    return hospital


def test_folders_of_tables_and_images_are_judged_like_a_manifest(folders: Hospital) -> None:
    report = folders.check(offline=True)
    found = {f.check: f for f in report.findings}
    assert found["data.source"].detail == "tables and images" and found["data.readable"].verdict is Verdict.OK
    assert found["data.synthetic"].verdict is Verdict.WARNING
    assert not re.search(PTID, report.to_json() + shown(report))


def test_folders_of_tables_alone_need_no_folder_of_images(folders: Hospital) -> None:
    folders.settings(folders={"images": None}, modalities=[])
    tables = [{"name": "person", "kind": "tabular", "columns": ["age_years", "APOE4"]}]
    folders.model = ModelConfig.model_validate({**MODEL.model_dump(), "modalities": tables})
    found = {f.check: f for f in folders.check(offline=True).findings}
    assert found["data.readable"].verdict is Verdict.OK and found["data.synthetic"].verdict is Verdict.WARNING


def test_folders_of_another_score_than_the_studys_are_refused_and_of_the_same_judged(folders: Hospital) -> None:
    folders.settings(outcome={"name": "MMSE", "unit": "points"})
    report = folders.check(offline=True, images=False)
    assert wrong(report) == {"data.outcome"} and "the table holds MMSE, and the model predicts" in shown(report)
    score = {"name": "MMSE", "highest": 30}
    assert folders.model
    settings = {**folders.model.model_dump(), "score": score, "outcome_range": None}
    folders.model = ModelConfig.model_validate(settings)
    found = {f.check: f for f in folders.check(offline=True, images=False).findings}
    assert "other studies predict what the table does not hold" in found["data.outcome"].detail
    assert found["data.readable"].verdict is Verdict.OK and found["data.targets"].verdict is Verdict.OK


def test_a_table_without_its_header_is_found_and_none_of_it_is_quoted(folders: Hospital) -> None:
    (table,) = (folders.folder / "adni" / "clinical").glob("ADNIMERGE*.csv")
    table.write_text("\n".join(table.read_text().splitlines()[1:]))
    report = folders.check(offline=True)
    assert wrong(report) == {"data.readable"}
    assert not re.search(PTID, report.to_json() + shown(report))
    assert "lacks column" in report.to_json(with_items=True)
