"""The synthetic cohort as files: names, bytes, and what an interruption leaves behind."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from permmoe.data.adni import adni_visits
from permmoe.data.cohort import CohortConfig, SiteConfig, draw_subjects, write_cohort
from permmoe.data.cohort.layouts import volume_path
from permmoe.data.cohort.settings import MODALITIES
from permmoe.data.synthetic import is_synthetic
from permmoe.data.target_rule import TargetRule
from permmoe.errors import DataError
from permmoe.modality import ADNI_MODALITIES

SMALL = CohortConfig(subjects=5, all_modalities=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def stop_after(subjects: int) -> Callable[[int, int], None]:
    def progress(done: int, total: int) -> None:
        if done == subjects:
            raise KeyboardInterrupt

    return progress


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cohort") / "bids"
    write_cohort(folder, SMALL, workers=1)
    return folder


def test_two_runs_and_two_worker_counts_give_the_same_bytes(written: Path, tmp_path: Path) -> None:
    write_cohort(tmp_path / "again", SMALL, workers=2)
    assert contents(tmp_path / "again") == contents(written)


def test_a_larger_cohort_holds_the_smaller_ones_images(written: Path, tmp_path: Path) -> None:
    fewer = SMALL.model_copy(update={"subjects": 3})
    write_cohort(tmp_path / "fewer", fewer, workers=1)
    images = {name: data for name, data in contents(tmp_path / "fewer").items() if name.endswith(".nii.gz")}
    assert len(images) == 12
    assert images.items() <= contents(written).items()


def test_bids_names_are_those_of_clinica(written: Path) -> None:
    names = [name for name in contents(written) if name.endswith(".nii.gz")]
    stem = r"(sub-ADNI\d{3}S\d{4,5})/(ses-M\d{3})"
    amyloid = r"trc-(?:18FAV45|18FFBB|11CPIB)_pet"
    patterns = [("anat", "T1w"), ("anat", "FLAIR"), ("pet", amyloid), ("pet", "trc-18FAV1451_pet")]
    for folder, suffix in patterns:
        assert sum(bool(re.fullmatch(rf"{stem}/{folder}/\1_\2_{suffix}\.nii\.gz", name)) for name in names) == 5
    assert len(names) == 20
    assert {"participants.tsv", "clinical/ADNIMERGE.csv", "clinical/CDR.csv", "truth/latents.tsv"} <= contents(
        written
    ).keys()
    assert len(list(written.glob("sub-*/sub-*_sessions.tsv"))) == 5


def test_caps_names_are_those_of_clinica(tmp_path: Path) -> None:
    write_cohort(tmp_path / "caps", SMALL.model_copy(update={"subjects": 3, "layout": "caps"}), workers=1)
    names = [name for name in contents(tmp_path / "caps") if name.endswith(".nii.gz")]
    stem = r"subjects/(sub-ADNI\d{3}S\d{4,5})/(ses-M\d{3})"
    space = "space-MNI152NLin2009cSym_desc-Crop_res-1x1x1"
    patterns = [
        ("t1_linear", "", "T1w"),
        ("flair_linear", "", "FLAIR"),
        ("pet_linear", "trc-(?:18FAV45|18FFBB|11CPIB)_", "suvr-cerebellumPons2_pet"),
        ("pet_linear", "trc-18FAV1451_", "suvr-cerebellumPons2_pet"),
    ]
    for folder, tracer, suffix in patterns:
        pattern = rf"{stem}/{folder}/\1_\2_{tracer}{space}_{suffix}\.nii\.gz"
        assert sum(bool(re.fullmatch(pattern, name)) for name in names) == 3
    assert len(names) == 12


def test_volumes_are_scaled_integers_in_mni_space_and_say_that_they_are_synthetic(written: Path) -> None:
    for subject in draw_subjects(SMALL)[:2]:
        for modality in MODALITIES:
            image = nib.load(volume_path(written, subject, modality, SMALL))
            assert image.get_data_dtype() == np.int16
            assert image.shape == SMALL.grid.shape
            assert nib.aff2axcodes(image.affine) == ("R", "A", "S")
            assert image.header.get_zooms() == (4.0, 4.0, 4.0)
            assert b"SYNTHETIC" in bytes(image.header["descrip"])
            voxels = np.asarray(image.dataobj)
            assert voxels.max() > (100 if modality in ("t1", "flair") else 1)
            assert np.isfinite(voxels).all()


def test_the_description_says_synthetic_and_how_to_make_it_again(written: Path) -> None:
    description = json.loads((written / "dataset_description.json").read_text())
    assert description["SYNTHETIC"] is True
    assert description["Name"].startswith("SYNTHETIC")
    assert description["Seed"] == SMALL.seed
    assert description["Cohort"]["ConfigDigest"] == SMALL.digest()
    assert description["GeneratedBy"][0]["Version"]
    assert CohortConfig.model_validate(description["Config"]) == SMALL


def test_a_modality_that_is_missing_leaves_no_file(tmp_path: Path) -> None:
    config = CohortConfig(subjects=7, sites=(SiteConfig(code="127", modalities=("t1", "amyloid")),))
    write_cohort(tmp_path / "c", config, workers=1)
    names = [name for name in contents(tmp_path / "c") if name.endswith(".nii.gz")]
    assert len(names) == sum(len(s.observed) for s in draw_subjects(config))
    assert not any("FLAIR" in name or "AV1451" in name for name in names)


def test_a_finished_cohort_is_left_alone(written: Path) -> None:
    before = {f: f.stat().st_mtime_ns for f in written.rglob("*")}
    calls: list[tuple[int, int]] = []
    write_cohort(written, SMALL, workers=1, progress=lambda done, total: calls.append((done, total)))
    assert {f: f.stat().st_mtime_ns for f in written.rglob("*")} == before
    assert calls == [(5, 5)]


def test_an_interrupted_writing_goes_on_and_ends_in_the_same_bytes(written: Path, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    with pytest.raises(KeyboardInterrupt):
        write_cohort(folder, SMALL, workers=1, progress=stop_after(2))
    assert not (folder / "dataset_description.json").exists()
    done = draw_subjects(SMALL)[0]
    finished = volume_path(folder, done, "t1", SMALL)
    kept = finished.stat().st_mtime_ns
    half_written = folder / draw_subjects(SMALL)[3].bids_id / "x.nii.gz.partial"
    half_written.parent.mkdir(exist_ok=True)
    half_written.write_bytes(b"cut off")
    write_cohort(folder, SMALL, workers=1)
    assert contents(folder) == contents(written)
    assert finished.stat().st_mtime_ns == kept


def test_a_subject_whose_images_were_cut_off_is_written_again(written: Path, tmp_path: Path) -> None:
    folder = tmp_path / "c"
    with pytest.raises(KeyboardInterrupt):
        write_cohort(folder, SMALL, workers=1, progress=stop_after(1))
    subject = draw_subjects(SMALL)[0]
    (folder / subject.bids_id / f"{subject.bids_id}_sessions.tsv").unlink()
    volume_path(folder, subject, "tau", SMALL).unlink()
    write_cohort(folder, SMALL, workers=1)
    assert contents(folder) == contents(written)


@pytest.mark.parametrize("is_finished", [True, False])
def test_a_folder_with_a_cohort_of_other_settings_is_refused(tmp_path: Path, is_finished: bool) -> None:
    tiny = CohortConfig(subjects=1)
    if is_finished:
        write_cohort(tmp_path / "c", tiny, workers=1)
    else:
        with pytest.raises(KeyboardInterrupt):
            write_cohort(tmp_path / "c", tiny, workers=1, progress=stop_after(1))
    before = contents(tmp_path / "c")
    with pytest.raises(DataError, match="other settings"):
        write_cohort(tmp_path / "c", tiny.model_copy(update={"seed": 1}), workers=1)
    assert contents(tmp_path / "c") == before


def test_a_folder_with_anything_else_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("three years of work")
    with pytest.raises(DataError, match="not empty"):
        write_cohort(tmp_path, SMALL, workers=1)
    with pytest.raises(DataError, match="is a file"):
        write_cohort(tmp_path / "thesis.txt", SMALL, workers=1)
    assert contents(tmp_path) == {"thesis.txt": b"three years of work"}


def test_another_data_set_with_a_description_is_refused(tmp_path: Path) -> None:
    (tmp_path / "dataset_description.json").write_text('{"Name": "ADNI"}')
    with pytest.raises(DataError, match="another data set"):
        write_cohort(tmp_path, SMALL, workers=1)


def test_the_hidden_state_is_under_truth_and_nowhere_else(written: Path) -> None:
    truth = pd.read_csv(written / "truth" / "latents.tsv", sep="\t", dtype={"site": str})
    assert truth.amyloid.to_list() == pytest.approx([s.latents.amyloid for s in draw_subjects(SMALL)])
    for file in [*written.glob("clinical/*.csv"), *written.glob("*.tsv"), *written.glob("sub-*/*.tsv")]:
        columns = set(pd.read_csv(file, sep=None, engine="python", nrows=1).columns)
        assert not columns & {"amyloid", "tau", "vascular", "neurodegeneration", "decline_points_per_year"}


@pytest.mark.parametrize("layout", ["bids", "caps"])
def test_the_loader_for_real_adni_reads_every_subject_back(tmp_path: Path, layout: str) -> None:
    config = CohortConfig(subjects=23, layout=layout)
    folder = tmp_path / "c"
    write_cohort(folder, config, workers=1)
    table, quarantine = adni_visits(folder / "clinical", folder, TargetRule(), ADNI_MODALITIES)
    assert len(quarantine) == 0
    assert is_synthetic(table)
    read = {visit.subject_id: visit for visit in table}
    subjects = draw_subjects(config)
    assert read.keys() == {s.ptid for s in subjects}
    for subject in subjects:
        visit = read[subject.ptid]
        assert visit.site == subject.site.code
        assert visit.baseline_cdrsb == subject.index_visit.cdrsb
        assert visit.observed(MODALITIES) == subject.observed
        assert visit.session == f"M{subject.index_month:03d}"
        assert visit.phase == subject.phase.name
