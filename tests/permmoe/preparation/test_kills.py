"""A preparation that is killed, at whatever moment, loses the image at work and nothing else.

Processes here are real and are killed by SIGKILL, before one of their files takes its place and so with an unfinished
one beside it. Scans and DICOM are real files, dcm2niix is dcm2niix; the computing alone is replaced by a stand-in.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from permmoe.config import VolumeGrid
from permmoe.errors import TryAgainLater
from permmoe.preparation import subject as subject_room
from permmoe.preparation.folder import PreparedFolder, prepare_folder
from permmoe.preparation.images.prepare import PreparedImage
from permmoe.preparation.prepared_folder import LOCK, claimed
from permmoe.preparation.quality.metrics import ImageMetrics
from permmoe.preparation.quality.of_prepared import metrics_of as real_metrics_of
from permmoe.runtime.files import UNFINISHED_PREFIX
from tests.support.dicom_series import Series, write_series
from tests.support.scans_to_prepare import SETTINGS, StandIn, write_scans

EVERY = 3
"""A kill before every such file; that it is a prime number lets it come before each kind of file."""
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    made = StandIn()
    measured: dict[str, ImageMetrics] = {}

    def metrics_of(image: PreparedImage, modality: str, grid: VolumeGrid, t1: PreparedImage | None) -> ImageMetrics:
        """The stand-in's images are all alike: measured once."""
        if modality not in measured:
            measured[modality] = real_metrics_of(image, modality, grid, t1)
        return measured[modality]

    monkeypatch.setattr(subject_room, "_prepared", made)
    monkeypatch.setattr(subject_room, "metrics_of", metrics_of)
    return made


@pytest.fixture
def source(tmp_path: Path) -> Path:
    write_scans(tmp_path / "raw", "01")
    write_series(tmp_path / "raw" / "dicom", Series(shape=(20, 20, 20), spacing_mm=(8.0, 8.0, 8.0)))
    return tmp_path / "raw"


def contents(out: Path) -> dict[str, object]:
    """What stands in each file; of a sidecar all but when its source was written, which DICOM's images are anew."""
    found: dict[str, object] = {}
    for file in out.rglob("*"):
        if file.is_file():
            content = json.loads(file.read_text()) if file.suffix == ".json" else file.read_bytes()
            if isinstance(content, dict):
                content.pop("SourceStamp", None)
            found[file.relative_to(out).as_posix()] = content
    return found


def finished_images(out: Path) -> int:
    sidecars = [file for file in out.rglob("*.json") if "converted" not in file.parts]
    return sum("Recipe" in json.loads(file.read_text()) for file in sidecars)


def prepare_and_be_killed(source: Path, out: Path, at: int) -> None:
    """In a process of its own: prepare, and be killed before the file of that number takes its place."""
    numbers = count()
    replace, rename = os.replace, os.rename

    def counted(move: object) -> object:
        def moved(start: str, end: str) -> None:
            if next(numbers) == at:
                os.kill(os.getpid(), signal.SIGKILL)
            move(start, end)  # type: ignore[operator]

        return moved

    os.replace, os.rename = counted(replace), counted(rename)  # type: ignore[assignment]
    prepare_folder(source, out, SETTINGS)


def kills(source: Path, folder: Path) -> Iterator[tuple[Path, PreparedFolder, int]]:
    """The folder of a killed preparation that went on, what it said then, and how many images it had before."""
    for at in count(step=EVERY):
        out = folder / str(at) / "out"
        process = FORK.Process(target=prepare_and_be_killed, args=(source, out, at))
        process.start()
        process.join(60)
        if process.exitcode == 0:
            return
        assert process.exitcode == -signal.SIGKILL
        before = finished_images(out)
        yield out, prepare_folder(source, out, SETTINGS), before


def test_killed_before_any_of_its_files_it_goes_on_to_the_same_files(
    source: Path, tmp_path: Path, stand_in: StandIn
) -> None:
    uninterrupted = tmp_path / "uninterrupted" / "out"
    assert prepare_folder(source, uninterrupted, SETTINGS).made == 3
    wanted = contents(uninterrupted)
    made_before = []
    for out, went_on, before in kills(source, tmp_path):
        assert went_on.made == 3 - before, "what was finished before the kill is made again"
        assert contents(out) == wanted
        assert not list(out.rglob(f"{UNFINISHED_PREFIX}*"))
        made_before.append(before)
    assert made_before == sorted(made_before) and set(made_before) == {0, 1, 2, 3}


def test_a_run_after_the_last_says_that_nothing_was_to_do_and_touches_nothing(
    source: Path, tmp_path: Path, stand_in: StandIn
) -> None:
    out = tmp_path / "out"
    prepare_folder(source, out, SETTINGS)
    images = {file: file.stat().st_mtime_ns for file in out.rglob("*") if file.suffix in (".gz", ".png", ".txt")}
    assert prepare_folder(source, out, SETTINGS).made == 0 and len(stand_in.done) == 3
    assert images == {file: file.stat().st_mtime_ns for file in images}


def test_two_processes_do_not_prepare_into_one_folder(source: Path, tmp_path: Path, stand_in: StandIn) -> None:
    out = tmp_path / "out"
    with claimed(out), pytest.raises(TryAgainLater, match="once it has ended"):
        prepare_folder(source, out, SETTINGS)
    assert not stand_in.done and (out / LOCK).exists()
    assert prepare_folder(source, out, SETTINGS).made == 3
