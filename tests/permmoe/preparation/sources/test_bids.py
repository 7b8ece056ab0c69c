"""Trees in BIDS form, of any naming, and CAPS: which scans are taken, and what is said of those that are not."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from permmoe.data.reasons import Reason
from permmoe.errors import DataError
from permmoe.preparation.scan import Frames, Scan
from permmoe.preparation.sources import FoundScans, find_scans
from tests.support.denied import deny
from tests.support.scan_files import write_image


def find(folder: Path) -> FoundScans:
    return find_scans(folder, converted=folder / "converted", today=date(2026, 1, 1))


def told(scan: Scan) -> tuple[str, str, str, str]:
    return scan.subject_id, scan.session, scan.modality, scan.tracer


def reasons(found: FoundScans) -> list[tuple[str, Reason]]:
    return sorted((Path(item.file).name, item.reason) for item in found.left_out)


@pytest.mark.parametrize(
    ("subject", "visit", "expected"),
    [
        ("sub-01", "", ("01", "1")),
        ("sub-01", "ses-a", ("01", "a")),
        ("sub-ADNI011S0002", "ses-M000", ("011_S_0002", "M000")),
        ("sub-OAS30001", "ses-d0129", ("OAS30001", "d0129")),
    ],
)
def test_every_naming_of_subjects_is_read(tmp_path: Path, subject: str, visit: str, expected: tuple[str, str]) -> None:
    folder = tmp_path / subject / visit
    stem = "_".join(filter(None, (subject, visit)))
    write_image(folder / "anat" / f"{stem}_T1w.nii.gz")
    write_image(folder / "anat" / f"{stem}_FLAIR.nii")
    write_image(folder / "pet" / f"{stem}_acq-florbetapir_pet.nii.gz")
    write_image(folder / "pet" / f"{stem}_trc-18FAV1451_run-01_pet.nii.gz")
    assert [told(scan) for scan in find(tmp_path).scans] == [
        (*expected, "amyloid", "AV45"),
        (*expected, "flair", ""),
        (*expected, "t1", ""),
        (*expected, "tau", "AV1451"),
    ]


@pytest.mark.parametrize(
    ("one", "other", "are_two"),
    [
        ({"PatientSex": "F"}, {"PatientSex": "Male"}, True),
        ({"PatientBirthDate": "19400102"}, {"PatientBirthDate": "1940-02-01"}, True),
        ({"PatientSex": "F", "PatientBirthDate": "19400102"}, {"PatientBirthDate": "1940-01-02"}, False),
        ({"PatientSex": "O"}, {"PatientSex": "F"}, False),
        ({}, {"PatientSex": "M"}, False),
    ],
)
def test_two_people_under_one_label_are_both_left_out_where_sidecars_tell(
    tmp_path: Path, one: dict[str, object], other: dict[str, object], are_two: bool
) -> None:
    write_image(tmp_path / "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz", sidecar=one)
    write_image(tmp_path / "sub-01/ses-b/anat/sub-01_ses-b_T1w.nii.gz", sidecar=other)
    write_image(tmp_path / "sub-02/ses-a/anat/sub-02_ses-a_T1w.nii.gz", sidecar=other)
    found = find(tmp_path)
    assert [item.reason for item in found.left_out] == [Reason.TWO_PATIENTS] * 2 * are_two
    assert {scan.subject_id for scan in found.scans} == ({"02"} if are_two else {"01", "02"})


def test_without_sessions_the_day_of_the_table_is_the_session(tmp_path: Path) -> None:
    write_image(tmp_path / "sub-01/anat/sub-01_T1w.nii.gz")
    (tmp_path / "sub-01/sub-01_scans.tsv").write_text(
        "filename\tacq_time\nanat/sub-01_T1w.nii.gz\t2019-03-01T10:11:12\n"
    )
    scan = find(tmp_path).scans[0]
    assert (scan.session, scan.taken) == ("20190301", date(2019, 3, 1))


def test_all_that_a_subject_without_sessions_has_is_one_session(tmp_path: Path) -> None:
    write_image(tmp_path / "sub-01/anat/sub-01_T1w.nii.gz")
    write_image(tmp_path / "sub-01/anat/sub-01_FLAIR.nii.gz")
    write_image(tmp_path / "sub-01/pet/sub-01_trc-FBB_pet.nii.gz")
    rows = ("filename\tacq_time", "anat/sub-01_T1w.nii.gz\t2019-03-01", "pet/sub-01_trc-FBB_pet.nii.gz\t2019-02-28")
    (tmp_path / "sub-01/sub-01_scans.tsv").write_text("\n".join(rows))
    assert [(scan.session, scan.modality, scan.taken) for scan in find(tmp_path).scans] == [
        ("20190228", "amyloid", date(2019, 2, 28)),
        ("20190228", "flair", None),
        ("20190228", "t1", date(2019, 3, 1)),
    ]


def test_what_others_derived_is_taken_only_where_there_is_nothing_raw(tmp_path: Path) -> None:
    raw = write_image(tmp_path / "sub-01/anat/sub-01_T1w.nii.gz")
    derived = write_image(tmp_path / "derivatives/sub-01/anat/sub-01_desc-preproc_T1w.nii.gz", voxel_mm=1.0)
    choice = find(tmp_path).choices[0]
    assert (choice.taken, choice.others) == (raw, (derived,))


def test_sidecars_beside_and_above_tell_tracer_and_frames(tmp_path: Path) -> None:
    write_image(
        tmp_path / "sub-01/pet/sub-01_pet.nii.gz",
        shape=(10, 11, 12, 2),
        sidecar={"FrameTimesStart": [0, 300], "FrameDuration": [300, 240]},
    )
    (tmp_path / "pet.json").write_text('{"TracerName": "[18F]MK-6240", "Units": "Bq/mL"}')
    scan = find(tmp_path).scans[0]
    assert (told(scan), scan.frames) == (("01", "1", "tau", "MK6240"), Frames((0.0, 300.0), (300.0, 240.0)))


def test_a_tree_numbered_by_heudiconv_has_the_ptids_of_its_participants(tmp_path: Path) -> None:
    write_image(tmp_path / "sub-001/anat/sub-001_T1w.nii.gz")
    write_image(tmp_path / "sub-002/anat/sub-002_T1w.nii.gz")
    (tmp_path / "participants.tsv").write_text(
        "participant_id\tage\toriginal\nsub-001\t70\t011_S_0002\nsub-002\t71\tn/a\n"
    )
    assert [scan.subject_id for scan in find(tmp_path).scans] == ["002", "011_S_0002"]


def test_caps_is_registered_and_tells_its_region(tmp_path: Path) -> None:
    session = tmp_path / "subjects/sub-ADNI011S0002/ses-M000"
    stem, space = "sub-ADNI011S0002_ses-M000", "space-MNI152NLin2009cSym_desc-Crop_res-1x1x1"
    write_image(session / f"t1_linear/{stem}_{space}_T1w.nii.gz")
    write_image(session / f"pet_linear/{stem}_trc-18FAV45_{space}_suvr-cerebellumPons2_pet.nii.gz")
    assert [(s.modality, s.is_registered, s.region) for s in find(tmp_path).scans] == [
        ("amyloid", True, "cerebellumPons2"),
        ("t1", True, ""),
    ]


def test_of_several_scans_of_a_session_one_is_taken_and_the_choice_is_listed(tmp_path: Path) -> None:
    anat = tmp_path / "sub-01/anat"
    coarse = write_image(anat / "sub-01_acq-a_T1w.nii.gz", voxel_mm=2.0)
    second = write_image(anat / "sub-01_acq-b_run-2_T1w.nii.gz", voxel_mm=1.0)
    first = write_image(anat / "sub-01_acq-c_run-1_T1w.nii.gz", voxel_mm=1.0)
    registered = write_image(anat / "sub-01_space-MNI152NLin6Asym_T1w.nii.gz", voxel_mm=0.5)
    found = find(tmp_path)
    assert [scan.files for scan in found.scans] == [(first,)]
    assert [(c.taken, c.others) for c in found.choices] == [(first, (second, coarse, registered))]


def test_what_was_prepared_here_and_phase_images_are_passed_over(tmp_path: Path) -> None:
    write_image(tmp_path / "sub-01/anat/sub-01_T1w.nii.gz")
    write_image(tmp_path / "sub-01/anat/sub-01_part-phase_T1w.nii.gz")
    write_image(tmp_path / "derivatives/sub-01/anat/sub-01_space-MNI152NLin2009aSym_desc-brain_T1w.nii.gz")
    found = find(tmp_path)
    assert len(found.scans) == 1 and not found.choices and not len(found.left_out)


def test_scans_that_cannot_be_used_are_itemised_and_the_rest_goes_on(tmp_path: Path) -> None:
    anat, pet = tmp_path / "sub-01/ses-a/anat", tmp_path / "sub-01/ses-a/pet"
    write_image(anat / "sub-01_ses-a_T1w.nii.gz")
    (anat / "sub-01_ses-a_FLAIR.nii.gz").write_bytes(b"")
    write_image(anat / "sub-01_ses-a_run-2_T1w.nii.gz", shape=(10, 11, 1))
    write_image(pet / "sub-01_ses-a_trc-18FAV45_pet.nii.gz", shape=(10, 11, 12, 4))
    write_image(pet / "sub-01_ses-a_trc-18FFDG_pet.nii.gz")
    write_image(pet / "sub-01_ses-a_trc-18FAV1451_pet.nii.gz", sidecar={"TracerName": "FDG"})
    write_image(pet / "sub-01_ses-a_pet.nii.gz", sidecar={"TracerName": "18F"})
    write_image(tmp_path / "sub-02/anat/sub-02_T1w.nii.gz")
    (tmp_path / "sub-02/sub-02_scans.tsv").write_text("filename\tacq_time\nanat/sub-02_T1w.nii.gz\t2109-03-01\n")
    found = find(tmp_path)
    assert [told(scan) for scan in found.scans] == [("01", "a", "t1", "")]
    assert reasons(found) == [
        ("sub-01_ses-a_FLAIR.nii.gz", Reason.UNREADABLE_HEADER),
        ("sub-01_ses-a_pet.nii.gz", Reason.OTHER_TRACER),
        ("sub-01_ses-a_run-2_T1w.nii.gz", Reason.TOO_FEW_SLICES),
        ("sub-01_ses-a_trc-18FAV1451_pet.nii.gz", Reason.TWO_TRACERS),
        ("sub-01_ses-a_trc-18FAV45_pet.nii.gz", Reason.NO_FRAME_TIMES),
        ("sub-01_ses-a_trc-18FFDG_pet.nii.gz", Reason.OTHER_TRACER),
        ("sub-02_T1w.nii.gz", Reason.FUTURE_DATE),
    ]


def test_a_folder_without_scans_says_what_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("nothing")
    (tmp_path / "ADNI1.zip").write_bytes(b"PK")
    with pytest.raises(
        DataError, match=r"no scan among the 2 files.*(?s:.)*BIDS(?s:.)*CAPS(?s:.)*LONI(?s:.)*DICOM(?s:.)*unpack"
    ):
        find(tmp_path)
    with pytest.raises(DataError, match="no folder"):
        find(tmp_path / "absent")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_an_image_that_this_account_may_not_read_is_itemised_and_others_go_on(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_image(tmp_path / "sub-01/anat/sub-01_T1w.nii.gz")
    closed = tmp_path / f"sub-01/anat/sub-01_FLAIR{suffix}"
    write_image(closed)
    deny(monkeypatch, closed)
    found = find(tmp_path)
    assert [scan.modality for scan in found.scans] == ["t1"]
    assert reasons(found) == [(closed.name, Reason.FILE_NOT_OPENED)]
