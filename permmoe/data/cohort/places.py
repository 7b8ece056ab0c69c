"""Where in a region a pathology lies: more of it in the back, as much less in the front, or the other way."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32

CONTRAST = 0.35
"""How much more of a pathology lies where its pattern puts it, per standard deviation of the pattern and of place."""

Voxels = Float32[np.ndarray, " voxels"]


def by_place(region: Voxels, pattern: float, points_mm: Float32[np.ndarray, "voxels 3"]) -> Voxels | None:
    """What a pattern (`permmoe.data.cohort.disease.Patterns`) multiplies a pathology with, voxel by voxel.

    The region's average stays, as long as no voxel is emptied. None for the average pattern.
    """
    if not pattern:
        return None
    return np.asarray(np.clip(1 + np.float32(CONTRAST * pattern) * backwards(region, points_mm), 0, None))


def backwards(region: Voxels, points_mm: Float32[np.ndarray, "voxels 3"]) -> Voxels:
    """How far back in a region each voxel lies, in standard deviations of place up to 2; its mean there is 0.

    `region` is the share of each voxel that belongs to it; `points_mm` has y from the back to the front.
    """
    y, total = points_mm[:, 1], max(float(region.sum()), 1e-6)
    middle = float((region * y).sum()) / total
    spread = (float((region * (y - np.float32(middle)) ** 2).sum()) / total) ** 0.5
    back = np.clip((np.float32(middle) - y) / np.float32(max(spread, 1.0)), -2, 2)
    return np.asarray(back - np.float32((region * back).sum() / total))
