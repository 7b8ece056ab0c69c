"""PET whose frames are series of their own: what follows each other is one scan, and what does not is named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

import nibabel as nib
import pytest

from permmoe.data.reasons import Reason
from permmoe.preparation.scan import Frames
from permmoe.preparation.sources import FoundScans, find_scans
from permmoe.preparation.sources.series_rules import SeriesRules, read_rules
from tests.support.dicom_series import Series, write_series

PET = Series(
    modality="PT", description="AV45 frame", image_type=("ORIGINAL", "PRIMARY"), radiopharmaceutical="Florbetapir F18",
    scan="one",
)  # fmt: skip
FOLLOWING = ((0.0, 300.0), (300.0, 300.0), (604.0, 600.0))


def write_frames(folder: Path, times: Sequence[tuple[float, float]], like: Series = PET) -> None:
    """Each frame as a series in a folder of its own, under names that say nothing of their order."""
    for number, time in enumerate(times):
        one = replace(like, frames=(time,), description=f"{like.description} {number + 1}", number=20 - number)
        write_series(folder / f"{(5 * number) % 7}", one)


def find(folder: Path, rules: SeriesRules | None = None) -> FoundScans:
    return find_scans(folder, converted=folder.parent / "converted", rules=rules, today=date(2026, 1, 1))


def test_frames_in_series_of_their_own_are_one_scan_in_the_order_of_time(tmp_path: Path) -> None:
    write_frames(tmp_path / "dicom", FOLLOWING)
    found = find(tmp_path / "dicom")
    [scan] = found.scans
    assert not len(found.left_out) and not found.choices
    assert scan.frames == Frames((0.0, 300.0, 604.0), (300.0, 300.0, 600.0))
    assert [nib.load(file).shape for file in scan.files] == [(13, 14, 12)] * 3
    assert len(set(scan.files)) == 3


def test_frames_that_tell_their_place_in_the_scan_alone_are_joined_by_it(tmp_path: Path) -> None:
    write_frames(tmp_path / "dicom", FOLLOWING, replace(PET, tags={"AcquisitionTime": "101112.00"}))
    [scan] = find(tmp_path / "dicom").scans
    assert scan.frames == Frames((0.0, 300.0, 604.0), (300.0, 300.0, 600.0))


@pytest.mark.parametrize(
    ("times", "tags"),
    [
        (((0.0, 600.0), (3000.0, 1200.0)), {}),
        ((FOLLOWING[0], FOLLOWING[2]), {}),
        ((*FOLLOWING, FOLLOWING[1]), {}),
        (FOLLOWING, {"AcquisitionTime": None}),
        (FOLLOWING, {"ActualFrameDuration": None}),
    ],
    ids=["an early scan and a late one", "a frame is missing", "a frame is there twice", "no times", "no durations"],
)
def test_series_whose_times_make_no_one_scan_are_itemised_and_none_is_taken(
    tmp_path: Path, times: Sequence[tuple[float, float]], tags: dict[str, object]
) -> None:
    write_frames(tmp_path / "dicom", times, replace(PET, tags=tags))
    found = find(tmp_path / "dicom")
    assert not found.scans
    assert [(item.subject_id, item.modality, item.reason) for item in found.left_out] == [
        ("P-01", "amyloid", Reason.FRAMES_APART)
    ] * len(times)
    assert "--series-rules" in Reason.FRAMES_APART.remedy


def test_an_early_scan_that_the_rules_exclude_leaves_the_late_one(tmp_path: Path) -> None:
    write_frames(tmp_path / "dicom", [(0.0, 600.0), (3000.0, 1200.0)])
    shipped = read_rules()
    early = type(shipped.excluded[0])(description=("frame 1",), reason="other")
    rules = shipped.model_copy(update={"excluded": (*shipped.excluded, early)})
    [scan] = find(tmp_path / "dicom", rules).scans
    assert len(scan.files) == 1 and scan.frames is None


def test_reconstructions_of_one_scan_are_no_frames_and_one_of_them_is_taken(tmp_path: Path) -> None:
    write_frames(tmp_path / "dicom", [(0.0, 1200.0), (0.0, 1200.0)])
    found = find(tmp_path / "dicom")
    assert len(found.scans) == 1 and len(found.scans[0].files) == 1
    assert len(found.choices[0].others) == 1 and not len(found.left_out)


@pytest.mark.parametrize(
    "other",
    [{"scan": "two"}, {"patient": "P-02"}, {"day": "20190302"}, {"radiopharmaceutical": "Florbetaben F18"}],
    ids=["frame of reference", "patient", "day", "tracer"],
)
def test_series_that_differ_in_more_than_their_times_are_not_joined(tmp_path: Path, other: dict[str, str]) -> None:
    like = replace(PET, description="PET frame")
    write_series(tmp_path / "dicom/a", replace(like, frames=FOLLOWING[:1]))
    write_series(tmp_path / "dicom/b", replace(like, frames=FOLLOWING[1:2], **other))  # type: ignore[arg-type]
    assert all(len(scan.files) == 1 for scan in find(tmp_path / "dicom").scans)
