"""BIDS, CAPS and prepared images are found by file name; everything else beside them is left alone."""

from datetime import date
from pathlib import Path

import pytest

from permmoe.data.images import find_images
from permmoe.data.prepared_images import COLUMNS, LIST
from permmoe.data.target_rule import Assessment, TargetRule, choose_index_visit
from permmoe.errors import DataError
from permmoe.preparation.quality.rules import Verdict

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
        "sub-OASIS10001/ses-M000/T1w/sub-OASIS10001_ses-M000_T1w.nii.gz",
    ],
)
def test_other_files_are_left_alone(tmp_path: Path, name: str) -> None:
    touch(tmp_path, name, "sub-ADNI099S12345/ses-M000/anat/sub-ADNI099S12345_ses-M000_T1w.nii.gz")
    assert [i.subject_id for i in find_images(tmp_path).images] == ["099_S_12345"]


def test_folder_without_images_says_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected names in BIDS form"):
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


@pytest.mark.parametrize(
    ("name", "subject", "session"),
    [
        ("sub-01/anat/sub-01_T1w.nii.gz", "01", ""),
        ("sub-01/ses-a/anat/sub-01_ses-a_acq-mprage_run-2_T1w.nii", "01", "a"),
        ("sub-OAS30001/ses-d0129/anat/sub-OAS30001_ses-d0129_run-01_T1w.nii.gz", "OAS30001", "d0129"),
        ("OAS30001_MR_d0129/anat2/NIFTI/sub-OAS30001_ses-d0129_T1w.nii.gz", "OAS30001", "d0129"),
        ("sub-ADNI011S0002/ses-m000/anat/sub-ADNI011S0002_ses-m000_T1w.nii.gz", "011_S_0002", "M000"),
        ("011_S_0002/ses-M000/anat/011_S_0002_ses-M000_T1w.nii.gz", "011_S_0002", "M000"),
        ("sub-011S0002/ses-M000/anat/sub-011S0002_ses-M000_T1w.nii.gz", "011_S_0002", "M000"),
    ],
)
def test_any_subject_is_called_by_its_label_and_adnis_by_their_ptid(
    tmp_path: Path, name: str, subject: str, session: str
) -> None:
    touch(tmp_path, name)
    assert found(tmp_path) == [(subject, session, "t1", False)]
    assert (find_images(tmp_path).images[0].rid is None) == (subject != "011_S_0002")


def test_prepared_images_are_registered_and_have_the_dates_of_the_raw_ones(tmp_path: Path) -> None:
    space = "space-MNI152NLin2009aSym"
    touch(
        tmp_path,
        "bids/sub-01/anat/sub-01_T1w.nii.gz",
        "bids/sub-01/pet/sub-01_acq-florbetapir_pet.nii.gz",
        f"out/sub-01/anat/sub-01_{space}_desc-brain_T1w.nii.gz",
        f"out/sub-01/anat/sub-01_{space}_desc-brain_mask.nii.gz",
        f"out/sub-01/pet/sub-01_trc-18FAV45_{space}_desc-suvr_pet.nii.gz",
    )
    (tmp_path / "bids/sub-01/sub-01_scans.tsv").write_text(
        "filename\tacq_time\nanat/sub-01_T1w.nii.gz\t2019-03-01T10:11:12\n"
        "pet/sub-01_acq-florbetapir_pet.nii.gz\t2019-04-02\n"
    )
    images = find_images(tmp_path).images
    assert [(i.modality, i.is_registered, i.tracer) for i in images] == [
        ("amyloid", False, "AV45"),
        ("amyloid", True, "AV45"),
        ("t1", False, ""),
        ("t1", True, ""),
    ]
    assert [i.taken for i in images] == [date(2019, 4, 2)] * 2 + [date(2019, 3, 1)] * 2


def test_a_prepared_image_is_preferred_to_the_raw_one_of_its_session(tmp_path: Path) -> None:
    stem = f"{SUBJECT}/ses-M000"
    touch(
        tmp_path,
        f"a/{stem}/anat/{SUBJECT}_ses-M000_T1w.nii.gz",
        f"z/{stem}/anat/{SUBJECT}_ses-M000_space-MNI152NLin2009aSym_desc-brain_T1w.nii.gz",
    )
    (tmp_path / f"a/{SUBJECT}/{SUBJECT}_sessions.tsv").write_text("session_id\tacq_time\nses-M000\t2012-03-05\n")
    visit = Assessment(date(2012, 3, 5), 1.0, "MCI", "bl")
    index = choose_index_visit([visit], find_images(tmp_path).images, TargetRule(), ["t1"])
    assert index is not None and "desc-brain" in index.images["t1"].path.name


def test_the_list_of_prepared_images_tells_subject_day_and_what_failed(tmp_path: Path) -> None:
    space = "space-MNI152NLin2009aSym"
    files = [
        f"sub-P01/ses-20190301/anat/sub-P01_ses-20190301_{space}_desc-brain_T1w.nii.gz",
        f"sub-P01/ses-20190301/anat/sub-P01_ses-20190301_{space}_desc-brain_FLAIR.nii.gz",
        f"sub-P02/ses-1/anat/sub-P02_ses-1_{space}_desc-brain_T1w.nii.gz",
    ]
    touch(tmp_path, *files)
    rows = (
        ",".join(COLUMNS),
        f"P-01,20190301,t1,,2019-03-01,{files[0]},look,noise",
        f"P-01,20190301,flair,,2019-03-01,{files[1]},{Verdict.FAILED},overlap",
        f"P.02,1,t1,,,{files[2]},good,",
    )
    (tmp_path / LIST).write_text("\n".join(rows))
    (tmp_path / "sub-P01" / LIST).write_text("file,size\na,1\n")
    seen = find_images(tmp_path)
    assert [(i.subject_id, i.session, i.modality, i.taken, i.is_registered) for i in seen.images] == [
        ("P-01", "20190301", "t1", date(2019, 3, 1), True),
        ("P.02", "1", "t1", None, True),
    ]
    assert seen.failed == (tmp_path / files[1],)


def test_pet_in_template_space_is_registered_only_as_an_uptake_ratio(tmp_path: Path) -> None:
    touch(tmp_path, "sub-01/pet/sub-01_trc-18FAV45_space-MNI152NLin2009aSym_desc-mean_pet.nii.gz")
    assert found(tmp_path) == [("01", "", "amyloid", False)]


def test_the_reference_region_of_clinicas_uptake_ratios_is_told(tmp_path: Path) -> None:
    space = "space-MNI152NLin2009cSym_desc-Crop_res-1x1x1"
    touch(tmp_path, f"subjects/sub-7/ses-1/pet_linear/sub-7_ses-1_trc-18FAV1451_{space}_suvr-pons_pet.nii.gz")
    image = find_images(tmp_path).images[0]
    assert (image.tracer, image.region, image.is_registered) == ("AV1451", "pons", True)
