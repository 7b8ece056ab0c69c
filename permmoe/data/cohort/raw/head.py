"""What is around a brain: fluid, skull, scalp, eyes, face and neck, drawn from the brain's outline and smooth fields.

Millimetres are the template's. Shapes and thicknesses are those of adults; no face is anybody's.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from scipy import ndimage

from permmoe.data.cohort.anatomy import grid_axes
from permmoe.data.cohort.fields import draw_coefficients, separable, spline_bases
from permmoe.data.cohort.raw.brain import GRID

SPACING_MM = GRID.spacing_mm
AXES_MM = (np.arange(-104.0, 105, 2), np.arange(-146.0, 117, 2), np.arange(-164.0, 115, 2))
"""Voxel centres of the head's grid, which holds those of the brain's."""
_FIELD_MM = 40.0
_BASES = spline_bases(AXES_MM, _FIELD_MM)

Mask = Bool[np.ndarray, "x y z"]
Volume = Float32[np.ndarray, "x y z"]
Line = Float32[np.ndarray, "_ _ _"]
"""One coordinate of all voxels, mm, along one axis or all of them."""
Millimetres = tuple[int, int, int]


class Tissue(IntEnum):
    """What a voxel of the head is made of."""

    AIR = 0
    BRAIN = 1
    FLUID = 2
    BONE = 3
    MARROW = 4
    FAT = 5
    SKIN = 6
    MUSCLE = 7
    EYE = 8
    MUCOSA = 9
    CORD = 10


@dataclass(frozen=True)
class Head:
    """Tissue on the head's grid, and how it shines."""

    tissue: UInt8[np.ndarray, "x y z"]
    texture: Volume
    """A factor on the signal of everything but the brain."""

    def around(self, signal: dict[Tissue, float], fwhm_mm: float) -> Volume:
        """The signal of all but the brain, blurred by the scanner; the brain's own part is 0 before the blur."""
        table = np.array([signal.get(kind, 0.0) for kind in Tissue], np.float32)
        table[Tissue.BRAIN] = 0
        sigma = fwhm_mm / 2.3548 / SPACING_MM
        return np.asarray(ndimage.gaussian_filter(table[self.tissue] * self.texture, sigma, truncate=3.0))


def on_head_grid(volume: Float32[np.ndarray, "i j k"]) -> Volume:
    """A volume of the brain's grid on the head's, 0 around it."""
    whole = np.zeros([len(axis) for axis in AXES_MM], volume.dtype)
    starts = [int(np.searchsorted(axis, brain[0])) for axis, brain in zip(AXES_MM, grid_axes(GRID), strict=True)]
    x, y, z = (slice(start, start + n) for start, n in zip(starts, volume.shape, strict=True))
    whole[x, y, z] = volume
    return whole


def draw_head(brain: Mask, rng: np.random.Generator) -> Head:
    """A head around the brain's mask (on the brain's grid); equal generators give equal heads."""
    brain = on_head_grid(brain.astype(np.float32)) > 0
    cavity = _cavity(brain)
    outside_mm = ndimage.distance_transform_edt(~cavity, SPACING_MM).astype(np.float32)
    rim, skull, scalp = (
        np.clip(mean + spread * _field(rng), least, most)
        for mean, spread, least, most in ((1.8, 0.5, 1.0, 3.5), (6.8, 1.2, 5.0, 10.0), (6.0, 1.5, 3.0, 11.0))
    )
    x, y, z = (axis.astype(np.float32) for axis in np.meshgrid(*AXES_MM, indexing="ij", sparse=True))
    outline = (outside_mm < rim + skull + scalp) & _above_base(y, z) | _face_and_neck(x, y, z, _field(rng))
    outline = ndimage.gaussian_filter(outline.astype(np.float32), 2.0) > 0.45
    outline |= outside_mm < rim + skull + 3
    depth_mm = ndimage.distance_transform_edt(outline, SPACING_MM).astype(np.float32)

    tissue = np.where(outline, np.uint8(Tissue.MUSCLE), np.uint8(Tissue.AIR))
    streaks = _field(rng) + 0.8 * ndimage.gaussian_filter(rng.standard_normal(tissue.shape, np.float32), 2.0) * 20
    tissue[outline & (streaks > 2.1)] = Tissue.FAT
    tissue[outline & (depth_mm < 0.8 * scalp)] = Tissue.FAT
    _put_face(tissue, outline, x, y, z)
    _put_spine(tissue, outline, x, y, z)
    _put_skull(tissue, outside_mm, rim, skull)
    tissue[outline & (depth_mm <= SPACING_MM)] = Tissue.SKIN
    _open_foramen(tissue, brain, x, y, z)
    tissue[cavity] = Tissue.FLUID
    tissue[brain] = Tissue.BRAIN
    grain = ndimage.gaussian_filter(rng.standard_normal(tissue.shape, np.float32), 0.8)
    texture = np.clip(1 + np.float32(0.35) * grain + np.float32(0.06) * _field(rng), 0.4, 1.6)
    return Head(tissue, texture)


def _field(rng: np.random.Generator) -> Volume:
    return separable(draw_coefficients(rng, _FIELD_MM), _BASES)


def _cavity(brain: Mask) -> Mask:
    """The brain with its clefts filled: what the skull encloses."""
    near = ndimage.distance_transform_edt(~brain, SPACING_MM) <= 8
    return np.asarray((ndimage.distance_transform_edt(near, SPACING_MM) > 8) | brain)


def _ellipsoid(x: Line, y: Line, z: Line, centre: Millimetres, radii: Millimetres) -> Line:
    """Distance from the surface, mm, about right near it; below 0 inside."""
    scaled = [(axis - c) / r for axis, c, r in zip((x, y, z), centre, radii, strict=True)]
    return np.asarray((np.sqrt(sum(s * s for s in scaled)) - 1) * min(radii))


def _above_base(y: Line, z: Line) -> Bool[np.ndarray, "_ _ _"]:
    """Above a plane from the root of the nose to the nape, where scalp lies on the skull."""
    return np.asarray(z > -42 + 0.18 * y)


def _face_and_neck(x: Line, y: Line, z: Line, unevenness: Volume) -> Mask:
    """Neck, jaw, cheeks, chin and nose, each a smooth body, with a smooth surface over all."""
    mirrored = np.abs(x)
    lower = np.clip(-80 - z, 0, None)
    neck = np.hypot(x / np.float32(60), (y + 34 + 0.12 * lower) / np.float32(58)) * 58 - 58
    bodies = (
        np.where(z < -30, neck, 99),
        _ellipsoid(x, y, z, (0, 32, -62), (66, 58, 52)),
        _ellipsoid(x, y, z, (0, 52, -102), (38, 34, 28)),
        _ellipsoid(x, y, z, (0, 89, -48), (14, 20, 19)),
        _ellipsoid(mirrored, y, z, (33, 62, -36), (24, 22, 22)),
    )
    # A smooth minimum: bodies that touch run into one another without a crease.
    blend = np.float32(6)
    together = -blend * np.log(sum(np.exp(-np.clip(body, -60, 60) / blend) for body in bodies))
    return np.asarray(together < 1.5 * unevenness)


def _put_face(tissue: UInt8[np.ndarray, "x y z"], outline: Mask, x: Line, y: Line, z: Line) -> None:
    """Bones of the face, its cavities, tongue and throat, and the eyes in their fat."""
    mirrored = np.abs(x)

    def fill(kind: Tissue, centre: Millimetres, radii: Millimetres) -> None:
        tissue[outline & (_ellipsoid(mirrored, y, z, centre, radii) < 0)] = kind

    fill(Tissue.BONE, (0, 58, -74), (34, 24, 8))
    fill(Tissue.MARROW, (0, 52, -74), (28, 18, 5))
    for side, depth in ((20, 66), (34, 48), (42, 28)):
        fill(Tissue.BONE, (side, depth, -104), (9, 12, 9))
        fill(Tissue.MARROW, (side, depth, -104), (5, 8, 5))
    fill(Tissue.BONE, (50, 4, -84), (6, 14, 28))
    fill(Tissue.MARROW, (50, 4, -84), (3, 9, 22))
    fill(Tissue.BONE, (48, 44, -44), (12, 14, 6))
    fill(Tissue.MUCOSA, (0, 50, -46), (15, 34, 22))
    fill(Tissue.AIR, (5, 52, -46), (3, 30, 17))
    fill(Tissue.BONE, (27, 46, -52), (16, 20, 17))
    fill(Tissue.AIR, (27, 46, -52), (13, 17, 14))
    fill(Tissue.BONE, (0, 20, -36), (17, 16, 12))
    fill(Tissue.AIR, (6, 20, -36), (7, 12, 8))
    fill(Tissue.BONE, (50, -28, -44), (13, 14, 12))
    fill(Tissue.AIR, (50, -30, -46), (5, 6, 6))
    fill(Tissue.FAT, (31, 48, -36), (18, 30, 17))
    fill(Tissue.MUSCLE, (31, 42, -25), (3, 20, 2))
    fill(Tissue.MUSCLE, (31, 42, -47), (3, 20, 2))
    fill(Tissue.MUSCLE, (26, 40, -36), (3, 20, 3))
    fill(Tissue.SKIN, (33, 66, -36), (14, 14, 14))
    fill(Tissue.EYE, (33, 66, -36), (12, 12, 12))
    throat = np.hypot(x / np.float32(11), (y - 2) / np.float32(7)) < 1
    tissue[outline & throat & (z < -58)] = Tissue.AIR


def _put_spine(tissue: UInt8[np.ndarray, "x y z"], outline: Mask, x: Line, y: Line, z: Line) -> None:
    """Vertebrae with discs between them, and the cord in its canal."""
    below = z < -70
    body = np.hypot(x, (y + 22) / np.float32(0.85))
    arch = np.hypot(x / np.float32(1.3), y + 48)
    disc = (np.mod(z + 200, 18) < 5) & (body < 12)
    tissue[outline & below & ((body < 14) | (arch < 15))] = Tissue.BONE
    tissue[outline & below & (body < 11)] = Tissue.MARROW
    tissue[outline & below & disc] = Tissue.MUSCLE
    canal = np.hypot(x / np.float32(1.2), y + 43)
    tissue[outline & below & (canal < 10)] = Tissue.FLUID
    tissue[outline & below & (canal < 5.5)] = Tissue.CORD


def _put_skull(tissue: UInt8[np.ndarray, "x y z"], outside_mm: Volume, rim: Volume, skull: Volume) -> None:
    """Two tables of bone with marrow between them, right outside the fluid."""
    depth = outside_mm - rim
    tissue[depth < skull] = Tissue.BONE
    tissue[(depth > 0.40 * skull) & (depth < 0.68 * skull)] = Tissue.MARROW
    tissue[depth < 0] = Tissue.FLUID


def _open_foramen(tissue: UInt8[np.ndarray, "x y z"], brain: Mask, x: Line, y: Line, z: Line) -> None:
    """The cord goes on where the template's brain stem ends."""
    lowest = AXES_MM[2][np.flatnonzero(brain.any(axis=(0, 1)))[0]]
    stem = brain[:, :, np.searchsorted(AXES_MM[2], lowest) + 1]
    if not stem.any():
        return
    centre = [axis[np.round(c).astype(int)] for axis, c in zip(AXES_MM, ndimage.center_of_mass(stem), strict=False)]
    radius = np.hypot(x - np.float32(centre[0]), y - np.float32(centre[1]))
    opening = (z < lowest + 4) & (z > lowest - 30)
    tissue[opening & (radius < 12)] = Tissue.FLUID
    tissue[opening & (radius < 6)] = Tissue.CORD
