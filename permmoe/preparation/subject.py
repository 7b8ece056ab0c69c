"""Prepare all scans of one subject, the T1s first, and write each as soon as it is done."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from permmoe.config import VolumeGrid
from permmoe.data.image_file import BrokenVolume, checked_affine, checked_frames, open_image
from permmoe.data.quarantine import Quarantined
from permmoe.data.reasons import Reason, Remedy
from permmoe.preparation.derivatives import Derivative, finished, write_derivative, write_refusal
from permmoe.preparation.images.image import Image
from permmoe.preparation.images.prepare import LeadingT1, PreparedImage, prepare_flair, prepare_pet, prepare_t1
from permmoe.preparation.quality.of_prepared import metrics_of
from permmoe.preparation.quality.rules import Verdict, judge_alone
from permmoe.preparation.scan import Scan
from permmoe.preparation.settings import PreparationSettings

FOLLOWS_WITHIN_DAYS = 400
"""A T1 leads scans of other sessions, too, within this time: a head keeps its shape for about a year."""


@dataclass(frozen=True)
class SubjectResult:
    """What became of a subject's scans."""

    derivatives: tuple[Derivative, ...]
    left_out: tuple[Quarantined, ...]
    made: int
    """How many scans were worked on; the others were finished before."""


def prepare_subject(
    scans: Sequence[Scan],
    out: Path,
    settings: PreparationSettings,
    on_scan: Callable[[bool], None] = lambda is_left_out: None,
) -> SubjectResult:
    """Prepare what is not finished. A scan that cannot be used is left out, and the others go on.

    `on_scan` is told after each scan whether it was left out.

    Raises OSError where the disk is full or `out` cannot be written to: finished scans stay finished.
    """
    # Sums over threads depend on how many there are; subjects are spread over processes instead.
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    work = _Work(out, settings)
    for scan in sorted(scans, key=lambda s: (s.modality != "t1", s.session, s.modality)):
        on_scan(not work.do(scan))
    return SubjectResult(tuple(work.derivatives), tuple(work.left_out), work.made)


class _Work:
    """One subject's scans so far."""

    def __init__(self, out: Path, settings: PreparationSettings) -> None:
        self.out, self.settings = out, settings
        self.derivatives: list[Derivative] = []
        self.left_out: list[Quarantined] = []
        self.made = 0

    def do(self, scan: Scan) -> bool:
        """Prepare a scan, unless it is finished; whether it could be."""
        leading = None if scan.modality == "t1" else _leading_t1(scan, self.derivatives)
        recipe = _recipe(scan, self.settings, leading)
        try:
            result = finished(self.out, scan, recipe)
            if result is None:
                self.made += 1
                result = self._made(scan, leading, recipe)
        except BrokenVolume as broken:  # Its files cannot be read just now: that is not remembered.
            result = broken.reason
        if isinstance(result, Derivative):
            self.derivatives.append(result)
        else:
            self.left_out.append(Quarantined(scan.subject_id, scan.modality, str(scan.files[0]), result))
        return isinstance(result, Derivative)

    def _made(self, scan: Scan, leading: Derivative | None, recipe: str) -> Derivative | Reason:
        grid = self.settings.grid
        t1 = LeadingT1(leading.load(grid), read_frames(leading.scan)[0]) if leading else None
        region = self.settings.region(scan.modality, scan.tracer)
        try:
            image = _prepared(scan, grid, region, t1)
        except BrokenVolume as broken:
            if broken.reason.remedy is Remedy.MOUNT:
                raise
            write_refusal(self.out, scan, broken.reason, recipe)
            return broken.reason
        prepared = self.settings.prepared_as(scan.modality, scan.tracer)
        return write_derivative(
            self.out, scan, image, recipe, prepared, metrics_of(image, scan.modality, grid, t1.prepared if t1 else None)
        )


def _prepared(scan: Scan, grid: VolumeGrid, region: str, t1: LeadingT1 | None) -> PreparedImage:
    frames = read_frames(scan)
    match scan.modality:
        case "t1":
            return prepare_t1(frames[0], grid, is_registered=scan.is_registered)
        case "flair":
            return prepare_flair(frames[0], grid, t1, is_registered=scan.is_registered)
        case _:
            seconds = scan.frames.durations_seconds if scan.frames else (1.0,) * len(frames)
            return prepare_pet(frames, seconds, region, grid, t1, is_registered=scan.is_registered)


def read_frames(scan: Scan) -> list[Image]:
    """A scan's frames, in the order of time; one for MRI. Raises BrokenVolume where a file cannot be used."""
    frames = []
    for file in scan.files:
        image = open_image(file)
        affine, voxels = checked_affine(image), checked_frames(image)
        frames += [Image(np.ascontiguousarray(voxels[..., i], np.float32), affine) for i in range(voxels.shape[3])]
    if scan.modality in ("t1", "flair") and len(frames) > 1:
        raise BrokenVolume(Reason.TOO_MANY_DIMENSIONS)
    if scan.frames and len(scan.frames.durations_seconds) != len(frames):
        raise BrokenVolume(Reason.OTHER_FRAME_TIMES)
    return frames


def _leading_t1(scan: Scan, derivatives: Sequence[Derivative]) -> Derivative | None:
    """The T1 that a scan follows: its session's, else the nearest in time; none that failed by itself."""
    t1s = [d for d in derivatives if d.scan.modality == "t1"]
    near = [d for d in t1s if _days_apart(d.scan, scan) <= FOLLOWS_WITHIN_DAYS]
    usable = [d for d in near if judge_alone(d.metrics).verdict is not Verdict.FAILED]
    return min(usable, key=lambda d: _days_apart(d.scan, scan), default=None)


def _days_apart(one: Scan, other: Scan) -> int:
    if one.session == other.session:
        return 0
    if one.taken is None or other.taken is None:
        return FOLLOWS_WITHIN_DAYS  # one subject's head: better led by another day's T1 than by none
    return abs((one.taken - other.taken).days)


def _recipe(scan: Scan, settings: PreparationSettings, leading: Derivative | None) -> str:
    """A digest of all that a prepared image depends on beside its source."""
    parts = {
        "prepared": settings.prepared_as(scan.modality, scan.tracer).model_dump(mode="json"),
        "grid": settings.grid.model_dump(mode="json"),
        "is_registered": scan.is_registered,
        "t1": leading.identity if leading else None,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
