"""What registration leaves: each image lies a little off the template, every modality by itself."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32

from permmoe.data.cohort.randomness import Purpose, stream
from permmoe.data.cohort.settings import MODALITIES, ImageModality

HEAD_RADIUS_MM = 60.0
"""Root mean square distance of the brain's voxels from its middle, about: the lever of a rotation."""


def displacement_mm(
    points_mm: Float32[np.ndarray, "voxels 3"], seed: int, subject: int, modality: ImageModality, rms_mm: float
) -> Float32[np.ndarray, "voxels 3"]:
    """How far each point of an image lies off, millimetres: a shift and a small rotation about the points' middle.

    Over subjects the root mean square is `rms_mm`, half of the square each from shift and rotation; twice the size is
    the same directions twice as far.
    """
    drawn = stream(seed, Purpose.MISREGISTRATION, subject).standard_normal((len(MODALITIES), 2, 3))
    shift, turn = drawn[MODALITIES.index(modality)]
    from_middle = points_mm - points_mm.mean(axis=0)
    rotated = np.cross(turn / (2 * HEAD_RADIUS_MM), from_middle)
    return np.asarray(rms_mm * (shift / 6**0.5 + rotated), np.float32)
