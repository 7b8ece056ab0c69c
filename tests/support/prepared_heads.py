"""Heads as a preparation leaves them, well or badly: the template brain, warped into another person's and moved."""

from __future__ import annotations

from functools import cache

import numpy as np
from jaxtyping import Bool, Float32, Float64
from scipy import ndimage

from permmoe.config import VolumeGrid
from permmoe.data.volumes import grid_affine
from permmoe.preparation.quality.reference_brain import reference_brain

GRID = VolumeGrid()
"""48×56×48 voxels of 4 mm."""
CENTRE_MM = np.array([0.0, -20.0, 10.0])
WARP_MM, WARP_SCALE_MM = 2.0, 25.0

Volume = Float32[np.ndarray, "x y z"]
Mask = Bool[np.ndarray, "x y z"]
Affine = Float64[np.ndarray, "4 4"]

T1, FLAIR, AMYLOID, TAU = (0.7, 1.0, 0.25), (1.0, 0.8, 0.2), (1.5, 1.6, 0.5), (1.2, 1.0, 0.7)
"""Brightness of grey matter, white matter and fluid."""


def head(contrast: tuple[float, float, float] = T1, *, place: Affine | None = None, seed: int = 0) -> Volume:
    """An invented person's brain, 0 around it; `place` moves it about in template space."""
    return _moved(_person(contrast, seed), place).copy()


def mask(*, place: Affine | None = None, seed: int = 0) -> Mask:
    """The same person's brain mask."""
    found: Mask = _moved(_outline(seed), place) > 0.5
    return found


@cache
def _person(contrast: tuple[float, float, float], seed: int) -> Volume:
    bright = sum(value * tissue for value, tissue in zip(contrast, reference_brain(GRID).tissues, strict=True))
    noise = np.random.default_rng(seed + 1000).normal(0, 0.02, GRID.shape)
    brain = ndimage.map_coordinates(bright, _warped(seed), order=1) * np.exp(noise)
    return np.where(_outline(seed) > 0.5, brain, 0).astype(np.float32)


@cache
def _outline(seed: int) -> Volume:
    brain: Volume = ndimage.map_coordinates(reference_brain(GRID).brain.astype(np.float32), _warped(seed), order=1)
    return brain


def turned(axis: int, degrees: float) -> Affine:
    """A turn about an axis through the brain's centre."""
    i, j = (k for k in range(3) if k != axis)
    linear, angle = np.eye(3), np.radians(degrees)
    linear[i, i] = linear[j, j] = np.cos(angle)
    linear[i, j], linear[j, i] = -np.sin(angle), np.sin(angle)
    return _about_centre(linear)


def shifted(axis: int, millimetres: float) -> Affine:
    """A shift along an axis."""
    place = np.eye(4)
    place[axis, 3] = millimetres
    return place


def scaled(*factors: float) -> Affine:
    """A scaling about the brain's centre, by one factor or by one for each axis."""
    return _about_centre(np.diag(np.broadcast_to(np.array(factors), 3).astype(np.float64)))


def true_error_mm(place: Affine) -> float:
    """The mean distance by which a move displaces the brain's voxels."""
    to_mm = grid_affine(GRID)
    points = np.argwhere(reference_brain(GRID).brain) @ to_mm[:3, :3].T + to_mm[:3, 3]
    return float(np.linalg.norm(points @ place[:3, :3].T + place[:3, 3] - points, axis=1).mean())


@cache
def _warped(seed: int) -> Float64[np.ndarray, "3 x y z"]:
    """Where each voxel of a person's brain lies in the template's, in voxels."""
    rng = np.random.default_rng(seed)
    sigma = WARP_SCALE_MM / GRID.spacing_mm
    noise = np.stack([ndimage.gaussian_filter(rng.normal(size=GRID.shape), sigma) for _ in range(3)])
    places: Float64[np.ndarray, "3 x y z"] = np.indices(GRID.shape) + noise / noise.std() * (WARP_MM / GRID.spacing_mm)
    return places


def _moved(volume: Volume, place: Affine | None) -> Volume:
    if place is None:
        return volume
    to_mm = grid_affine(GRID)
    back = np.linalg.inv(to_mm) @ np.linalg.inv(place) @ to_mm
    moved: Volume = ndimage.affine_transform(volume, back[:3, :3], back[:3, 3], order=1)
    return moved


def _about_centre(linear: Float64[np.ndarray, "3 3"]) -> Affine:
    place = np.eye(4)
    place[:3, :3], place[:3, 3] = linear, CENTRE_MM - linear @ CENTRE_MM
    return place
