"""The regions by whose names reasons are given: coarse ones, cut in code, so that nobody's label map is in them.

A voxel of the template's tissue (ICBM152, which nilearn packages; free to use, copy, modify and distribute) belongs to
the region of the nearest ball around published coordinates, which carry the names of Tzourio-Mazoyer et al. 2002
(NeuroImage 15:273), put together until a region is not much smaller than a cell of a pooled encoder (16 mm). Deep white
matter and ventricles are told by tissue first. It is an atlas for names, not for volumetry.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Float64, UInt8
from torch import Tensor

from permmoe.config import VolumeGrid
from permmoe.data.cohort import regions as places
from permmoe.data.cohort.regions import Ball
from permmoe.data.template import read_template, template_axes
from permmoe.data.volumes import grid_affine

ATLAS = "coarse regions around the parcel centres of Tzourio-Mazoyer et al. 2002, cut out of ICBM152 tissue"
OUTSIDE = "outside of the brain"

PAIRED: Mapping[str, tuple[Ball, ...]] = {
    "medial temporal lobe": (
        *places.HIPPOCAMPUS, *places.ENTORHINAL, *places.AMYGDALA, *places.PARAHIPPOCAMPAL,
    ),
    "inferior and middle temporal": (*places.INFERIOR_TEMPORAL, *places.MIDDLE_TEMPORAL, *places.TEMPORAL_POLE),
    "superior temporal and insula": (*places.SUPERIOR_TEMPORAL, *places.INSULA, (46, -17, 10, 10)),
    "fusiform and lingual": (*places.FUSIFORM, *places.LINGUAL),
    "precuneus and posterior cingulate": (*places.PRECUNEUS, *places.POSTERIOR_CINGULATE),
    "lateral parietal": (*places.INFERIOR_PARIETAL, *places.SUPERIOR_PARIETAL),
    "sensorimotor": ((41, -8, 52, 13), (41, -25, 53, 13), (8, 0, 62, 12), (7, -32, 68, 10), (53, -6, 15, 9)),
    "lateral frontal": places.LATERAL_FRONTAL,
    "medial frontal and anterior cingulate": (*places.MEDIAL_FRONTAL, *places.ANTERIOR_CINGULATE),
    "orbitofrontal": places.ORBITOFRONTAL,
    "occipital": (*places.LATERAL_OCCIPITAL, *places.CUNEUS, (16, -73, 9, 11)),
    "basal ganglia and thalamus": (*places.STRIATUM, (13, -18, 8, 10)),
    "cerebellum": places.CEREBELLUM,
}  # fmt: skip
"""By name, the balls of the right hemisphere; the left has their mirror images. Beside those of the cohort's regions:
Heschl's gyrus, pre- and postcentral, supplementary motor area, paracentral, Rolandic, calcarine, thalamus. Each is
within 1 mm of the right parcel's centroid in the table `aal116` of the R package brainGraph 3.0.3 (C. G. Watson). The
left centroid is 2 to 7 mm from the mirror image, the calcarine one 11 mm: the brain that was labelled is no mirror."""
BRAINSTEM, VENTRICLES, WHITE = "brainstem", "lateral ventricle", "deep white matter"
SIDES = ("left", "right")
REGIONS: tuple[str, ...] = (
    *(f"{side} {name}" for name in (*PAIRED, VENTRICLES, WHITE) for side in SIDES), BRAINSTEM, OUTSIDE,
)  # fmt: skip
"""Every voxel is in one of these."""

DISPLAY = VolumeGrid(shape=(96, 112, 96), spacing_mm=2.0)
"""The grid of pictures: voxels of 2 mm over the field of the default grid."""
WHITE_ABOVE, FLUID_ABOVE = 0.85, 0.5
"""Shares of a voxel, smoothed over its surroundings, from which it is deep white matter or ventricle."""

Labels = UInt8[np.ndarray, "x y z"]
Shares = Float[Tensor, "region x y z"]


@lru_cache(maxsize=4)
def labels(grid: VolumeGrid) -> Labels:
    """Each voxel's region, as its place in `REGIONS`. Raises DataError where nilearn's data are not installed."""
    white, grey, brain = (_on(grid, volume) for volume in _tissues())
    found = np.full(grid.shape, REGIONS.index(OUTSIDE), np.uint8)
    inside = brain > 0
    points = grid_affine(grid)[:3, 3] + grid.spacing_mm * np.argwhere(inside)
    own, is_left = _nearest(points), points[:, 0] < 0
    below = [REGIONS.index(name) for name in (*(f"{side} cerebellum" for side in SIDES), BRAINSTEM)]
    is_white = ~np.isin(own, below) & (white[inside] > WHITE_ABOVE)
    is_fluid = (brain - grey - white)[inside] > FLUID_ABOVE
    is_fluid &= places.membership(points, places.VENTRICLES) > 0.5
    for name, where in ((WHITE, is_white), (VENTRICLES, is_fluid)):
        left, right = (REGIONS.index(f"{side} {name}") for side in SIDES)
        own[where] = np.where(is_left[where], left, right)
    found[inside] = own
    return found


@lru_cache(maxsize=4)
def cell_shares(grid: VolumeGrid, cells: tuple[int, int, int]) -> Shares:
    """How much of each cell of a coarse grid belongs to each region: the shares of a cell add up to 1.

    The brain's regions divide a cell that shows any of the brain, since what lies beside them in it is the same in all
    images; a cell without brain is outside.
    """
    found = torch.from_numpy(labels(grid).astype(np.int64))
    pooled = torch.stack([
        F.adaptive_avg_pool3d((found == place).float()[None], cells)[0] for place in range(len(REGIONS))
    ])  # fmt: skip
    of_brain = pooled[:-1].sum(0)
    shares = torch.where(of_brain > 0, pooled / of_brain.clamp(min=1e-12), 0.0)
    shares[-1] = (of_brain == 0).float()
    return shares


@lru_cache(maxsize=1)
def display_t1() -> Float32[np.ndarray, "x y z"]:
    """The template's T1 on the grid of pictures, 0 to 1."""
    return _on(DISPLAY, read_template("t1"))


@lru_cache(maxsize=1)
def _tissues() -> tuple[Float32[np.ndarray, "a b c"], Float32[np.ndarray, "a b c"], Float32[np.ndarray, "a b c"]]:
    """White and grey matter, and where the brain is."""
    # Of 5 mm: what is white matter over a cube of that size is deep.
    from scipy.ndimage import uniform_filter

    white = uniform_filter(read_template("wm"), 5)
    return white, read_template("gm"), (read_template("t1") > 0).astype(np.float32)


def _on(grid: VolumeGrid, volume: Float32[np.ndarray, "a b c"]) -> Float32[np.ndarray, "x y z"]:
    """The nearest voxels of a 1 mm volume of the template; 0 beyond its field."""
    affine = grid_affine(grid)
    centres = [affine[axis, 3] + grid.spacing_mm * np.arange(n) for axis, n in enumerate(grid.shape)]
    rows = [np.rint(own - axis[0]).astype(np.int64) for own, axis in zip(centres, template_axes(), strict=True)]
    is_in = [(row >= 0) & (row < n) for row, n in zip(rows, volume.shape, strict=True)]
    values = np.zeros(grid.shape, np.float32)
    values[np.ix_(*is_in)] = volume[np.ix_(*(row[there] for row, there in zip(rows, is_in, strict=True)))]
    return values


def _nearest(points: Float64[np.ndarray, "voxel 3"]) -> UInt8[np.ndarray, " voxel"]:
    """The region of the ball whose surface is nearest, or deepest around the point."""
    mirrored = np.abs(points[:, 0]).astype(np.float32), *points[:, 1:].T.astype(np.float32)
    least = np.full(len(points), np.inf, np.float32)
    winner = np.zeros(len(points), np.uint8)
    is_right = points[:, 0] >= 0
    for name, balls in {**PAIRED, BRAINSTEM: places.BRAINSTEM}.items():
        left, right = (REGIONS.index(name),) * 2 if name == BRAINSTEM else map(
            REGIONS.index, (f"{side} {name}" for side in SIDES)
        )  # fmt: skip
        for *centre, radius in balls:
            squared = sum((axis - np.float32(c)) ** 2 for axis, c in zip(mirrored, centre, strict=True))
            distance = np.sqrt(squared) - np.float32(radius)
            is_nearer = distance < least
            least[is_nearer] = distance[is_nearer]
            winner[is_nearer] = np.where(is_right[is_nearer], right, left)
    return winner
