"""Folders of DICOM: which series are taken, what their images and sidecars hold, and what is said of all others."""

from __future__ import annotations

import errno
import gzip
import json
import os
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import date
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread
from pydicom.uid import generate_uid

from permmoe.data.reasons import Reason
from permmoe.preparation.scan import Frames, Scan
from permmoe.preparation.sources import FoundScans, find_scans
from permmoe.preparation.sources.dicom_headers import read_headers
from permmoe.preparation.sources.series_rules import SeriesRules
from tests.support.denied import deny
from tests.support.dicom_series import Series, write_multiframe, write_series

T1 = Series()
FLAIR = Series(
    description="Sagittal 3D FLAIR",
    number=3,
    tags={"EchoTime": 119.0, "RepetitionTime": 4800.0, "InversionTime": 1650.0},
)
PET = Series(
    modality="PT",
    description="PET Brain",
    number=4,
    image_type=("ORIGINAL", "PRIMARY"),
    radiopharmaceutical="Florbetapir F18",
)
TIMES = ((0.0, 300.0), (300.0, 300.0), (600.0, 600.0))


def find(folder: Path, rules: SeriesRules | None = None) -> FoundScans:
    return find_scans(folder, converted=folder.parent / "converted", rules=rules, today=date(2026, 1, 1))


def told(scan: Scan) -> tuple[str, str, str, str]:
    return scan.subject_id, scan.session, scan.modality, scan.tracer


def reasons(found: FoundScans) -> dict[str, Reason]:
    """By the name of the folder that a series lies in."""
    return {Path(item.file).parent.name: item.reason for item in found.left_out}


@pytest.fixture
def dicom(tmp_path: Path) -> Path:
    folder = tmp_path / "dicom"
    folder.mkdir()
    return folder


def test_series_of_any_names_and_depth_are_found_by_their_headers(dicom: Path) -> None:
    write_series(dicom / "a/b/c", T1, name="IM{:d}")
    write_series(dicom / "a/b/c", FLAIR, name="{:d}.MR.x")
    write_series(dicom / "other", PET, name="{:04d}.ima")
    (dicom / "a/notes.txt").write_text("nothing")
    (dicom / "a/README").write_text("nothing")
    found = find(dicom)
    assert [told(scan) for scan in found.scans] == [
        ("P-01", "20190301", "amyloid", "AV45"),
        ("P-01", "20190301", "flair", ""),
        ("P-01", "20190301", "t1", ""),
    ]
    assert {scan.taken for scan in found.scans} == {date(2019, 3, 1)} and not len(found.left_out)


def test_an_image_holds_the_slices_voxels_where_the_scanner_put_them(dicom: Path) -> None:
    files = write_series(dicom, T1)
    image = nib.load(find(dicom).scans[0].files[0])
    assert image.shape == (13, 14, 12)
    middle = dcmread(files[6])
    column, row = 5, 4
    at = [p + 2.0 * n for p, n in zip(middle.ImagePositionPatient[:2], (column, row), strict=True)]
    # DICOM's patient coordinates run to the left and back, NIfTI's to the right and front.
    place = np.linalg.inv(image.affine) @ [-at[0], -at[1], middle.ImagePositionPatient[2], 1]
    assert image.get_fdata()[tuple(np.rint(place[:3]).astype(int))] == middle.pixel_array[row, column]


def test_nothing_of_the_patient_is_kept_beside_voxels(dicom: Path) -> None:
    write_series(dicom, replace(PET, frames=TIMES, tags={"ImageComments": "DOE SMOKES", "StationName": "STATION7"}))
    scan = find(dicom).scans[0]
    sidecar = json.loads((scan.files[0].parent / "image.json").read_text())
    assert sidecar["FrameDuration"] == [300, 300, 600] and sidecar["Units"] == "Bq/mL"
    folder = scan.files[0].parent
    content = gzip.decompress(scan.files[0].read_bytes()) + (folder / "image.json").read_bytes()
    for secret in (
        b"DOE",
        b"JANE",
        b"P-01",
        b"1940",
        b"20190301",
        b"2019-03-01",
        b"10:11",
        b"101112",
        b"Hospital",
        b"STATION7",
    ):
        assert secret not in content, secret
    assert "P-01" not in str(folder.relative_to(dicom.parent))


def test_frames_of_a_dynamic_scan_are_told(dicom: Path) -> None:
    write_series(dicom, replace(PET, frames=TIMES))
    scan = find(dicom).scans[0]
    assert scan.frames == Frames((0.0, 300.0, 600.0), (300.0, 300.0, 600.0))
    assert nib.load(scan.files[0]).shape == (13, 14, 12, 3)


def test_a_second_search_converts_nothing_again(dicom: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(dicom, T1)
    first = find(dicom)
    monkeypatch.setattr("permmoe.preparation.sources.conversion._program", lambda: "/no/such/program")
    assert find(dicom) == first
    write_series(dicom / "new", FLAIR)
    with pytest.raises(FileNotFoundError):
        find(dicom)


def test_a_series_that_is_stopped_midway_leaves_nothing_that_looks_finished(
    dicom: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(dicom, T1)

    def stop(image: Path) -> bytes:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr("permmoe.preparation.sources.conversion._packed", stop)
        find(dicom)
    assert not any((dicom.parent / "converted").iterdir())
    assert len(find(dicom).scans) == 1


def test_only_the_series_that_is_taken_is_converted(dicom: Path) -> None:
    write_series(dicom / "repeat", replace(T1, description="MPRAGE REPEAT", number=2))
    write_series(dicom / "coarse", replace(T1, number=3, spacing_mm=(2.0, 2.0, 4.0)))
    write_series(dicom / "second", replace(T1, number=9))
    write_series(dicom / "first", replace(T1, number=8))
    found = find(dicom)
    choice = found.choices[0]
    assert choice.taken.parent.name == "first"
    assert [other.parent.name for other in choice.others] == ["second", "coarse", "repeat"]
    assert len(list((dicom.parent / "converted").iterdir())) == 1 and not len(found.left_out)


def test_where_the_preferred_scan_cannot_be_used_the_next_one_is(dicom: Path) -> None:
    write_series(dicom / "good", replace(T1, description="MPRAGE REPEAT"))
    write_series(dicom / "gap", T1, leave_out=[5])
    found = find(dicom)
    assert len(found.scans) == 1 and not found.choices
    assert reasons(found) == {"gap": Reason.MISSING_SLICES}


def test_what_is_no_scan_of_a_kind_is_itemised_with_its_reason(dicom: Path) -> None:
    left_out = {
        "scout": (replace(T1, description="3 Plane Localizer"), Reason.LOCALISER),
        "untold": (replace(T1, image_type=("ORIGINAL", "PRIMARY", "LOCALIZER")), Reason.LOCALISER),
        "b1": (replace(T1, description="B1-Calibration Head"), Reason.LOCALISER),
        "mpr": (replace(T1, image_type=("DERIVED", "PRIMARY", "MPR")), Reason.DERIVED),
        "mip": (replace(T1, description="MIP MPRAGE"), Reason.DERIVED),
        "moco": (replace(T1, description="MoCoSeries"), Reason.DERIVED),
        "phase": (replace(T1, image_type=("ORIGINAL", "PRIMARY", "P")), Reason.DERIVED),
        "nac": (replace(PET, description="AV45 NAC"), Reason.DERIVED),
        "raw": (replace(PET, tags={"CorrectedImage": ["DECY"]}), Reason.DERIVED),
        "dti": (replace(T1, description="Axial DTI", tags={"InversionTime": None}), Reason.OTHER_SERIES),
        "contrast": (replace(T1, tags={"ContrastBolusAgent": "Gadovist"}), Reason.OTHER_SERIES),
        "fdg": (replace(PET, radiopharmaceutical="Fluorodeoxyglucose"), Reason.OTHER_TRACER),
        "untraced": (replace(PET, radiopharmaceutical="Solution"), Reason.OTHER_TRACER),
        "wrong": (replace(PET, description="AV45", radiopharmaceutical="Fluorodeoxyglucose"), Reason.TWO_TRACERS),
        "both": (replace(PET, description="PET FBB"), Reason.TWO_TRACERS),
        "nobody": (replace(T1, patient=""), Reason.NO_PATIENT),
        "future": (replace(T1, day="20260102"), Reason.FUTURE_DATE),
        "thin": (replace(T1, shape=(14, 13, 3)), Reason.TOO_FEW_SLICES),
        "timeless": (
            replace(PET, frames=TIMES, tags={"ActualFrameDuration": None}, day="20190302"),
            Reason.NO_FRAME_TIMES,
        ),
    }
    for name, (series, _) in left_out.items():
        write_series(dicom / name, series)
    write_series(dicom / "good", T1)
    found = find(dicom)
    assert [told(scan) for scan in found.scans] == [("P-01", "20190301", "t1", "")]
    assert reasons(found) == {name: reason for name, (_, reason) in left_out.items()}


def test_a_volume_whose_description_says_nothing_is_known_by_its_times(dicom: Path) -> None:
    write_series(dicom / "a", replace(T1, description="Head"))
    write_series(dicom / "b", replace(FLAIR, description="Head"))
    assert [scan.modality for scan in find(dicom).scans] == ["flair", "t1"]


def test_files_that_are_cut_off_leave_out_their_series(dicom: Path) -> None:
    cut = write_series(dicom / "cut", T1)[4]
    os.truncate(cut, cut.stat().st_size - 10)
    bare = write_series(dicom / "headless", FLAIR)[4]
    os.truncate(bare, 300)
    found = find(dicom)
    assert not found.scans
    assert sorted((Path(item.file).parent.name, item.reason) for item in found.left_out) == [
        ("cut", Reason.TRUNCATED_DICOM),
        ("headless", Reason.TRUNCATED_DICOM),
        ("headless", Reason.MISSING_SLICES),
    ]


def test_a_frame_that_lacks_slices_leaves_out_its_series(dicom: Path) -> None:
    files = write_series(dicom / "frames", replace(PET, frames=TIMES))
    files[20].unlink()
    write_series(dicom / "top", replace(PET, day="20190401"), leave_out=[11])
    assert reasons(find(dicom)) == {"frames": Reason.MISSING_SLICES, "top": Reason.MISSING_SLICES}


def test_several_echoes_are_no_one_image(dicom: Path) -> None:
    for number, file in enumerate(write_series(dicom, T1)):
        echo = dcmread(file)
        echo.EchoTime, echo.EchoNumbers, echo.InstanceNumber = 5.5, 2, 20 + number
        echo.SOPInstanceUID = echo.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        echo.save_as(dicom / f"echo{number}.dcm")
    assert [item.reason for item in find(dicom).left_out] == [Reason.SEVERAL_ECHOES]


def test_one_file_of_many_slices_is_a_series(dicom: Path) -> None:
    whole = write_multiframe(dicom / "a/whole", replace(T1, description="Head", spacing_mm=(2.0, 2.0, 1.0)))
    write_multiframe(dicom / "b/coarse", replace(T1, description="Head"))
    cut = write_multiframe(dicom / "c/cut", FLAIR)
    os.truncate(cut, cut.stat().st_size - 1)
    found = find(dicom)
    assert [nib.load(scan.files[0]).shape for scan in found.scans] == [(13, 14, 12)]
    assert found.choices[0].taken == whole and reasons(found) == {"c": Reason.TRUNCATED_DICOM}


def test_damaged_headers_stop_nothing_and_say_nothing(dicom: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = write_series(dicom / "good", T1)[0].read_bytes()
    (dicom / "bad").mkdir()
    for seed in range(150):
        generator = np.random.default_rng(seed)
        content = bytearray(whole)
        for place in generator.integers(132, len(whole) - 370, 20):
            content[place] = generator.integers(256)
        (dicom / "bad" / str(seed)).write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        headers, broken = read_headers(sorted((dicom / "bad").iterdir()))
    assert headers and broken and len(headers) + len(broken) <= 150
    assert not caplog.records


def test_objects_of_dicom_that_are_no_images_are_itemised_and_lists_of_files_are_not(dicom: Path) -> None:
    (report,) = write_series(dicom / "report", replace(T1, shape=(14, 13, 1)))
    image = dcmread(report)
    for keyword in ("Rows", "Columns", "PixelData"):
        del image[keyword]
    image.Modality = "SR"
    image.save_as(report)
    for name, kind in (("palette", "1.2.840.10008.5.1.4.39.1"), ("DICOMDIR", "1.2.840.10008.1.3.10")):
        (dicom / name).mkdir()
        image.file_meta.MediaStorageSOPClassUID = kind
        if "SeriesInstanceUID" in image:
            del image.SeriesInstanceUID
        image.save_as(dicom / name / name)
    assert reasons(find(dicom)) == {"report": Reason.OTHER_SERIES, "palette": Reason.OTHER_SERIES}


def test_what_cannot_be_opened_is_itemised(dicom: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(dicom / "good", T1)
    (dicom / "closed").mkdir()
    (dicom / "away.dcm").symlink_to(dicom / "nowhere")
    scandir = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    found = find(dicom)
    assert len(found.scans) == 1
    assert {Path(item.file).name: item.reason for item in found.left_out} == {
        "away.dcm": Reason.FILE_NOT_FOUND,
        "closed": Reason.FILE_NOT_OPENED,
    }


def test_a_file_that_this_account_may_not_read_is_itemised_and_other_series_go_on(
    dicom: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(dicom / "good", T1)
    closed = write_series(dicom / "closed", FLAIR)[4]
    deny(monkeypatch, closed)
    found = find(dicom)
    assert [scan.modality for scan in found.scans] == ["t1"]
    items = {(Path(item.file).name, item.reason) for item in found.left_out}
    assert items == {(closed.name, Reason.FILE_NOT_OPENED), ("0001.dcm", Reason.MISSING_SLICES)}


def test_a_file_that_the_disk_cannot_read_is_itemised(dicom: Path) -> None:
    write_series(dicom / "a", T1)
    (dicom / "fails").symlink_to("/proc/self/mem")  # Answers a read with EIO.
    found = find(dicom)
    assert len(found.scans) == 1
    assert [item.reason for item in found.left_out] == [Reason.FILE_NOT_OPENED]


@pytest.mark.parametrize("is_cut", [True, False])
def test_a_full_disk_under_dcm2niix_ends_the_search_and_is_not_taken_for_a_bad_series(
    is_cut: bool, dicom: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(dicom / "a", T1)

    def dcm2niix_on_a_full_disk(command: list[str], **_: object) -> None:
        if is_cut:
            image = nib.Nifti1Image(np.ones((13, 14, 12), np.int16), np.eye(4))
            file = Path(command[command.index("-o") + 1]) / "image.nii"
            file.write_bytes(image.to_bytes()[:1000])

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("permmoe.preparation.sources.conversion.subprocess.run", dcm2niix_on_a_full_disk)
    assert reasons(find(dicom)) == {"a": Reason.NOT_CONVERTED}
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        find(dicom)


def test_headers_do_not_depend_on_how_many_processes_read_them(dicom: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [*write_series(dicom / "a", T1), *write_series(dicom / "b", FLAIR)]
    os.truncate(files[3], 300)
    (dicom / "notes.txt").write_text("nothing")
    alone = read_headers([*files, dicom / "notes.txt"])
    assert pickle.loads(pickle.dumps(alone)) == alone
    monkeypatch.setattr("permmoe.preparation.sources.dicom_headers.AT_ONCE", 7)
    monkeypatch.setattr("permmoe.preparation.sources.dicom_headers.FEW", 7)
    # Processes of Python that import PyTorch would take longer than all other tests of this file.
    monkeypatch.setattr("permmoe.preparation.sources.dicom_headers.worker_pool", lambda *_, **__: ThreadPoolExecutor(1))
    assert read_headers([*files, dicom / "notes.txt"], workers=2) == alone
    assert len(alone[0]) == 23 and alone[1] == {files[3]: Reason.TRUNCATED_DICOM}


def test_images_that_are_kept_below_the_source_are_no_source(dicom: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(dicom, T1)
    monkeypatch.chdir(dicom)
    first = find_scans(Path(), converted=dicom / "out/converted")
    (dicom / "out/converted/.unfinished-x").mkdir()
    assert find_scans(Path(), converted=dicom / "out/converted") == first
    assert len(first.scans) == 1 and not first.notes


def test_an_identifier_without_letters_and_digits_names_nobody(dicom: Path) -> None:
    write_series(dicom / "a", replace(T1, patient="???"))
    assert reasons(find(dicom)) == {"a": Reason.NO_PATIENT}


def test_phases_beside_the_magnitudes_of_a_series_are_passed_over(dicom: Path) -> None:
    for number, file in enumerate(write_series(dicom, T1)):
        phase = dcmread(file)
        phase.ImageType, phase.InstanceNumber = ["ORIGINAL", "PRIMARY", "P", "ND"], 20 + number
        phase.SOPInstanceUID = phase.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        phase.PixelData = bytes(len(phase.PixelData))
        phase.save_as(dicom / f"0-phase{number}.dcm")
    found = find(dicom)
    assert not len(found.left_out)
    assert nib.load(found.scans[0].files[0]).get_fdata().max() > 900


def test_copies_of_a_series_count_once(dicom: Path) -> None:
    for file in write_series(dicom / "a", T1):
        (dicom / f"copy-{file.name}").write_bytes(file.read_bytes())
    found = find(dicom)
    assert len(found.scans) == 1 and not found.choices and not len(found.left_out)


def test_pixels_that_cannot_be_decoded_are_itemised(dicom: Path) -> None:
    from pydicom.encaps import encapsulate
    from pydicom.uid import MPEG4HP41

    for file in write_series(dicom / "film", T1):
        image = dcmread(file)
        image.file_meta.TransferSyntaxUID = MPEG4HP41
        image.PixelData = encapsulate([b"\0" * 64])
        image["PixelData"].VR = "OB"
        image.save_as(file)
    assert reasons(find(dicom)) == {"film": Reason.NOT_DECODED}


def test_two_patients_under_one_identifier_are_not_mixed(dicom: Path) -> None:
    write_series(dicom / "one", T1)
    write_series(dicom / "two", replace(FLAIR, birth="19500102"))
    write_series(dicom / "third", replace(T1, patient="P-02"))
    write_series(dicom / "fourth", replace(FLAIR, patient="P-02", birth=""))
    found = find(dicom)
    assert [told(scan) for scan in found.scans] == [
        ("P-02", "20190301", "flair", ""),
        ("P-02", "20190301", "t1", ""),
    ]
    assert reasons(found) == {"one": Reason.TWO_PATIENTS, "two": Reason.TWO_PATIENTS}


def test_adnis_patients_are_called_by_their_ptid(dicom: Path) -> None:
    write_series(dicom, replace(T1, patient="011S0002"))
    assert find(dicom).scans[0].subject_id == "011_S_0002"
