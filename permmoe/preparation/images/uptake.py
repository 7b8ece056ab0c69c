"""PET: frames that were taken while the head moved become one image, and counts become uptake ratios."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from permmoe.config import VolumeGrid
from permmoe.data.image_file import BrokenVolume
from permmoe.data.reasons import Reason
from permmoe.preparation.images.image import Image, on_grid, onto
from permmoe.preparation.images.regions import region_mask
from permmoe.preparation.images.registration import frame_onto, moved_mm

LEAST_REFERENCE_VOXELS = 20
"""Of the reference region, inside the scan's field of view; fewer do not say what 1 is."""


@dataclass(frozen=True)
class Averaged:
    """One image of all frames."""

    image: Image
    motion_mm: float
    """How far a point of the brain's edge moved at most between a frame and the first; 0 where there is one frame."""


@dataclass(frozen=True)
class Uptake:
    """Uptake ratios on the template's grid."""

    ratios: Image
    reference: float
    """Mean of the reference region, in the scan's own unit."""
    reference_cv: float
    """SD over mean of the region's voxels: noise, or a map that misses it."""
    reference_voxels: int


def averaged(frames: Sequence[Image], durations_seconds: Sequence[float]) -> Averaged:
    """The mean of frames, each moved onto the first, weighted by how long it lasted."""
    first, *others = frames
    total, moved = first.voxels.astype(np.float64) * durations_seconds[0], 0.0
    for frame, seconds in zip(others, durations_seconds[1:], strict=True):
        matrix = frame_onto(first, frame)
        moved = max(moved, moved_mm(matrix, first))
        total = total + onto(frame, first, matrix).voxels * seconds
    return Averaged(first.with_voxels(total / sum(durations_seconds)), moved)


def uptake_ratios(pet: Image, grid: VolumeGrid, region: str) -> Uptake:
    """A PET image on the template's grid divided by its mean over a reference region.

    Raises BrokenVolume where the region lies outside of the scan's field, or holds no uptake.
    """
    mask = on_grid(region_mask(region), grid, np.eye(4))
    values = pet.voxels[(mask.voxels > 0.5) & (pet.voxels != 0)].astype(np.float64)
    if len(values) < LEAST_REFERENCE_VOXELS or not values.mean() > 0:
        raise BrokenVolume(Reason.NO_REFERENCE)
    reference = float(values.mean())
    ratios = pet.with_voxels(pet.voxels / np.float32(reference))
    return Uptake(ratios, reference, float(values.std() / reference), len(values))
