"""PET whose frames the scanner wrote as series of their own: series that follow each other in time are one scan.

Series are held against each other only where everything but their times is alike: patient, study, frame of reference,
day, tracer, description up to numbers, and voxels. Where all of them began together they are reconstructions of one
scan, of which one is taken; where each begins as the one before ends they are its frames. Anything else, an early scan
beside a late one or a scan that lacks a frame, cannot be told apart by its times: it is left out and named.

Frames may be corrected for decay to a moment of their own each, a factor that alters how much a frame counts in the
mean, and no ratio within it.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from itertools import pairwise

from permmoe.data.image_file import BrokenVolume
from permmoe.data.reasons import Reason
from permmoe.preparation.scan import Frames
from permmoe.preparation.sources.dicom_series import Series

LARGEST_GAP_SECONDS = 10.0
"""Between one frame's end and the next one's start: scanners pause for a moment."""

Parts = tuple[Series, ...]
"""The series of one scan, in the order of time."""


def alike(one: Series) -> Hashable | None:
    """What series that may be frames of one scan have in common; None for what is no single frame of PET."""
    first = one.first
    if first.scanner != "PT" or one.n_frames() != 1 or not first.frame_of_reference:
        return None
    described = re.sub(r"\d+", "", first.description)
    voxels = (first.orientation, first.spacing_mm, one.n_slices())
    return first.patient, first.study, first.frame_of_reference, one.taken, described, voxels


def scans_among(series: Sequence[Series]) -> list[Parts]:
    """The scans that series which are alike make: one of several frames, or each its own.

    Raises BrokenVolume, with the reason, where their times tell neither.
    """
    if len(series) == 1:
        return [(series[0],)]
    starts, durations = _starts(series), [one.first.frame_seconds for one in series]
    if starts is None or None in durations:
        raise BrokenVolume(Reason.FRAMES_APART)
    if len(set(starts)) == 1:
        return [(one,) for one in series]
    order = following([(start, duration or 0.0) for start, duration in zip(starts, durations, strict=True)])
    if order is None:
        raise BrokenVolume(Reason.FRAMES_APART)
    return [tuple(series[i] for i in order)]


def following(times: Sequence[tuple[float, float]]) -> list[int] | None:
    """The order in which frames of these starts and durations, seconds, follow each other; None where they do not."""
    order = sorted(range(len(times)), key=lambda i: times[i][0])
    for one, other in pairwise(order):
        start, duration = times[one]
        if abs(times[other][0] - start - duration) > min(LARGEST_GAP_SECONDS, duration / 2):
            return None
    return order


def frames_of_parts(parts: Parts) -> Frames:
    """When each part was taken, since the first began."""
    starts = _starts(parts)
    assert starts is not None
    durations = tuple(float(one.first.frame_seconds or 0) for one in parts)
    return Frames(tuple(start - starts[0] for start in starts), durations)


def _starts(series: Sequence[Series]) -> list[float] | None:
    """When each began, seconds, from one clock: the time of day, or, where that is the same for all, the time since the
    scan's start, which is told of a frame's middle. None where it is not told of all."""
    clock = [one.first.seconds for one in series]
    middles = [one.first.reference_seconds for one in series]
    if None in clock:
        return None
    if len(set(clock)) == 1 and None not in middles:
        return [(m or 0) - (one.first.frame_seconds or 0) / 2 for m, one in zip(middles, series, strict=True)]
    return [float(time or 0) for time in clock]
