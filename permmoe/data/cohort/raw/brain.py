"""A subject's brain for a whole head: without noise, on 2 mm, and not cut off at the template's edge."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from jaxtyping import Bool, Float32
from scipy import ndimage
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from permmoe.config import VolumeGrid
from permmoe.data.cohort.anatomy import Anatomy, load_anatomy
from permmoe.data.cohort.imaging import paint, render, warped_tissue
from permmoe.data.cohort.realism import PLAIN, Realism
from permmoe.data.cohort.scanners import Scanner
from permmoe.data.cohort.settings import ImageModality
from permmoe.data.cohort.subjects import Subject

GRID = VolumeGrid(shape=(91, 109, 91), spacing_mm=2.0)
"""On which raw brains are drawn; whatever the cohort's grid."""

_BEYOND_VOXELS = 5
"""How far a brain larger than the template may reach beyond the template's edge."""
_LEAST_T1 = 0.05
"""Of the template, relative to its maximum; darker is no brain (permmoe.data.cohort.anatomy)."""

Volume = Float32[np.ndarray, "x y z"]


@dataclass(frozen=True)
class Brain:
    """One subject's brain on `GRID`."""

    images: dict[ImageModality, Volume]
    """MRI relative to white matter, PET in the ordinary image's ratios; blurred as the scanner blurs, without noise."""
    mask: Bool[np.ndarray, "x y z"]


def draw_brain(
    subject: Subject,
    scanner: Scanner,
    grid: VolumeGrid,
    seed: int,
    modalities: tuple[ImageModality, ...],
    realism: Realism = PLAIN,
) -> Brain:
    """The brain that the ordinary image on `grid` shows, but for misregistration: what prepares it leaves its own."""
    realism = realism.model_copy(update={"misregistration_mm": 0.0})
    anatomy, quiet = _wide_anatomy(), replace(scanner, mri_gain=1.0, mri_noise=0.0, pet_noise=0.0)
    with threadpool_limits(1):
        tissue = warped_tissue(subject, quiet, anatomy, seed, realism)
        images = paint(tissue, subject, quiet, anatomy, seed, modalities, realism)
        pet = tuple(name for name in modalities if name in ("amyloid", "tau"))
        ordinary = render(subject, scanner, load_anatomy(grid), seed, pet, realism)
    for name in pet:
        images[name] *= np.float32(_cerebellum(ordinary[name], load_anatomy(grid)) / _cerebellum(images[name], anatomy))
    mask = np.zeros(GRID.shape, bool)
    mask[anatomy.brain] = tissue.channels["t1"] > _LEAST_T1
    return Brain(images, np.asarray(ndimage.binary_fill_holes(mask)))


def _cerebellum(ratios: Volume, anatomy: Anatomy) -> float:
    """Mean uptake of the template's cerebellar grey matter."""
    weights = anatomy.channel("cerebellum") * (ratios > 0)
    return float(np.average(ratios, weights=weights))


@lru_cache(maxsize=1)
def _wide_anatomy() -> Anatomy:
    """The template on `GRID`, with the air around its brain."""
    narrow = load_anatomy(GRID)
    brain = ndimage.binary_dilation(narrow.brain, iterations=_BEYOND_VOXELS)
    points = np.stack(np.meshgrid(*narrow.axes_mm, indexing="ij"), axis=-1)[brain].astype(np.float32)

    def everywhere(pull: Float32[np.ndarray, "voxels 3"]) -> Float32[np.ndarray, "wide 3"]:
        wide = np.zeros((*GRID.shape, 3), np.float32)
        wide[narrow.brain] = pull
        return np.asarray(wide[brain])

    return replace(
        narrow,
        brain=brain,
        points_mm=points,
        ventricle_pull=everywhere(narrow.ventricle_pull),
        mesial_pull=everywhere(narrow.mesial_pull),
    )
