"""The data of a study of a manifest whose outcome stands in columns of its own."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml

from permmoe.config import ModelConfig, Score, VolumeGrid, parse_config
from permmoe.data.manifest import read_manifest
from permmoe.data.quarantine import Quarantine, Quarantined
from permmoe.data.reasons import Reason
from permmoe.data.volumes import grid_affine
from permmoe.errors import DataError
from permmoe.modality import Modality
from permmoe.preparation.folder import PreparedFolder
from permmoe.preparation.progress import Progress, Step
from permmoe.preparation.settings import PreparationSettings
from permmoe_client.participation.site_visits import site_visits
from permmoe_client.site import read_site
from permmoe_simulation.engines.federated_training import write_site
from permmoe_simulation.studies.sources import prepare_data
from permmoe_simulation.studies.study import DataSource, StudyConfig, cells
from tests.support.tiny_federation import tiny_plan
from tests.support.tiny_study import QUIET, settings

FLUID = Modality(name="fluid", kind="tabular", columns=("ptau",))
MODEL = ModelConfig(
    modalities=(FLUID,), score=Score(name="MMSE", lowest=0, highest=30), outcome_range=(-30.0, 30.0)
)  # fmt: skip
COARSE = VolumeGrid(shape=(12, 14, 12), spacing_mm=16.0)
OWN = {"name": "MMSE", "baseline": "mmse_0", "follow_up": "mmse_24"}
HEADER = "subject_id,site,session,horizon_months,ptau,mmse_0,mmse_24"


def source(folder: Path, **outcome: object) -> DataSource:
    rows = [f"s{i},x,bl,24,{i}.5,{25 + i % 5},{20 + i % 7}" for i in range(11)]
    (folder / "table.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    values = {"manifest": folder / "table.csv", **({"outcome": outcome} if outcome else {})}
    return parse_config(values, DataSource, "data")


def test_a_study_reads_a_manifest_by_the_mapping_that_it_gives(tmp_path: Path) -> None:
    visits = prepare_data(source(tmp_path, **OWN), MODEL, tmp_path, 1, QUIET).visits
    assert [(v.baseline_cdrsb, v.delta_cdrsb) for v in visits][:2] == [(25.0, -5.0), (26.0, -5.0)]
    with pytest.raises(DataError, match="the table holds CDR-SB, and the model predicts the change in MMSE"):
        prepare_data(source(tmp_path), MODEL, tmp_path, 1, QUIET)


def test_the_usual_columns_are_in_no_digest_of_a_study(tmp_path: Path) -> None:
    assert "outcome" not in source(tmp_path).model_dump()
    assert "outcome" in source(tmp_path, **OWN).model_dump()


def test_the_hospitals_of_a_simulation_are_told_which_score_their_tables_hold(tmp_path: Path) -> None:
    visits = prepare_data(source(tmp_path, **OWN), MODEL, tmp_path, 1, QUIET).visits
    study = parse_config(settings(), StudyConfig, "study")
    regimes = dict.fromkeys(study.regimes, "digest")
    cell = next(cell for _, cell in cells(study, regimes, "inprocess")).model_copy(update={"model": MODEL})
    plan = tiny_plan().model_copy(update={"model": MODEL})
    path = write_site("north", cell, {"north": visits}, tmp_path / "cache", tmp_path / "north", plan)
    assert yaml.safe_load(path.read_text())["outcome"] == {"name": "MMSE"}
    site = read_site(path)
    assert len(site_visits(site, MODEL)) == len(visits)
    assert site.manifest
    read, _ = read_manifest(site.manifest, [FLUID], score=MODEL.score, columns=site.outcome)
    assert read == visits


def test_a_raw_cohort_is_prepared_once_and_its_visits_are_read_from_the_prepared_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[Path, Path, float]] = []
    left_out = Quarantined("011_S_0001", "amyloid", "scan", Reason.NO_REGISTRATION)

    def prepare(
        scans: Path, out: Path, settings: PreparationSettings, *, workers: int, progress: Progress
    ) -> PreparedFolder:
        """What the preparation leaves, but for what the images show."""
        calls.append((scans, out, settings.spacing_mm))
        for raw in scans.glob("sub-*/*/pet/*_pet.nii.gz"):
            name = raw.name.replace("_pet.nii.gz", "_space-MNI152NLin2009aSym_desc-suvr_pet.nii.gz")
            image = out / raw.parent.relative_to(scans) / name
            image.parent.mkdir(parents=True, exist_ok=True)
            ratios = np.random.default_rng(0).uniform(0.5, 2.0, (12, 14, 12))
            nib.save(nib.Nifti1Image(ratios.astype(np.float32), grid_affine(COARSE)), image)
        progress(Step.PREPARED, 1, 1)
        return PreparedFolder((), Quarantine((left_out,)), 1, ())

    monkeypatch.setattr("permmoe.preparation.folder.prepare_folder", prepare)
    cohort = {
        "subjects": 4,
        "sites": [{"code": "011", "modalities": ["amyloid"]}],
        "grid": {"shape": [24, 28, 24], "spacing_mm": 8.0},
        "missing": {"amyloid": 0, "by_phase": False, "by_severity": 0},
        "raw": {"dicom_subjects": 0},
    }
    wanted = parse_config({"synthetic": cohort}, DataSource, "data")
    model = ModelConfig(modalities=(Modality(name="amyloid", normalisation="suvr"),), grid=COARSE)
    data = prepare_data(wanted, model, tmp_path, 1, QUIET)
    again = prepare_data(wanted, model, tmp_path, 1, QUIET)
    assert len(data.visits) > 0
    [(scans, out, spacing_mm)] = set(calls)
    assert spacing_mm == 4
    assert out.is_relative_to(tmp_path / "prepared")
    assert not list(scans.rglob("*.dcm"))
    for visit in data.visits:
        assert visit.volumes["amyloid"].is_relative_to(out)
    assert left_out in list(data.quarantine)
    assert again.digest == data.digest
