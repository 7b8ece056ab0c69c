"""The template brain on the grid of prepared images: what every one of them is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float32
from scipy import ndimage

from permmoe.config import VolumeGrid
from permmoe.data.template import read_template, template_axes
from permmoe.data.volumes import grid_affine
from permmoe.preparation.quality.second_opinion import Tissues, on_lattice

SMOOTHING = 0.42
"""Standard deviation of the Gaussian before sampling, in steps of the grid: as sharp as it can be without aliasing."""
CORTEX_ABOVE_MM = 15.0
"""Grey matter higher than this is cortex: cerebellum, brain stem and basal ganglia lie lower."""


@dataclass(frozen=True)
class ReferenceBrain:
    """The template on a grid. Tissues are shares of a voxel, 0 to 1."""

    t1: Float32[np.ndarray, "x y z"]
    tissues: Float32[np.ndarray, "3 x y z"]
    """Grey matter, white matter, and fluid, which is the rest of the brain's mask."""
    brain: Bool[np.ndarray, "x y z"]
    inside_mm: Float32[np.ndarray, "x y z"]
    """Distance from the brain's surface: positive inside, negative outside."""
    white: Bool[np.ndarray, "x y z"]
    """Voxels of white matter alone."""
    grey: Bool[np.ndarray, "x y z"]
    """Voxels that are mostly grey matter."""
    fluid: Bool[np.ndarray, "x y z"]
    """Voxels of fluid well inside the brain: the ventricles."""
    cortex: Bool[np.ndarray, "x y z"]
    """Grey matter above the basal ganglia."""
    tissues_on_lattice: Tissues


@lru_cache(maxsize=2)
def reference_brain(grid: VolumeGrid) -> ReferenceBrain:
    """The template on a grid, read once a process. Raises DataError where nilearn's data are not installed."""
    t1, grey, white = (_sampled(read_template(name), grid) for name in ("t1", "gm", "wm"))
    share = _sampled((read_template("t1") > 0).astype(np.float32), grid)
    brain = share > 0.5
    fluid = np.clip(share - grey - white, 0, 1)
    tissues = np.stack([grey, white, fluid])
    outside = ndimage.distance_transform_edt(~brain)
    inside_mm = (grid.spacing_mm * (ndimage.distance_transform_edt(brain) - outside)).astype(np.float32)
    heights_mm = grid_affine(grid)[2, 3] + grid.spacing_mm * np.arange(grid.shape[2])
    return ReferenceBrain(
        t1=t1,
        tissues=tissues,
        brain=brain,
        inside_mm=inside_mm,
        white=white > 0.9,
        grey=grey > 0.7,
        fluid=(fluid > 0.7) & (inside_mm > 20),
        cortex=(grey > 0.7) & (heights_mm > CORTEX_ABOVE_MM),
        tissues_on_lattice=np.stack([on_lattice(tissue, grid) for tissue in tissues]),
    )


def _sampled(volume: Float32[np.ndarray, "a b c"], grid: VolumeGrid) -> Float32[np.ndarray, "x y z"]:
    """The 1 mm template, smoothed to what the grid resolves, at the grid's voxel centres."""
    smooth = ndimage.gaussian_filter(volume, SMOOTHING * grid.spacing_mm, truncate=3)
    places = grid_affine(grid)
    first = np.array([axis[0] for axis in template_axes()])
    sampled: Float32[np.ndarray, "x y z"] = ndimage.affine_transform(
        smooth, np.full(3, grid.spacing_mm), places[:3, 3] - first, output_shape=grid.shape, order=1
    )
    return sampled
