"""The same heads as a FLAIR or a PET scan shows them: their T1's tissues, each as bright as it is in such a scan.

Made from T1 heads, since no package ships a whole head in these contrasts: shapes and surroundings are real ones,
brightness is drawn. Real FLAIR has lesions, flow and fat signals beside that.
"""

from __future__ import annotations

from dataclasses import replace

import nibabel as nib
import numpy as np
from jaxtyping import Bool, Float, Float32
from scipy import ndimage

from permmoe.data.cohort.raw.pose import mapped
from permmoe_benchmarks.library.heads import Affine, Head, Scanning, draw_scanning, scanned

Volume = Float32[np.ndarray, "x y z"]

FWHM_TO_SIGMA = 1 / 2.3548
_STEPS = 30
_SAMPLED = 7
"""Every so many voxels tell how bright tissues are."""
_TENTORIUM_MM, _FRONT_OF_CEREBELLUM_MM = -22.0, -40.0
"""Heads lie in the template's millimetres up to some: below and behind these is cerebellum."""


def flair_scanned(head: Head, seed: int) -> tuple[nib.Nifti1Image, Affine]:
    """A FLAIR of the head in the pose of `seed`, and the map from its millimetres to the original head's.

    Fluid is dark, grey matter brighter than white, fat anything from suppressed to brightest. Slices of 3 mm along a
    drawn axis, 1 mm within. Raises ValueError for a head without a brain's mask.
    """
    rng = np.random.default_rng([seed, 40])
    white, fat = rng.uniform(0.65, 0.95), rng.uniform(0.3, 1.2)
    voxels, inside, levels = _parts(head)
    outside = np.interp(voxels, [0, levels[2], 2 * levels[2]], [0, fat, 1.5 * fat])
    brain = np.interp(voxels, [0, *levels, 1.5 * levels[2]], [0.0, 0.12, 1.0, white, white])
    edges = [1.0, 1.0, 1.0]
    edges[int(rng.integers(3))] = 3.0
    shown = np.where(inside, brain, outside).astype(np.float32)
    return _scanned(head, shown, _with_voxels(seed, edges), [seed, 41])


def pet_scanned(head: Head, seed: int) -> tuple[nib.Nifti1Image, Affine]:
    """An amyloid PET of the head, from negative to positive, and the map as of `flair_scanned`.

    Voxels of 2 to 4 mm, blurred by 5 to 8 mm. Raises ValueError for a head without a brain's mask.
    """
    rng = np.random.default_rng([seed, 50])
    cortex, white, skin, fwhm_mm = (rng.uniform(*ends) for ends in ((1.0, 1.8), (1.3, 1.8), (0.2, 0.6), (5.0, 8.0)))
    voxels, inside, levels = _parts(head)
    brain = np.interp(voxels, levels, [0.3, cortex, white])
    is_cerebellum = _below_and_behind(head) & (voxels > levels[:2].mean())
    shown = np.where(inside, np.where(is_cerebellum, 1.0, brain), np.where(voxels > 0.3 * levels[2], skin, 0.05))
    sigma = fwhm_mm * FWHM_TO_SIGMA / np.linalg.norm(head.image.affine[:3, :3], axis=0)
    blurred = ndimage.gaussian_filter(shown.astype(np.float32), sigma, truncate=3.0)
    scanning = replace(_with_voxels(seed, rng.uniform(2, 4, 3).tolist()), bias=0.0)
    return _scanned(head, blurred, scanning, [seed, 51])


def _scanned(head: Head, voxels: Volume, scanning: Scanning, seed: list[int]) -> tuple[nib.Nifti1Image, Affine]:
    shown = replace(head, image=nib.Nifti1Image(voxels, head.image.affine))
    return scanned(shown, scanning, np.random.default_rng(seed)), scanning.to_original


def _with_voxels(seed: int, edges: list[float]) -> Scanning:
    x, y, z = edges
    return replace(draw_scanning(seed), voxel_mm=(x, y, z))


def _parts(head: Head) -> tuple[Volume, Bool[np.ndarray, "x y z"], Float[np.ndarray, " tissue"]]:
    """A T1, where its brain is, and how bright fluid, grey and white matter are in it."""
    if head.brain is None:
        raise ValueError(f"nobody made a brain's mask of {head.name}; take colin27 or mni152")
    voxels = head.image.get_fdata(dtype=np.float32)
    inside = np.asarray(head.brain.dataobj) > 0
    return voxels, inside, _levels(voxels[inside][::_SAMPLED])


def _levels(values: Float32[np.ndarray, " n"]) -> Float[np.ndarray, " tissue"]:
    """The means of three classes of brightness, by Lloyd's algorithm."""
    levels: Float[np.ndarray, " tissue"] = np.quantile(values, (0.1, 0.5, 0.9)).astype(np.float64)
    for _ in range(_STEPS):
        nearest = np.abs(values[:, None] - levels).argmin(axis=1)
        levels = np.array([values[nearest == k].mean() for k in range(len(levels))])
    return levels


def _below_and_behind(head: Head) -> Bool[np.ndarray, "x y z"]:
    places = np.indices(head.image.shape).reshape(3, -1).T.astype(np.float64)
    points = mapped(head.image.affine, places)
    behind = (points[:, 2] < _TENTORIUM_MM) & (points[:, 1] < _FRONT_OF_CEREBELLUM_MM)
    return np.asarray(behind.reshape(head.image.shape))
