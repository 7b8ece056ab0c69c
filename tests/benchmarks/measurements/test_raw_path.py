"""The same model is tested on the same patients twice, and only the images differ."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from permmoe.config import parse_config
from permmoe.data.visits import VisitTable
from permmoe_benchmarks.measurements.raw_path import measure
from permmoe_simulation.studies.sources import StudyData, prepare_data
from permmoe_simulation.studies.study import StudyConfig, data_source
from tests.support.tiny_study import QUIET, settings

RIDGE = {"kind": "reference", "label": "kernel ridge", "baseline": "kernel_ridge"}
CENTRALISED = {"kind": "centralised", "label": "PerM-MoE"}
TESTED = 24


@pytest.fixture(scope="module")
def study() -> StudyConfig:
    methods = {"permmoe": CENTRALISED, "ridge": RIDGE}
    given = settings(methods=methods, comparisons=[], claims=[], seeds=[0, 1, 2, 3, 4])
    return parse_config(given, StudyConfig, "the test's study")


@pytest.fixture(scope="module")
def template(study: StudyConfig, tmp_path_factory: pytest.TempPathFactory) -> StudyData:
    return prepare_data(
        data_source(study, next(iter(study.regimes))), study.model, tmp_path_factory.mktemp("shared"), 1, QUIET
    )


def prepared(template: StudyData, visits: VisitTable) -> StudyData:
    return replace(template, visits=visits)


def test_images_that_the_way_leaves_alone_cost_nothing(study: StudyConfig, template: StudyData) -> None:
    tested = VisitTable(template.visits.visits[:TESTED])
    for row in measure(study, template, prepared(template, tested)):
        if row.cost.n:  # Batches of other rows round the last bits otherwise.
            assert abs(row.cost.estimate) < 1e-6 and row.moved < 1e-6 and 0 < row.perfect < 10
        assert row.cost.n <= TESTED


def test_images_that_say_nothing_any_more_cost_a_model_what_they_said(
    study: StudyConfig, template: StudyData, tmp_path: Path
) -> None:
    def noise_in_place_of(subject: str, file: Path) -> Path:
        image = nib.load(file)
        out = tmp_path / f"{subject}_{file.name}"
        voxels = np.random.default_rng(len(subject)).normal(size=image.shape).astype(np.float32)
        nib.save(nib.Nifti1Image(np.abs(voxels), image.affine), out)
        return out

    tested = VisitTable(tuple(
        replace(v, volumes={name: noise_in_place_of(v.subject_id, file) for name, file in v.volumes.items()})
        for v in template.visits.visits[:TESTED]
    ))  # fmt: skip
    by_method = {
        row.method: row for row in measure(study, template, prepared(template, tested)) if " " in row.combination
    }
    assert by_method["kernel ridge"].moved > 0 and by_method["kernel ridge"].cost.estimate != 0
    assert by_method["PerM-MoE"].cost.seeds == 5


def test_a_patient_is_tested_with_the_images_that_are_there_both_ways(study: StudyConfig, template: StudyData) -> None:
    tested = VisitTable(tuple(
        v.with_only(["t1"]) for v in template.visits.visits[:TESTED] if "t1" in v.volumes
    ))  # fmt: skip
    by_name = {row.combination: row for row in measure(study, template, prepared(template, tested))}
    assert by_name["t1"].cost.n == len(tested) and by_name["mean over all"].cost.n == len(tested)
    assert by_name["flair"].cost.n == 0 and np.isnan(by_name["t1+flair"].cost.estimate)
