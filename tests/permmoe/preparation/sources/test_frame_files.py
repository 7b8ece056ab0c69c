"""PET whose frames are image files of their own: joined where their times are known, else named, never one for all."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from pathlib import Path

import pytest

from permmoe.data.image_file import BrokenVolume
from permmoe.data.reasons import Reason
from permmoe.preparation.scan import Frames
from permmoe.preparation.sources import FoundScans, find_scans, scan_of_file
from permmoe.preparation.subject import read_frames
from tests.support.scan_files import write_image

PET = "sub-01/ses-a/pet/sub-01_ses-a_trc-18FAV45"
TIMES = ((0, 300), (300, 300), (602, 600))
JOINED = Frames((0.0, 300.0, 602.0), (300.0, 300.0, 600.0))


def find(folder: Path) -> FoundScans:
    return find_scans(folder, converted=folder.parent / "converted", today=date(2026, 1, 1))


def said(start: float, duration: float, **others: object) -> dict[str, object]:
    return {"FrameTimesStart": [start], "FrameDuration": [duration], **others}


def write(folder: Path, files: Mapping[str, Mapping[str, object] | None]) -> list[Path]:
    """PET files by what stands between tracer and suffix in their names, and their sidecars."""
    return [
        write_image(folder / f"{PET}_{name}_pet.nii.gz", voxel_mm=3.0, sidecar=told and {**told})
        for name, told in files.items()
    ]


def left_out(found: FoundScans) -> list[tuple[str, str, Reason]]:
    return sorted((item.subject_id, Path(item.file).name, item.reason) for item in found.left_out)


@pytest.mark.parametrize(
    "names", [("frame-1", "frame-2", "frame-3"), ("frame02", "frame01", "frame00"), ("run-01", "run-02", "run-03")]
)
def test_files_whose_sidecars_follow_each_other_are_one_scan_in_the_order_of_time(
    tmp_path: Path, names: tuple[str, ...]
) -> None:
    files = write(tmp_path / "raw", {name: said(*times) for name, times in zip(names, TIMES, strict=True)})
    found = find(tmp_path / "raw")
    [scan] = found.scans
    assert (scan.files, scan.frames, scan.tracer) == (tuple(files), JOINED, "AV45")
    assert not len(found.left_out) and not found.choices
    assert len(read_frames(scan)) == 3


def test_one_sidecar_may_list_the_times_of_all_frames_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    files = write(tmp_path / "raw", {f"frame-{number}": None for number in (1, 2, 3)})
    starts, durations = zip(*TIMES, strict=True)
    write_image(tmp_path / "raw" / f"{PET}_pet.nii.gz", sidecar={"FrameTimesStart": starts, "FrameDuration": durations})
    (tmp_path / "raw" / f"{PET}_pet.nii.gz").unlink()
    [scan] = find(tmp_path / "raw").scans
    assert (scan.files, scan.frames) == (tuple(files), JOINED)


@pytest.mark.parametrize(
    "told",
    [
        {"run-1": said(0, 300, TimeZero="10:00:00"), "run-2": said(0, 300, TimeZero="10:05:00")},
        {"run-1": said(0, 300, AcquisitionTime="23:00:00.5"), "run-2": said(0, 300, AcquisitionTime="23:05:00.5")},
    ],
    ids=["zeros of their own", "times of day"],
)
def test_runs_that_count_from_their_own_start_are_joined_by_the_clock(
    tmp_path: Path, told: Mapping[str, Mapping[str, object]]
) -> None:
    files = write(tmp_path / "raw", told)
    [scan] = find(tmp_path / "raw").scans
    assert (scan.files, scan.frames) == (tuple(files), Frames((0.0, 300.0), (300.0, 300.0)))


APART: dict[str, Mapping[str, Mapping[str, object] | None]] = {
    "frames without sidecars": {"frame-1": None, "frame-2": None},
    "runs without sidecars": {"run-1": None, "run-2": None},
    "runs of their own zeros and no clock": {"run-1": said(0, 300), "run-2": said(0, 300)},
    "a frame without times": {"frame-1": said(0, 300), "frame-2": None},
    "a middle frame is missing": {"frame-1": said(0, 300), "frame-3": said(600, 300)},
    "the first frame is missing": {"frame-2": said(300, 300), "frame-3": said(600, 300)},
    "a pause": {"frame-1": said(0, 300), "frame-2": said(3000, 300)},
    "an early scan and a late one": {"run-1": said(0, 300), "run-2": said(3000, 1200)},
    "frames of one moment": {"frame-1": said(0, 300), "frame-2": said(0, 300)},
    "a frame alone that says nothing": {"frame-1": None},
    "a later frame alone": {"frame-4": said(900, 300)},
}


@pytest.mark.parametrize("files", APART.values(), ids=APART)
def test_files_that_make_no_whole_scan_are_itemised_and_none_is_taken(
    tmp_path: Path, files: Mapping[str, Mapping[str, object] | None]
) -> None:
    paths = write(tmp_path / "raw", files)
    found = find(tmp_path / "raw")
    assert not found.scans
    assert left_out(found) == [("01", path.name, Reason.FRAME_FILES_APART) for path in paths]
    assert "FrameTimesStart" in Reason.FRAME_FILES_APART.remedy and "keep one" in Reason.FRAME_FILES_APART.remedy


def test_a_frame_that_cannot_be_read_or_is_on_other_voxels_leaves_no_scan(tmp_path: Path) -> None:
    for folder in ("damaged", "other"):
        files = write(tmp_path / folder, {f"frame-{n}": said(*times) for n, times in enumerate(TIMES)})
        if folder == "damaged":
            files[2].write_text("no image")
        else:
            write_image(files[2], voxel_mm=2.0)
        assert not find(tmp_path / folder).scans
        reasons = [reason for _, _, reason in left_out(find(tmp_path / folder))]
        last = Reason.UNREADABLE_HEADER if folder == "damaged" else Reason.FRAME_FILES_APART
        assert reasons == [Reason.FRAME_FILES_APART, Reason.FRAME_FILES_APART, last]


def test_a_single_frame_with_its_times_is_a_whole_scan(tmp_path: Path) -> None:
    [file] = write(tmp_path / "raw", {"frame-1": said(3000, 1200)})
    [scan] = find(tmp_path / "raw").scans
    assert (scan.files, scan.frames) == ((file,), None)


def test_reconstructions_that_began_together_are_no_frames_and_one_of_them_is_taken(tmp_path: Path) -> None:
    began = {"TimeZero": "10:00:00"}
    files = write(tmp_path / "raw", {"run-1": said(0, 1200, **began), "run-2": said(0, 1200, **began)})
    found = find(tmp_path / "raw")
    assert [scan.files for scan in found.scans] == [(files[0],)]
    assert [choice.others for choice in found.choices] == [(files[1],)]


def test_runs_on_other_voxels_are_no_frames_of_one_scan_and_the_finer_is_taken(tmp_path: Path) -> None:
    files = write(tmp_path / "raw", {"run-1": None, "run-2": None})
    write_image(files[1], voxel_mm=2.0)
    assert [scan.files for scan in find(tmp_path / "raw").scans] == [(files[1],)]


def test_a_frame_that_is_named_alone_brings_the_frames_beside_it_or_is_refused(tmp_path: Path) -> None:
    files = write(tmp_path, {f"frame-{n}": said(*times) for n, times in enumerate(TIMES, start=1)})
    scan = scan_of_file("amyloid", files[1])
    assert (scan.files, scan.frames) == (tuple(files), JOINED)
    old = [write_image(tmp_path / f"pet_frame-{n}.img") for n in (1, 2)]
    with pytest.raises(BrokenVolume):
        scan_of_file("amyloid", old[0])
    files[2].unlink()
    (files[1].parent / files[1].name.replace(".nii.gz", ".json")).unlink()
    with pytest.raises(BrokenVolume) as broken:
        scan_of_file("amyloid", files[0])
    assert broken.value.reason is Reason.FRAME_FILES_APART


def test_a_run_that_is_named_alone_is_held_against_runs_on_its_own_voxels_only(tmp_path: Path) -> None:
    one, other, third = write(tmp_path, {"run-1": None, "run-2": None, "run-3": None})
    write_image(other, voxel_mm=2.0)
    third.write_text("no image")
    assert scan_of_file("amyloid", one).files == (one,)
    write_image(third, voxel_mm=3.0)
    with pytest.raises(BrokenVolume):
        scan_of_file("amyloid", one)


LONI = "011_S_0002/{}/2019-03-01_10_11_12.0/I{}"


@pytest.mark.parametrize(
    "places", [("AV45 dynamic", 1, 1), ("AV45 frame {}", 1, 2)], ids=["one folder", "a folder each"]
)
@pytest.mark.parametrize("is_told", [True, False])
def test_frames_in_lonis_folders_are_joined_by_their_sidecars_or_itemised(
    tmp_path: Path, places: tuple[str, int, int], is_told: bool
) -> None:
    description, *images = places
    files = [
        write_image(
            tmp_path / "raw" / LONI.format(description.format(n), image) / f"ADNI_PT_{n}.nii",
            sidecar=said(*TIMES[n - 1]) if is_told else None,
        )
        for n, image in enumerate(images, start=1)
    ]
    found = find(tmp_path / "raw")
    if is_told:
        [scan] = found.scans
        assert (scan.files, scan.frames) == (tuple(files), Frames((0.0, 300.0), (300.0, 300.0)))
    else:
        assert not found.scans
        assert left_out(found) == [("011_S_0002", file.name, Reason.FRAME_FILES_APART) for file in files]


def test_one_of_lonis_frames_without_times_is_not_taken_for_the_scan(tmp_path: Path) -> None:
    write_image(tmp_path / "raw" / LONI.format("AV45_frame_1", 1) / "ADNI_PT_1.nii")
    found = find(tmp_path / "raw")
    assert not found.scans and left_out(found) == [("011_S_0002", "ADNI_PT_1.nii", Reason.FRAME_FILES_APART)]
