"""PET whose frames are image files of their own: files that follow each other in time are one scan.

`…_trc-18FAV45_frame-01_pet.nii.gz` says that it is a frame; `…_run-1_pet.nii.gz` may be a frame, a repetition or a
reconstruction. Their sidecars tell: `FrameTimesStart` and `FrameDuration` of each file, from one `TimeZero`, or with
an `AcquisitionTime` where each counts from its own start; or of all frames in one sidecar, in the order of their
numbers. Where nothing tells, no file is taken for the whole scan.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from permmoe.data.image_file import BrokenVolume, checked_affine, open_image
from permmoe.data.image_names import stem
from permmoe.data.reasons import Reason
from permmoe.preparation.scan import Frames
from permmoe.preparation.sources.pet_frames import following
from permmoe.preparation.sources.sidecars import frames_of, seconds_of

_FRAME = re.compile(r"_frame-?(\d+)(?=[_.]|$)", re.IGNORECASE)
_RUN = re.compile(r"_run-?(\d+)(?=[_.]|$)", re.IGNORECASE)
_CLOCK = re.compile(r"(\d{1,2}):(\d{2}):(\d{2}(?:\.\d*)?)")

Parts = tuple[tuple[Path, ...], Frames | None]
"""The files of one scan, in the order of time, and their times; None for a single file."""


@dataclass(frozen=True)
class FrameFile:
    """A PET image of one volume that may be a frame of a scan."""

    file: Path
    said: Mapping[str, Any]
    """What its sidecars say."""
    number: int | None = None
    """Of the frame or run; None where nothing numbers it."""


def scan_name(file: Path) -> tuple[str, bool] | None:
    """What the names of the files of one scan have in common, and whether they say that they are frames.

    None for a name without the number of a frame or run.
    """
    name = stem(file)
    for pattern, is_frame in ((_FRAME, True), (_RUN, False)):
        if pattern.search(name):
            return pattern.sub("", name), is_frame
    return None


def number_of(file: Path) -> int | None:
    """The number of the frame, or else of the run, in a file's name."""
    match = _FRAME.search(stem(file)) or _RUN.search(stem(file))
    return int(match[1]) if match else None


def grid_of(file: Path) -> Hashable:
    """What images of as many volumes on the same voxels have in common. Raises BrokenVolume for an unreadable one."""
    image = open_image(file, is_whole=False)
    return image.shape[:3], math.prod(image.shape[3:]), tuple(np.round(checked_affine(image), 2).ravel().tolist())


def scans_among(files: Sequence[FrameFile], *, are_frames: bool) -> list[Parts]:
    """The scans that files of one name, or of one series, make: one of several frames, or each its own.

    `are_frames`: each is known to be a frame of one scan. Without that they are on one grid. Raises BrokenVolume, with
    the reason, where what is known makes no whole scan.
    """
    ordered = sorted(files, key=lambda one: (one.number or 0, one.file))
    if len(files) == 1 and not are_frames:
        return [_alone(ordered[0])]
    if are_frames and not (_are_numbered_through(ordered) and len({grid_of(one.file) for one in files}) == 1):
        raise BrokenVolume(Reason.FRAME_FILES_APART)
    times = _listed_times(ordered) or _own_times(ordered)
    if times is None:
        raise BrokenVolume(Reason.FRAME_FILES_APART)
    if not are_frames and len({start for start, _ in times}) == 1:
        return [_alone(one) for one in ordered]
    order = following(times)
    if order is None:
        raise BrokenVolume(Reason.FRAME_FILES_APART)
    first = times[order[0]][0]
    frames = Frames(tuple(times[i][0] - first for i in order), tuple(times[i][1] for i in order))
    return [(tuple(ordered[i].file for i in order), frames if len(files) > 1 else None)]


def _alone(one: FrameFile) -> Parts:
    return (one.file,), frames_of(one.said, 1)


def _are_numbered_through(ordered: Sequence[FrameFile]) -> bool:
    """Whether no number is missing or there twice; so it is where nothing is numbered."""
    numbers = [one.number for one in ordered]
    return set(numbers) == {None} or numbers in ([*range(len(numbers))], [*range(1, len(numbers) + 1)])


def _listed_times(ordered: Sequence[FrameFile]) -> list[tuple[float, float]] | None:
    """Start and duration of each, where one sidecar lists those of all in the order of their numbers."""
    starts, durations = (
        {seconds_of(one.said.get(key)) for one in ordered} for key in ("FrameTimesStart", "FrameDuration")
    )
    if len(starts) > 1 or len(durations) > 1 or len(ordered) == 1 or not _are_numbered_through(ordered):
        return None
    [start], [duration] = starts, durations
    is_of_all = len(start) == len(duration) == len(ordered) and None not in {one.number for one in ordered}
    return list(zip(start, duration, strict=True)) if is_of_all else None


def _own_times(ordered: Sequence[FrameFile]) -> list[tuple[float, float]] | None:
    """Start and duration of each by its own sidecar, seconds, from one clock; None where they are not told of all."""
    starts, durations = (
        [seconds_of(one.said.get(key)) for one in ordered] for key in ("FrameTimesStart", "FrameDuration")
    )
    if any(len(told) != 1 or told[0] < 0 for told in (*starts, *durations)):
        return None
    since_zero = [start[0] for start in starts]
    zeros, clock = ([_time_of_day(one.said.get(key)) for one in ordered] for key in ("TimeZero", "AcquisitionTime"))
    if len(ordered) > 1 and len({*since_zero}) == 1 and None in zeros:
        since_zero = [time for time in clock if time is not None]
    elif None not in zeros:
        since_zero = [(zero or 0) + start for zero, start in zip(zeros, since_zero, strict=True)]
    if len(since_zero) != len(ordered):
        return None
    return [(start, duration[0]) for start, duration in zip(since_zero, durations, strict=True)]


def _time_of_day(text: object) -> float | None:
    """Seconds since midnight of `10:16:12.5`; None for anything else."""
    match = _CLOCK.fullmatch(str(text or "").strip())
    return int(match[1]) * 3600 + int(match[2]) * 60 + float(match[3]) if match else None
