"""Clinica's two layouts are found by file name; everything else beside them is left alone."""

from datetime import date
from pathlib import Path

import pytest

from permmoe.data.images import find_images
from permmoe.errors import DataError

SUBJECT = "sub-ADNI011S0002"


def touch(folder: Path, *names: str) -> None:
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"")


def found(folder: Path) -> list[tuple[str, str, str, bool]]:
    return [(i.subject_id, i.session, i.modality, i.is_registered) for i in find_images(folder).images]


def test_bids_images_are_found_with_the_dates_of_their_sessions(tmp_path: Path) -> None:
    stem = f"{SUBJECT}/ses-M000"
    touch(
        tmp_path,
        f"{stem}/anat/{SUBJECT}_ses-M000_T1w.nii.gz",
        f"{stem}/anat/{SUBJECT}_ses-M000_run-01_FLAIR.nii",
        f"{stem}/pet/{SUBJECT}_ses-M000_trc-18FAV1451_pet.nii.gz",
        f"{SUBJECT}/ses-M012/pet/{SUBJECT}_ses-M012_trc-11CPIB_rec-uniform_pet.nii.gz",
    )
    (tmp_path / SUBJECT / f"{SUBJECT}_sessions.tsv").write_text(
        "session_id\texamination_date\tdiagnosis\nses-M000\t2012-03-05\tMCI\nses-M012\tn/a\tMCI\n"
    )
    assert found(tmp_path) == [
        ("011_S_0002", "M000", "flair", False),
        ("011_S_0002", "M000", "t1", False),
        ("011_S_0002", "M000", "tau", False),
        ("011_S_0002", "M012", "amyloid", False),
    ]
    assert [i.taken for i in find_images(tmp_path).images] == [date(2012, 3, 5)] * 3 + [None]
    assert {i.rid for i in find_images(tmp_path).images} == {2}


@pytest.mark.parametrize("suffix", ["FLAIR", "flair", "Flair"])
def test_caps_images_are_found_whatever_the_case_of_flair(tmp_path: Path, suffix: str) -> None:
    session = f"subjects/{SUBJECT}/ses-M000"
    space = "space-MNI152NLin2009cSym_desc-Crop_res-1x1x1"
    touch(
        tmp_path,
        f"{session}/t1_linear/{SUBJECT}_ses-M000_{space}_T1w.nii.gz",
        f"{session}/flair_linear/{SUBJECT}_ses-M000_{space}_{suffix}.nii.gz",
        f"{session}/pet_linear/{SUBJECT}_ses-M000_trc-18FFBB_{space}_suvr-cerebellumPons2_pet.nii.gz",
    )
    assert [(m, registered) for _, _, m, registered in found(tmp_path)] == [
        ("amyloid", True),
        ("flair", True),
        ("t1", True),
    ]


@pytest.mark.parametrize(
    "name",
    [
        f"{SUBJECT}/ses-M000/pet/{SUBJECT}_ses-M000_trc-18FFDG_pet.nii.gz",
        f"{SUBJECT}/ses-M000/pet/{SUBJECT}_ses-M000_pet.nii.gz",
        f"{SUBJECT}/ses-M000/anat/{SUBJECT}_ses-M000_T1w.json",
        f"{SUBJECT}/ses-M000/anat/{SUBJECT}_ses-M000_T1w_mask.nii.gz",
        f"subjects/{SUBJECT}/ses-M000/t1/spm/{SUBJECT}_ses-M000_T1w.nii.gz",
        f"subjects/{SUBJECT}/ses-M000/pet_linear/{SUBJECT}_ses-M000_trc-18FAV45_space-T1w_pet.nii.gz",
        "sub-OASIS10001/ses-M000/anat/sub-OASIS10001_ses-M000_T1w.nii.gz",
    ],
)
def test_other_files_are_left_alone(tmp_path: Path, name: str) -> None:
    touch(tmp_path, name, "sub-ADNI099S12345/ses-M000/anat/sub-ADNI099S12345_ses-M000_T1w.nii.gz")
    assert [i.subject_id for i in find_images(tmp_path).images] == ["099_S_12345"]


def test_folder_without_images_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected Clinica's BIDS or CAPS layout"):
        find_images(tmp_path)
    with pytest.raises(DataError, match="no folder of images"):
        find_images(tmp_path / "absent")


def test_linked_folders_are_entered_once_even_in_a_circle(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    touch(elsewhere, f"{SUBJECT}/ses-M000/anat/{SUBJECT}_ses-M000_T1w.nii.gz")
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "bids").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(folder)
    assert len(find_images(folder).images) == 1
