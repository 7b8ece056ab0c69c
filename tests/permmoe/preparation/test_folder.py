"""A folder of scans is prepared once, goes on where it was stopped, and loses nothing to a scan that cannot be used.

The computing is replaced by a stand-in here; tests/permmoe/preparation/test_from_raw_to_prediction.py runs all of it.
"""

from __future__ import annotations

import csv
import errno
import json
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from permmoe.cli import app
from permmoe.data.images import find_images
from permmoe.data.preparation import prepared_as
from permmoe.data.reasons import Reason
from permmoe.errors import DataError
from permmoe.preparation import subject as subject_room
from permmoe.preparation.folder import prepare_folder
from permmoe.preparation.images.prepare import PreparedImage
from permmoe.preparation.progress import Step
from permmoe.preparation.progress_bars import progress_bars
from permmoe.preparation.scan import Scan
from permmoe.preparation.settings import PreparationSettings
from permmoe.runtime.files import FULL_DISK
from tests.support.dicom_series import Series, write_series
from tests.support.scans_to_prepare import SETTINGS, StandIn, write_scans


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    made = StandIn()
    monkeypatch.setattr(subject_room, "_prepared", made)
    return made


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_scans(tmp_path / "raw", "01")
    write_scans(tmp_path / "raw", "02")
    return tmp_path / "raw"


def listed(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.open()))


def test_scans_become_images_that_say_how_they_were_prepared_and_are_found(
    source: Path, tmp_path: Path, stand_in: StandIn
) -> None:
    prepared = prepare_folder(source, tmp_path / "out", SETTINGS)
    assert prepared.made == 4 and len(prepared.usable) == 4 and not len(prepared.left_out)
    found = find_images(tmp_path / "out").images
    assert {(i.subject_id, i.modality, i.is_registered) for i in found} == {
        (subject, modality, True) for subject in ("01", "02") for modality in ("t1", "amyloid")
    }
    assert {prepared_as(i.path) for i in found if i.modality == "amyloid"} == {SETTINGS.prepared_as("amyloid", "AV45")}
    assert (tmp_path / "out" / "qc.html").is_file()


def test_pet_follows_the_t1_of_its_session(source: Path, tmp_path: Path, stand_in: StandIn) -> None:
    prepare_folder(source, tmp_path / "out", SETTINGS)
    assert stand_in.done == [
        ("01", "t1", False), ("01", "amyloid", True), ("02", "t1", False), ("02", "amyloid", True),
    ]  # fmt: skip


def test_a_second_run_works_on_nothing_and_one_that_was_stopped_goes_on(
    source: Path, tmp_path: Path, stand_in: StandIn
) -> None:
    stand_in.killed_at = 3
    with pytest.raises(KeyboardInterrupt):
        prepare_folder(source, tmp_path / "out", SETTINGS)
    stand_in.killed_at = -1
    assert prepare_folder(source, tmp_path / "out", SETTINGS).made == 1
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*.nii.gz")}
    again = prepare_folder(source, tmp_path / "out", SETTINGS)
    assert again.made == 0 and len(again.usable) == 4 and len(stand_in.done) == 4
    assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*.nii.gz")}


def test_an_image_is_made_again_where_its_source_or_a_setting_changed_and_only_then(
    source: Path, tmp_path: Path, stand_in: StandIn
) -> None:
    prepare_folder(source, tmp_path / "out", SETTINGS)
    t1 = source / "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz"
    os.utime(t1, (1, 1))
    assert prepare_folder(source, tmp_path / "out", SETTINGS).made == 0
    nib.save(nib.Nifti1Image(np.ones((20, 20, 20), np.float32), np.diag([8.0, 8.0, 8.0, 1.0])), t1)
    assert prepare_folder(source, tmp_path / "out", SETTINGS).made == 2  # the T1, and the PET that follows it
    other = PreparationSettings(spacing_mm=4.0, regions={"amyloid": "pons"})
    assert prepare_folder(source, tmp_path / "out", other).made == 2  # both PET


def test_a_scan_that_cannot_be_used_is_itemised_remembered_and_leaves_the_others_to_go_on(
    source: Path, tmp_path: Path, stand_in: StandIn
) -> None:
    stand_in.refused = {"01"}
    for made in (4, 0):
        prepared = prepare_folder(source, tmp_path / "out", SETTINGS)
        assert prepared.made == made
        assert {(i.subject_id, i.modality, i.reason) for i in prepared.left_out} == {
            ("01", "t1", Reason.NOT_A_HEAD), ("01", "amyloid", Reason.NOT_A_HEAD),
        }  # fmt: skip
        assert [row["subject_id"] for row in listed(tmp_path / "out" / "quarantine.csv")] == ["01", "01"]
        assert {d.scan.subject_id for d in prepared.usable} == {"02"}


DISK_FAILS = Path("/proc/self/mem")
"""Can be opened, and answers a read at its beginning with EIO, as a failing disk does."""


def test_a_scan_that_the_disk_cannot_read_is_itemised_and_tried_again_next_time(
    source: Path, tmp_path: Path, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    t1, load = source / "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz", nib.load

    def failing(path: Path) -> Any:
        if path == t1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return load(path)

    with monkeypatch.context() as patched:
        patched.setattr(nib, "load", failing)
        prepared = prepare_folder(source, tmp_path / "out", SETTINGS)
    assert {(i.subject_id, i.modality, i.reason) for i in prepared.left_out} == {("01", "t1", Reason.FILE_NOT_OPENED)}
    assert len(prepared.usable) == 3
    assert len(prepare_folder(source, tmp_path / "out", SETTINGS).usable) == 4


@pytest.mark.parametrize("seen_at", ["image", "digest"])
def test_a_scan_that_the_disk_stops_reading_at_work_is_itemised_and_not_remembered(
    seen_at: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from permmoe.preparation.subject import prepare_subject

    with pytest.raises(OSError) as failure:
        DISK_FAILS.read_bytes()
    assert failure.value.errno == errno.EIO
    good = source / "sub-01/ses-a/pet/sub-01_ses-a_trc-18FAV45_pet.nii.gz"
    scans = [Scan("01", "a", "t1", (DISK_FAILS,)), Scan("01", "a", "amyloid", (good,), tracer="AV45")]
    real, stand_in = subject_room._prepared, StandIn()

    def prepared(scan: Scan, *others: Any) -> PreparedImage:
        return (real if scan.modality == "t1" and seen_at == "image" else stand_in)(scan, *others)

    monkeypatch.setattr(subject_room, "_prepared", prepared)
    result = prepare_subject(scans, tmp_path / "out", SETTINGS)
    assert [(i.modality, i.reason) for i in result.left_out] == [("t1", Reason.FILE_NOT_OPENED)]
    assert [d.scan.modality for d in result.derivatives] == ["amyloid"]
    assert not list((tmp_path / "out").rglob("*T1w.json"))


@pytest.mark.parametrize("number", sorted(FULL_DISK))
def test_a_full_disk_ends_the_run(
    number: int, source: Path, tmp_path: Path, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("permmoe.preparation.derivatives.write_file", full)
    with pytest.raises(OSError) as failure:
        prepare_folder(source, tmp_path / "out", SETTINGS)
    assert failure.value.errno == number and len(stand_in.done) == 1


def test_each_step_is_counted_to_its_end_without_subjects_and_files(
    source: Path, tmp_path: Path, stand_in: StandIn
) -> None:
    write_series(source / "dicom", Series(shape=(20, 20, 20), spacing_mm=(8.0, 8.0, 8.0)))
    told: list[tuple[Step, int, int | None]] = []
    prepare_folder(source, tmp_path / "out", SETTINGS, progress=lambda *one: told.append(one))
    last = {step: (done, total) for step, done, total in told}
    assert last == {
        Step.LISTED: (24, 24), Step.IMAGES_OPENED: (4, 4), Step.DICOM_OPENED: (20, 20),
        Step.CHOSEN: (5, 5), Step.PREPARED: (5, 5), Step.DRAWN: (3, 3),
    }  # fmt: skip
    assert list(last) == [step for step in Step if step is not Step.LEFT_OUT], "steps begin in the order of the work"
    assert [done for step, done, _ in told if step is Step.PREPARED] == [0, 1, 2, 3, 4, 5]


def test_t1s_of_two_heads_under_one_identifier_are_used_and_to_be_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for session, volume in (("a", 1200), ("b", 1500)):
        write_scans(tmp_path / "raw", "01", [f"anat/{{}}_acq-{volume}_T1w"])
        if session == "b":
            folder = tmp_path / "raw" / "sub-01" / "ses-b" / "anat"
            folder.mkdir(parents=True)
            made = tmp_path / "raw" / "sub-01" / "ses-a" / "anat" / f"sub-01_ses-a_acq-{volume}_T1w.nii.gz"
            made.rename(folder / made.name.replace("ses-a", "ses-b"))
    make = StandIn()

    def prepared(scan: Scan, *others: Any) -> PreparedImage:
        image = make(scan, *others)
        volume_ml = 1200.0 if "acq-1200" in scan.files[0].name else 1500.0
        return replace(image, measured=replace(image.measured, mask_ml=volume_ml))

    monkeypatch.setattr(subject_room, "_prepared", prepared)
    done = prepare_folder(tmp_path / "raw", tmp_path / "out", SETTINGS)
    assert len(done.usable) == 2 and not len(done.left_out)
    for row in listed(tmp_path / "out" / "images.csv"):
        assert row["verdict"] == "look" and "two people may be under one identifier" in ";".join(row.values())


def test_scans_that_are_left_out_are_counted_as_they_are_met(source: Path, tmp_path: Path, stand_in: StandIn) -> None:
    stand_in.refused = {"01"}
    told: list[tuple[Step, int, int | None]] = []
    prepare_folder(source, tmp_path / "out", SETTINGS, progress=lambda *one: told.append(one))
    assert [(step, done) for step, done, _ in told if step in (Step.LEFT_OUT, Step.PREPARED)] == [
        (Step.PREPARED, 0), (Step.LEFT_OUT, 1), (Step.PREPARED, 1), (Step.LEFT_OUT, 2), (Step.PREPARED, 2),
        (Step.PREPARED, 3), (Step.PREPARED, 4),
    ]  # fmt: skip


def test_bars_show_each_step_and_how_many_scans_were_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bars() as show:
        show("images read", 1, 5)
        show(Step.PREPARED, 2, 7)
        show(Step.LEFT_OUT, 1, 7)
        show(Step.PREPARED, 3, 7)
    shown = " ".join(capsys.readouterr().err.split())
    assert "images read" in shown and "scans prepared, 1 left out" in shown and "3/7" in shown
    assert "scans left out" not in shown


@pytest.mark.parametrize("of_source", [True, False])
def test_a_scan_that_may_not_be_read_is_left_out_and_a_folder_that_may_not_be_written_stops(
    of_source: bool, tmp_path: Path, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    from permmoe.preparation.subject import prepare_subject

    file = tmp_path / "a.nii.gz"
    file.write_bytes(b"")

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "denied", str(file))

    if of_source:
        monkeypatch.setattr(Path, "open", denied)
        monkeypatch.setattr(Path, "read_bytes", denied)
    else:
        monkeypatch.setattr("permmoe.preparation.derivatives.write_file", denied)
    scans = [Scan("01", "a", "t1", (file,))]
    if of_source:
        [item] = prepare_subject(scans, tmp_path / "out", SETTINGS).left_out
        assert item.reason is Reason.FILE_NOT_OPENED
    else:
        with pytest.raises(PermissionError):
            prepare_subject(scans, tmp_path / "out", SETTINGS)


def test_two_subjects_whose_names_bids_cannot_tell_apart_are_both_left_out(tmp_path: Path, stand_in: StandIn) -> None:
    from permmoe.preparation.folder import prepare_scans
    from permmoe.preparation.sources import FoundScans

    file = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((20, 20, 20), np.float32), np.eye(4)), file)
    scans = tuple(Scan(name, "1", "t1", (file,)) for name in ("pat-7", "pat7", "pat8"))
    prepared = prepare_scans(FoundScans(scans), tmp_path / "out", SETTINGS)
    assert {(i.subject_id, i.reason) for i in prepared.left_out} == {
        ("pat-7", Reason.TWO_SUBJECTS_ONE_LABEL), ("pat7", Reason.TWO_SUBJECTS_ONE_LABEL),
    }  # fmt: skip
    assert [d.scan.subject_id for d in prepared.usable] == ["pat8"]


def test_nothing_of_a_source_s_name_stands_in_a_sidecar_and_lists_are_their_owner_s_alone(
    source: Path, tmp_path: Path, stand_in: StandIn
) -> None:
    prepared = prepare_folder(source, tmp_path / "out", SETTINGS)
    for derivative in prepared.usable:
        sidecar = derivative.image.with_name(derivative.image.name.removesuffix(".nii.gz") + ".json")
        said = sidecar.read_text()
        assert str(tmp_path) not in said and "raw" not in said and json.loads(said)["SkullStripped"] is True
    for name in ("images.csv", "quarantine.csv", "choices.csv", "qc.html"):
        assert stat.S_IMODE((tmp_path / "out" / name).stat().st_mode) == 0o600


def test_one_patient_s_images_are_named_one_by_one(source: Path, tmp_path: Path, stand_in: StandIn) -> None:
    t1 = source / "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz"
    (tmp_path / "settings.yaml").write_text("spacing_mm: 4.0\n")
    told = ["data", "prepare", f"t1={t1}", "--subject", "pat7", "--out", str(tmp_path / "out")]
    told += ["--settings", str(tmp_path / "settings.yaml")]
    result = CliRunner().invoke(app, told)
    assert result.exit_code == 0, result.output
    assert [(i.subject_id, i.modality) for i in find_images(tmp_path / "out").images] == [("pat7", "t1")]
    assert (tmp_path / "out" / "manifest.csv").read_text().splitlines()[1].startswith("pat7,local,")


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (["t1=away.nii.gz"], "file not found"),
        (["t1={0}", "t1={0}"], "given twice"),
        (["{0}", "t1={0}"], "one folder"),
        (["away"], "no folder at"),
    ],
)
def test_what_cannot_be_prepared_is_refused_in_a_sentence(
    told: list[str], expected: str, source: Path, tmp_path: Path, stand_in: StandIn
) -> None:
    image = source / "sub-01/ses-a/anat/sub-01_ses-a_T1w.nii.gz"
    named = [text.format(image) for text in told]
    result = CliRunner().invoke(app, ["data", "prepare", *named, "--out", str(tmp_path / "out")])
    assert result.exit_code != 0 and expected in str(result.exception or result.output)


def test_a_folder_that_is_somebody_else_s_is_not_written_to(source: Path, tmp_path: Path, stand_in: StandIn) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "letter.txt").write_text("dear")
    with pytest.raises(DataError, match="not empty"):
        prepare_folder(source, tmp_path / "out", SETTINGS)
    with pytest.raises(DataError, match="searched for scans"):
        prepare_folder(source, source / "derivatives", SETTINGS)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["letter.txt"] and not stand_in.done


def test_the_reference_regions_that_were_used_lie_beside_the_images_with_their_origin_and_licence(
    source: Path, tmp_path: Path, stand_in: StandIn
) -> None:
    prepare_folder(source, tmp_path / "out", SETTINGS)
    [sidecar] = (tmp_path / "out").glob("tpl-*_mask.json")
    words = json.loads(sidecar.read_text())
    assert words["Region"] == "whole_cerebellum" and "Fonov" in words["Origin"] and "Permission" in words["License"]
    assert nib.load(sidecar.with_suffix(".nii.gz")).shape == (197, 233, 189)
