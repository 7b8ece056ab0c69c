"""A single file of any format is a scan of the modality that its user says; a file that cannot be used has a reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from permmoe.data.image_file import BrokenVolume
from permmoe.data.reasons import Reason
from permmoe.errors import ConfigurationError
from permmoe.preparation.scan import Frames
from permmoe.preparation.sources import scan_of_file
from tests.support.scan_files import write_image


@pytest.mark.parametrize("name", ["raw.nii", "RAW.nii.gz", "orig.mgz", "old.img"])
def test_every_format_of_image_is_a_scan(tmp_path: Path, name: str) -> None:
    file = write_image(tmp_path / name)
    scan = scan_of_file("t1", file, subject_id="a")
    assert (scan.subject_id, scan.modality, scan.files, scan.is_registered) == ("a", "t1", (file,), False)


def test_a_header_stands_for_its_pair(tmp_path: Path) -> None:
    write_image(tmp_path / "old.img")
    assert scan_of_file("t1", tmp_path / "old.hdr").files == (tmp_path / "old.img",)


def test_a_name_or_a_sidecar_tells_tracer_and_frames(tmp_path: Path) -> None:
    times = {"FrameTimesStart": [0, 300], "FrameDuration": [300, 300], "TracerName": "Florbetapir F18"}
    file = write_image(tmp_path / "pet.nii.gz", shape=(10, 11, 12, 2), sidecar=times)
    scan = scan_of_file("amyloid", file)
    assert (scan.tracer, scan.frames) == ("AV45", Frames((0.0, 300.0), (300.0, 300.0)))
    assert scan_of_file("amyloid", file, tracer="18F-florbetaben").tracer == "FBB"
    named = write_image(tmp_path / "named" / "sub-1_trc-18FAV1451_space-MNI152_suvr-pons_pet.nii.gz")
    scan = scan_of_file("tau", named)
    assert (scan.tracer, scan.region, scan.is_registered) == ("AV1451", "pons", True)


def test_files_that_cannot_be_used_have_their_reason(tmp_path: Path) -> None:
    (tmp_path / "text.nii").write_text("no image")
    (tmp_path / "report.pdf").write_text("no image")
    whole = write_image(tmp_path / "whole.nii.gz").read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(whole[:40])
    expected = {
        tmp_path / "away.nii": Reason.FILE_NOT_FOUND,
        tmp_path / "text.nii": Reason.UNREADABLE_HEADER,
        tmp_path / "report.pdf": Reason.NO_VOXELS,
        tmp_path / "cut.nii.gz": Reason.UNREADABLE_HEADER,
        write_image(tmp_path / "slice.nii", shape=(10, 11, 1)): Reason.TOO_FEW_SLICES,
        write_image(tmp_path / "plane.nii", shape=(10, 11)): Reason.TOO_FEW_DIMENSIONS,
        write_image(tmp_path / "series.nii", shape=(10, 11, 12, 3)): Reason.TOO_MANY_DIMENSIONS,
    }
    for file, reason in expected.items():
        with pytest.raises(BrokenVolume) as broken:
            scan_of_file("t1", file)
        assert broken.value.reason is reason, file.name


def test_several_frames_need_their_times(tmp_path: Path) -> None:
    bare = write_image(tmp_path / "a.nii", shape=(10, 11, 12, 3))
    with pytest.raises(BrokenVolume) as broken:
        scan_of_file("tau", bare)
    assert broken.value.reason is Reason.NO_FRAME_TIMES
    for starts, durations in (([0, 5], [5, 5]), ([0, 5, 10], [5, 5]), ([0, 5, 5], [5, 5, 5]), ([0, 5, 9], [5, 0, 5])):
        file = write_image(
            tmp_path / "b.nii", shape=(10, 11, 12, 3), sidecar={"FrameTimesStart": starts, "FrameDuration": durations}
        )
        with pytest.raises(BrokenVolume) as broken:
            scan_of_file("tau", file)
        assert broken.value.reason is Reason.OTHER_FRAME_TIMES


def test_an_unknown_modality_or_tracer_names_what_is_known(tmp_path: Path) -> None:
    file = write_image(tmp_path / "a.nii")
    with pytest.raises(ConfigurationError, match="did you mean 'flair'"):
        scan_of_file("flar", file)
    with pytest.raises(ConfigurationError, match="no tracer 'FDG'"):
        scan_of_file("amyloid", file, tracer="FDG")
