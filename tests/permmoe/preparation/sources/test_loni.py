"""LONI's downloads: folders' names, the table of the search and XML sidecars tell what each image is."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest

from permmoe.data.reasons import Reason
from permmoe.preparation.scan import Frames, Scan
from permmoe.preparation.sources import FoundScans, find_scans
from tests.support.dicom_series import Series, write_series
from tests.support.scan_files import write_image

HEADER = "Image Data ID,Subject,Group,Sex,Age,Visit,Modality,Description,Type,Acq Date,Format,Downloaded"
DAY = "2019-03-01_10_11_12.0"


def find(folder: Path) -> FoundScans:
    return find_scans(folder, converted=folder / "converted", today=date(2026, 1, 1))


def told(scan: Scan) -> tuple[str, str, str, str]:
    return scan.subject_id, scan.session, scan.modality, scan.tracer


def image(folder: Path, description: str, number: int, *, day: str = DAY, **options: object) -> Path:
    """A NIfTI image of a download."""
    place = folder / "ADNI" / "011_S_0002" / description / day / f"I{number}"
    return write_image(place / f"ADNI_011_S_0002_{description}_I{number}.nii", **options)  # type: ignore[arg-type]


def reasons(found: FoundScans) -> dict[str, Reason]:
    return {Path(item.file).parent.name: item.reason for item in found.left_out}


def test_folders_alone_tell_subject_day_and_kind(tmp_path: Path) -> None:
    image(tmp_path, "Accelerated_Sagittal_MPRAGE", 1)
    image(tmp_path, "Sagittal_3D_FLAIR", 2)
    image(tmp_path, "AV45_Coreg__Avg__Std_Img_and_Vox_Siz__Uniform_Resolution", 3, day="2019-04-02_09_00_00.0")
    found = find(tmp_path)
    assert [told(scan) for scan in found.scans] == [
        ("011_S_0002", "20190301", "flair", ""),
        ("011_S_0002", "20190301", "t1", ""),
        ("011_S_0002", "20190402", "amyloid", "AV45"),
    ]
    assert found.scans[2].taken == date(2019, 4, 2)


def test_the_table_of_the_search_tells_what_folders_do_not(tmp_path: Path) -> None:
    image(tmp_path, "Brain_3D", 11)
    image(tmp_path, "Brain_dynamic", 12)
    image(tmp_path, "Brain_3D_other", 13)
    rows = (
        'I11,011_S_0002,MCI,F,71,sc,MRI,"MPRAGE",Original,3/01/2019,NiFTI,3/05/2026',
        '12,011_S_0002,MCI,F,71,sc,PET,"AV1451 Coreg, Avg, Standardized Image",Processed,3/01/2019,NiFTI,3/05/2026',
        'I13,011_S_0002,MCI,F,71,sc,MRI,"Field Mapping",Original,3/01/2019,NiFTI,3/05/2026',
        'I14,011_S_0002,MCI,F,71,sc,MRI,"MPRAGE",Original,3/01/2019,NiFTI,3/05/2026',
    )
    (tmp_path / "idaSearch_3_05_2026.csv").write_text("\n".join((HEADER, *rows)))
    (tmp_path / "CDR.csv").write_text("RID,CDRSB\n2,1.5\n")
    found = find(tmp_path)
    assert [told(scan)[2:] for scan in found.scans] == [("t1", ""), ("tau", "AV1451")]
    assert reasons(found) == {"I13": Reason.LOCALISER}
    assert found.notes == ("1 image(s) of the search's table are not in the folder",)


def test_xml_sidecars_tell_the_description_where_there_is_no_table(tmp_path: Path) -> None:
    image(tmp_path, "Brain", 21)
    (tmp_path / "ADNI/ADNI_011_S_0002_Brain_S77_I21.xml").write_text(
        '<?xml version="1.0"?><idaxs><project><subject><subjectIdentifier>011_S_0002</subjectIdentifier><study><series>'
        "<modality>PET</modality><imagingProtocol><description>Florbetaben AC</description></imagingProtocol>"
        "</series></study></subject></project></idaxs>"
    )
    image(tmp_path, "MPRAGE", 22)
    (tmp_path / "ADNI/ADNI_011_S_0002_MPRAGE_S77_I22.xml").write_text("<no xml")
    assert [told(scan)[2:] for scan in find(tmp_path).scans] == [("amyloid", "FBB"), ("t1", "")]


@pytest.mark.parametrize("order", [(31, 32, 33), (33, 32, 31)])
def test_the_original_is_taken_before_the_repeat_and_what_adni_corrected(
    tmp_path: Path, order: tuple[int, int, int]
) -> None:
    names = ("MPRAGE", "MPRAGE_REPEAT", "MPR__GradWarp__B1_Correction__N3")
    files = [image(tmp_path, name, number) for name, number in zip(names, order, strict=True)]
    found = find(tmp_path)
    assert [scan.files for scan in found.scans] == [(files[0],)]
    assert [(c.taken, c.others) for c in found.choices] == [(files[0], (files[1], files[2]))]


def test_pet_of_one_resolution_is_taken_before_earlier_steps(tmp_path: Path) -> None:
    times = {"FrameTimesStart": [0, 300], "FrameDuration": [300, 300]}
    dynamic = image(tmp_path, "AV45_Co-registered_Dynamic", 40, shape=(10, 11, 12, 2), sidecar=times)
    steps = ("AV45_Coreg__Avg__Std_Img_and_Vox_Siz__Uniform_Resolution", "AV45_Co-registered__Averaged")
    uniform, averaged = (image(tmp_path, name, 41 + place) for place, name in enumerate(steps))
    choice = find(tmp_path).choices[0]
    assert (choice.taken, choice.others) == (uniform, (averaged, dynamic))
    uniform.unlink()
    averaged.unlink()
    found = find(tmp_path)
    assert found.scans[0].frames == Frames((0.0, 300.0), (300.0, 300.0))
    assert reasons(found) == {"2019-03-01_10_11_12.0": Reason.EMPTY_FOLDER}


def test_dicom_of_a_download_is_called_as_its_folders_say(tmp_path: Path) -> None:
    # Technicians leave FDG in the header of other tracers; the archive's description was looked at.
    pet = Series(
        patient="ANON", modality="PT", description="PET", day="", radiopharmaceutical="Fluorodeoxyglucose",
        image_type=("ORIGINAL", "PRIMARY"),
    )  # fmt: skip
    subject = tmp_path / "ADNI/011_S_0002"
    write_series(subject / "ADNI3_AV1451__AC_" / DAY / "I51", pet)
    write_series(subject / "Accelerated_Sag_IR-FSPGR" / DAY / "I52", replace(Series(), patient="ANON", birth=""))
    found = find(tmp_path)
    assert [(told(scan), scan.taken) for scan in found.scans] == [
        (("011_S_0002", "20190301", "t1", ""), date(2019, 3, 1)),
        (("011_S_0002", "20190301", "tau", "AV1451"), date(2019, 3, 1)),
    ]


def test_what_cannot_be_used_of_a_download_is_itemised(tmp_path: Path) -> None:
    image(tmp_path, "MPRAGE", 61)
    image(tmp_path, "Brain_PET_FDG", 62)
    (tmp_path / "search.csv").write_text(f"{HEADER}\nI62,011_S_0002,MCI,F,71,sc,PET,FDG,Original,1/1/2019,NiFTI,\n")
    image(tmp_path, "AV45", 63, shape=(10, 11, 12, 3))
    image(tmp_path, "FLAIR", 64).write_bytes(b"")
    image(tmp_path, "MPRAGE", 65, day="2109-03-01_10_11_12.0")
    (tmp_path / "ADNI/011_S_0002/MPRAGE" / DAY / "I66").mkdir()
    found = find(tmp_path)
    assert [told(scan)[2] for scan in found.scans] == ["t1"]
    assert [item.reason for item in found.left_out if item.file.endswith("I66")] == [Reason.EMPTY_FOLDER]
    assert reasons(found) == {
        "I62": Reason.OTHER_TRACER,
        "I63": Reason.NO_FRAME_TIMES,
        "I64": Reason.UNREADABLE_HEADER,
        "I65": Reason.FUTURE_DATE,
        DAY: Reason.EMPTY_FOLDER,
    }


def test_layouts_may_be_mixed_and_share_sessions(tmp_path: Path) -> None:
    anat = tmp_path / "bids/sub-ADNI011S0002/ses-M000/anat"
    write_image(anat / "sub-ADNI011S0002_ses-M000_T1w.nii.gz")
    (anat.parents[1] / "sub-ADNI011S0002_sessions.tsv").write_text("session_id\tacq_time\nses-M000\t2019-03-01\n")
    image(tmp_path, "AV45", 71)
    image(tmp_path, "MPRAGE", 72)
    write_series(tmp_path / "dicom", replace(Series(), patient="Q7", day="20200101"))
    found = find(tmp_path)
    assert [told(scan) for scan in found.scans] == [
        ("011_S_0002", "M000", "amyloid", "AV45"),
        ("011_S_0002", "M000", "t1", ""),
        ("Q7", "20200101", "t1", ""),
    ]
    assert len(found.choices) == 1


def test_what_bids_was_made_from_and_images_without_names_are_counted(tmp_path: Path) -> None:
    write_image(tmp_path / "sub-01/anat/sub-01_T1w.nii.gz")
    write_image(tmp_path / "brain.nii.gz")
    write_series(tmp_path / "sourcedata/sub-01", Series())
    found = find(tmp_path)
    assert [told(scan) for scan in found.scans] == [("01", "1", "t1", "")]
    assert found.notes == (
        "1 image file(s) whose names tell neither subject nor kind were passed over; name one as t1=FILE",
        "12 file(s) under sourcedata were passed over",
    )
